"""``turducken fuzz``: hostile guests by the thousand against our hypervisor."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from turducken.cli import choices
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.fuzz import DEFAULT_LIMIT, Finding, TrialOptions, run_trial
from turducken.report.as_json import dump

EXAMPLES = """\
 Examples

   turducken fuzz                                     100 trials from seed 0
   turducken fuzz --seed 5000 --iterations 2000       others
   turducken fuzz --shadow writeprotect --cpus 2      with these fixed; the seed chooses the rest
   turducken fuzz --seed 481 --iterations 1           one trial again

 A trial runs a few of lhv's tests nested and puts noise into what L1 owns: VMCS12s, EPT12s, roots,
 bitmaps, MSR lists, operands of VMX instructions. Our hypervisor must not fail, handle anything for
 ever, or let a guest read or write its memory. Trial K of --seed N is trial 0 of --seed N+K.
"""

STATUSES = exit_statuses({0: "nothing found", 1: "findings"})

app = typer.Typer(add_completion=False)

FirstSeed = Annotated[int, typer.Option(metavar="N", min=0, help="The first trial's seed.")]
Iterations = Annotated[int, typer.Option(metavar="N", min=1, help="How many trials.")]
Instructions = Annotated[
    int, typer.Option(metavar="N", min=1, help="Instructions of each trial at most.")
]
Shadow = Annotated[str | None, typer.Option(metavar="POLICY", help="Default: chosen by the seed.")]
Tlb = Annotated[str | None, typer.Option(metavar="POLICY", help="Default: chosen by the seed.")]
Cpus = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=8, help="Default: chosen by the seed.")
]
JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write it there.")
]


@app.command("fuzz", cls=command_with(EXAMPLES + "\n" + STATUSES))
def fuzz(
    seed: FirstSeed = 0,
    iterations: Iterations = 100,
    shadow: Shadow = None,
    tlb: Tlb = None,
    cpus: Cpus = None,
    max_instructions: Instructions = DEFAULT_LIMIT,
    json: JsonOption = None,
) -> int:
    """Let hostile guests try to break our hypervisor."""
    options = TrialOptions(shadow, tlb, cpus, max_instructions)
    options.check()
    found: list[dict[str, Any]] = []
    with output_file("--json", json) as file:
        for number in range(seed, seed + iterations):
            finding = run_trial(number, options)
            if finding is not None:
                record = _record(number, options, finding)
                found.append(record)
                if json != STDOUT:
                    print(_line(record), flush=True)
        if file is not None:
            file.write(dump({"seed": seed, "iterations": iterations, "findings": found}).encode())
    if json != STDOUT:
        print(f"{iterations} trials, {len(found)} findings")
    return 1 if found else 0


def _record(seed: int, options: TrialOptions, finding: Finding) -> dict[str, Any]:
    return {"seed": seed, **asdict(finding), "command": _command(seed, options)}


def _command(seed: int, options: TrialOptions) -> str:
    """Return the command that runs one trial again."""
    words = ["turducken", "fuzz", "--seed", str(seed), "--iterations", "1"]
    fixed = {"--shadow": options.shadow, "--tlb": options.tlb, "--cpus": options.cpus}
    for option, value in fixed.items():
        if value is not None:
            words += [option, str(value)]
    if options.limit != DEFAULT_LIMIT:
        words += ["--max-instructions", str(options.limit)]
    return " ".join(words)


def _line(record: dict[str, Any]) -> str:
    return f"{record['kind']}: {record['detail']}\n   {record['command']}"
