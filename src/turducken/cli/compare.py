"""``turducken compare``: run an image bare and nested, and show where the two runs part."""

from typing import Annotated

import typer

from turducken.cli import choices, stopping
from turducken.cli.output import output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.difference import comparison_as_dict, comparison_view
from turducken.report.printing import print_plainly
from turducken.system import DEFAULT_IMAGE, Mode
from turducken.system.comparison import compare as compare_runs

EXAMPLES = """\
 Examples

   turducken compare                                the shipped lhv-amd64, all its tests
   turducken compare lhv-i386 --cpus 2 --shadow lazy
   turducken compare my-hypervisor.elf --max-instructions 500000000

 What is compared: the console's lines; how the run ends; and, on each processor, the VM exits that
 the image's own guests make to it, with reason, qualification and RIP. The bare run has the
 processor that our hypervisor shows (it withholds what it does not honour). EPT violations that a
 processor may, but need not, cause (after permissions were added without INVEPT) do not count.
"""

STATUSES = exit_statuses({0: "no difference", 1: "a difference"})

app = typer.Typer(add_completion=False)

JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write it there.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=choices.SHOW, help="Only the status."),
]


@app.command("compare", cls=command_with(EXAMPLES + "\n" + STATUSES))
def compare(
    image: choices.Image = DEFAULT_IMAGE,
    cpus: choices.Cpus = 1,
    memory: choices.Memory = "256M",
    cmdline: choices.Cmdline = "",
    module: choices.Modules = [],  # noqa: B006 - Typer copies it
    profile: choices.ProfileOption = "default",
    tlb: choices.Tlb = "keep",
    shadow: choices.Shadow = "cached",
    seed: choices.Seed = 0,
    until: stopping.Until = None,
    fail_on: stopping.FailOn = None,
    max_instructions: stopping.MaxInstructions = None,
    until_count: stopping.UntilCount = 1,
    until_all: stopping.UntilAll = False,
    success_code: stopping.SuccessCode = "0",
    json: JsonOption = None,
    quiet: Quiet = False,
) -> int:
    """Run an image bare and nested, and show the first difference."""
    chosen = choices.SystemChoices(
        image, Mode.NESTED, cpus, memory, cmdline, tuple(module), profile, tlb, shadow, seed
    )
    stops = stopping.StopChoices(
        until, fail_on, max_instructions, until_count, until_all, success_code
    ).resolve()
    options = chosen.resolve()
    with output_file("--json", json) as file:
        found = compare_runs(options, stops)
        if file is not None:
            file.write(dump(comparison_as_dict(found)).encode())
    if not quiet and json != "-":
        print_plainly(comparison_view(found))
    return 0 if found.is_same else 1
