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

EXAMPLES = """\
 Examples

   turducken run lhv-amd64 --snapshot end.core           makes a source to look at
   turducken pt walk end.core 0x1234000 --via cpu0.ept12,cpu0.ept01
                                                         every entry on an address's way
   turducken pt dump end.core --via cpu0.ept02           what a table maps
   turducken pt check end.core --ept01 cpu0.ept01 --ept12 cpu0.ept12 --ept02 cpu0.ept02
   turducken pt decode 0x1234037 --as ept.pte            one value, field by field

 Each command's own --help has its options and exit statuses.
"""

app = typer.Typer(
    cls=group_with(EXAMPLES, _LATER),
    help="Look at page tables and EPTs, in dumps and stopped machines.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def pt() -> None:
    """Look at page tables and EPTs, in dumps and stopped machines."""
