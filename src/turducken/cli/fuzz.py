"""``turducken fuzz``: hostile guests by the thousand against our hypervisor."""

from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from turducken.cli import choices
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.fuzz import DEFAULT_LIMIT, Finding, TrialOptions, run_sequence, run_trial
from turducken.report.as_json import dump
from turducken.system import SetupError

EXAMPLES = """\
 Examples

   turducken fuzz                                     100 trials from seed 0
   turducken fuzz --seed 5000 --iterations 2000       others
   turducken fuzz --shadow writeprotect --cpus 2      with these fixed; the seed chooses the rest
   turducken fuzz --seed 481 --iterations 1           one trial again
   turducken fuzz --against bare --iterations 1000    instructions of L1 and L2, bare and nested

 A trial runs a few of lhv's tests nested and puts noise into what L1 owns: VMCS12s, EPT12s, roots,
 bitmaps, MSR lists, operands of VMX instructions. Our hypervisor must not fail, handle anything for
 ever, or let a guest read or write its memory. Trial K of --seed N is trial 0 of --seed N+K.

 With --against bare a trial is a program: some dozens of pieces of code, each with registers, and
 in L2 with changed fields of the VMCS. Every outcome (registers, exceptions, VM exits, memory) must
 be the same bare and under our hypervisor. What differs is made as small as may be.
"""

STATUSES = exit_statuses({0: "nothing found", 1: "findings"})

app = typer.Typer(add_completion=False)


class AgainstWhat(Enum):
    """What sequences are compared with."""

    BARE = "bare"


FirstSeed = Annotated[int, typer.Option(metavar="N", min=0, help="The first trial's seed.")]
Iterations = Annotated[int, typer.Option(metavar="N", min=1, help="How many trials.")]
Instructions = Annotated[
    int, typer.Option(metavar="N", min=1, help="Instructions of each trial at most.")
]
Shadow = Annotated[str | None, typer.Option(metavar="POLICY", help="Default: chosen by the seed.")]
Tlb = Annotated[str | None, typer.Option(metavar="POLICY", help="Default: chosen by the seed.")]
Against = Annotated[
    AgainstWhat | None,
    typer.Option(metavar="bare", help="Compare instruction sequences, bare and nested."),
]
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
    against: Against = None,
    shadow: Shadow = None,
    tlb: Tlb = None,
    cpus: Cpus = None,
    max_instructions: Instructions = DEFAULT_LIMIT,
    json: JsonOption = None,
) -> int:
    """Let hostile guests try to break our hypervisor."""
    options = TrialOptions(shadow, tlb, cpus, max_instructions)
    options.check()
    if against is not None and (cpus or 1) > 1:
        raise SetupError("--against: a sequence runs on one processor")
    run = run_trial if against is None else run_sequence
    found: list[dict[str, Any]] = []
    with output_file("--json", json) as file:
        for number in range(seed, seed + iterations):
            finding = run(number, options)
            if finding is not None:
                record = _record(number, options, finding, against)
                found.append(record)
                if json != STDOUT:
                    print(_line(record), flush=True)
        if file is not None:
            file.write(dump({"seed": seed, "iterations": iterations, "findings": found}).encode())
    if json != STDOUT:
        print(f"{iterations} trials, {len(found)} findings")
    return 1 if found else 0


def _record(
    seed: int, options: TrialOptions, finding: Finding, against: AgainstWhat | None
) -> dict[str, Any]:
    return {"seed": seed, **asdict(finding), "command": _command(seed, options, against)}


def _command(seed: int, options: TrialOptions, against: AgainstWhat | None) -> str:
    """Return the command that runs one trial again."""
    words = ["turducken", "fuzz", "--seed", str(seed), "--iterations", "1"]
    if against is not None:
        words += ["--against", against.value]
    fixed = {"--shadow": options.shadow, "--tlb": options.tlb, "--cpus": options.cpus}
    for option, value in fixed.items():
        if value is not None:
            words += [option, str(value)]
    if options.limit != DEFAULT_LIMIT:
        words += ["--max-instructions", str(options.limit)]
    return " ".join(words)


def _line(record: dict[str, Any]) -> str:
    return f"{record['kind']}: {record['detail']}\n   {record['command']}"
