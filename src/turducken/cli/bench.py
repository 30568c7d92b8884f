"""``turducken bench``: how fast it is, as ratios in one run."""

from collections.abc import Iterator
from typing import Annotated

import typer

from turducken.cli.choices import SHOW
from turducken.cli.errors import InputError
from turducken.cli.running import STDOUT, output_file
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.bench.records import Measurement, measurements_as_list
from turducken.report.bench.suite import GROUPS
from turducken.report.bench.view import heading, row

EXAMPLES = """\
 Examples

   turducken bench                     everything, a few minutes
   turducken bench loops calls         two groups
   turducken bench boot --json -       one group, as JSON

 Ratios compare figures of the same run. A figure of a busy host means nothing; a ratio means less.
 Bochs is measured too where it is installed with xorriso and GRUB's BIOS modules.
"""

app = typer.Typer(add_completion=False)

Groups = Annotated[
    list[str] | None, typer.Argument(metavar="[GROUP]...", help=f"Of {', '.join(GROUPS)}.")
]
JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=SHOW, help="Write it there.")
]


@app.command("bench", cls=command_with(EXAMPLES))
def bench(groups: Groups = None, json: JsonOption = None) -> None:
    """Measure speed, as ratios in one run."""
    chosen = groups or list(GROUPS)
    for name in chosen:
        if name not in GROUPS:
            raise InputError(f"{name}: no group of benchmarks; there are {', '.join(GROUPS)}")
    with output_file("--json", json) as file:
        measured = _measure(chosen, is_shown=json != STDOUT)
        if file is not None:
            record = {"measurements": measurements_as_list(measured)}
            file.write(dump(record).encode())


def _measure(groups: list[str], *, is_shown: bool) -> list[Measurement]:
    measured: list[Measurement] = []
    for one in _each(groups):
        if is_shown:
            if not measured or measured[-1].group != one.group:
                print(heading(one.group))
            print(row(one), flush=True)
        measured.append(one)
    return measured


def _each(groups: list[str]) -> Iterator[Measurement]:
    for name in groups:
        yield from GROUPS[name]()
