"""``turducken bench``: how fast it is, as ratios in one run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from turducken.cli.bench_sanitizer import sanitizer
from turducken.cli.choices import SHOW
from turducken.cli.errors import InputError
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.bench.plot import svg
from turducken.report.bench.records import (
    Earlier,
    Measurement,
    earlier_figures,
    measurements_as_list,
)
from turducken.report.bench.suite import GROUPS as _SUITE
from turducken.report.bench.view import change, heading, row

EXAMPLES = """\
 Examples

   turducken bench                     everything, a few minutes
   turducken bench loops calls         two groups
   turducken bench boot --json -       one group, as JSON
   turducken bench traps --compare old.json
                                       with the change of each figure since --json wrote old.json
   turducken bench policies --plot policies.svg
                                       the shadow policies as a picture

 Ratios compare figures of the same run. A figure of a busy host means nothing; a ratio means less.
 Bochs is measured too where it is installed with xorriso and GRUB's BIOS modules.
"""

_POLICIES = "policies"
GROUPS = {**_SUITE, "sanitizer": sanitizer}

app = typer.Typer(add_completion=False)

Groups = Annotated[
    list[str] | None, typer.Argument(metavar="[GROUP]...", help=f"Of {', '.join(GROUPS)}.")
]
JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=SHOW, help="Write it there.")
]
PlotOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=SHOW, help="Write the policies' time and exits there (SVG)."
    ),
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=SHOW, help="Show the change of each figure in that record."
    ),
]


@app.command("bench", cls=command_with(EXAMPLES + "\n" + exit_statuses()))
def bench(
    groups: Groups = None,
    json: JsonOption = None,
    plot: PlotOption = None,
    compare: CompareOption = None,
) -> None:
    """Measure speed, as ratios in one run."""
    chosen = groups or list(GROUPS)
    for name in chosen:
        if name not in GROUPS:
            raise InputError(f"{name}: no group of benchmarks; there are {', '.join(GROUPS)}")
    if plot is not None and _POLICIES not in chosen:
        raise InputError(f"--plot: it shows the group {_POLICIES}, which is not to be measured")
    earlier = {} if compare is None else _earlier(compare)
    with output_file("--json", json) as file, output_file("--plot", plot) as picture:
        measured = _measure(chosen, earlier, is_shown=STDOUT not in (json, plot))
        if picture is not None:
            picture.write(svg(measured).encode())
        if file is not None:
            record = {"measurements": measurements_as_list(measured)}
            file.write(dump(record).encode())


def _earlier(path: str) -> Earlier:
    try:
        return earlier_figures(Path(path).read_text())
    except OSError as error:
        raise InputError(f"--compare {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"--compare {path}: no record that bench --json wrote") from error


def _measure(groups: list[str], earlier: Earlier, *, is_shown: bool) -> list[Measurement]:
    measured: list[Measurement] = []
    for one in _each(groups):
        if is_shown:
            if not measured or measured[-1].group != one.group:
                print(heading(one.group))
            before = earlier.get((one.group, one.name))
            print(row(one) + ("" if before is None else change(one.value, before)), flush=True)
        measured.append(one)
    return measured


def _each(groups: list[str]) -> Iterator[Measurement]:
    for name in groups:
        yield from GROUPS[name]()
