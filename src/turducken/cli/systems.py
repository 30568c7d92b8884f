"""``turducken systems``: other people's systems that run here, listed and tried."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from turducken.cli.errors import InputError
from turducken.cli.output import output_file
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.printing import make_terminal, print_plainly
from turducken.report.words import short_number
from turducken.systems import KNOWN, KnownSystem, Missing, Trial, try_system

EXAMPLES = """\
 Examples

   turducken systems                                 which there are, and what is missing of each
   turducken systems --try                           all that is installed, one after the other
   turducken systems --try linux kvm --modes bare --processors 1,2
   turducken systems --try --json results.json

 docs/systems.md has what came of it, and what stands in the way of others.

 Exit status: 0 all that was tried came to its end, 1 one did not, 2 bad usage
"""

app = typer.Typer(add_completion=False)

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Which systems; none: all.", show_default=False),
]
TryOption = Annotated[bool, typer.Option("--try", help="Run what is installed.")]
RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Where packages are installed or unpacked.")
]
ModesOption = Annotated[str, typer.Option(metavar="LIST", help="Of bare and nested.")]
ProcessorsOption = Annotated[
    str, typer.Option(metavar="LIST", help="Numbers of processors to try; none: the system's.")
]
JsonOption = Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the results there.")]


@app.command("systems", cls=command_with(EXAMPLES))
def systems(
    names: NamesArgument = None,
    trying: TryOption = False,
    root: RootOption = Path("/"),
    modes: ModesOption = "bare,nested",
    processors: ProcessorsOption = "",
    json: JsonOption = None,
) -> int:
    """Other people's systems that run here."""
    chosen = _chosen(names or [])
    if not trying:
        print_plainly(_listing(chosen, root))
        return 0
    wanted_modes = _modes(modes)
    counts = _counts(processors)
    with output_file("--json", json) as file:
        trials: list[Trial] = []
        for one in chosen:
            trials += _try(one, root, wanted_modes, counts)
        if file is not None:
            told = [{key: getattr(one, key) for key in one.__slots__} for one in trials]
            file.write(dump({"trials": told}).encode())
    print_plainly(_results(trials))
    return 0 if all(one.passed for one in trials) else 1


def _chosen(names: list[str]) -> list[KnownSystem]:
    known = {one.name: one for one in KNOWN}
    for name in names:
        if name not in known:
            raise InputError(f"{name}: not one of {', '.join(known)}")
    return [known[one] for one in names] or list(KNOWN)


def _modes(text: str) -> list[str]:
    modes = text.split(",")
    if any(one not in ("bare", "nested") for one in modes):
        raise InputError(f"--modes {text}: bare, nested, or both with a comma between them")
    return modes


def _counts(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",") if one]
    except ValueError:
        raise InputError(f"--processors {text}: numbers with commas between them") from None


def _try(system: KnownSystem, root: Path, modes: list[str], counts: list[int]) -> list[Trial]:
    trials: list[Trial] = []
    terminal = make_terminal()
    for mode in (one for one in system.modes if one in modes):
        for cpus in counts or system.cpus:
            try:
                trial = try_system(system, root, mode, cpus)
            except Missing as missing:
                terminal.print(f"{system.name}: not installed: {missing}", highlight=False)
                return trials
            terminal.print(_line(trial), highlight=False)
            trials.append(trial)
    return trials


def _line(trial: Trial) -> str:
    verdict = "ok" if trial.passed else f"status {trial.status} after: {trial.last_line}"
    return (
        f"{trial.system}, {trial.mode}, {trial.cpus} processors: {verdict}; "
        f"{short_number(trial.instructions)} instructions, {trial.cpu_seconds:.0f} s"
    )


def _listing(chosen: list[KnownSystem], root: Path) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("system", "what it is", "here", "arguments of turducken"):
        table.add_column(name)
    for one in chosen:
        try:
            one.command(root, "bare", 1)
            here = "yes"
        except Missing as missing:
            here = str(missing)
        table.add_row(one.name, one.what, here, " ".join(one.arguments))
    return table


def _results(trials: list[Trial]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("system", "mode", "processors", "instructions", "guest s", "CPU s"):
        table.add_column(name, justify="left" if name in ("system", "mode") else "right")
    table.add_column("came to its end")
    for one in trials:
        verdict = "yes" if one.passed else f"no: {one.last_line}"
        sizes = (short_number(one.instructions), f"{one.guest_seconds:.1f}")
        cells = (str(one.cpus), *sizes, f"{one.cpu_seconds:.0f}", verdict)
        table.add_row(one.system, one.mode, *cells)
    return table
