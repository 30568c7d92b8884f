"""``turducken pt``: look at page tables and EPTs in dumps and stopped machines.

``python -m turducken.cli.pt`` is the same on its own. Every command opens a source and prints
either tables for people or, with ``--json``, the records that docs/pt.md describes.
"""

import typer

from turducken.cli.teaching import group_with

_LATER = {
    "walk": "turducken.cli.pt.looking",
    "dump": "turducken.cli.pt.looking",
    "read": "turducken.cli.pt.looking",
    "find": "turducken.cli.pt.looking",
    "decode": "turducken.cli.pt.decoding",
    "diff": "turducken.cli.pt.verdicts",
    "check": "turducken.cli.pt.verdicts",
    "compose": "turducken.cli.pt.writing",
    "export": "turducken.cli.pt.writing",
    "render": "turducken.cli.pt.writing",
}

app = typer.Typer(
    cls=group_with("", _LATER),
    help="Look at page tables and EPTs, in dumps and stopped machines.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def pt() -> None:
    """Look at page tables and EPTs, in dumps and stopped machines."""
