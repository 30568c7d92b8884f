"""``turducken compare``: run an image bare and nested, and show where the two runs part."""

from typing import Annotated

import typer

from turducken.cli import choices, linux_options, stopping
from turducken.cli.output import output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.difference import comparison_as_dict, comparison_view
from turducken.report.printing import print_plainly
from turducken.system import DEFAULT_IMAGE, Mode
from turducken.system.comparison import Tolerance
from turducken.system.comparison import compare as compare_runs

EXAMPLES = """\
 Examples

   turducken compare                                the shipped lhv-amd64, all its tests
   turducken compare lhv-i386 --cpus 2 --shadow lazy
   turducken compare my-hypervisor.elf --max-instructions 500000000
   turducken compare vmlinuz --memory 512M --initrd busybox --run 'uname -a' --console-only \\
       --unordered --ignore '^\\[ *[0-9.]+\\] ' --ignore '[0-9]+[KM]?'

 What is compared: the console's lines; how the run ends; and, on each processor, the VM exits that
 the image's own guests make to it, with reason, qualification and RIP. The bare run has the
 processor that our hypervisor shows (it withholds what it does not honour). EPT violations that a
 processor may, but need not, cause (after permissions were added without INVEPT) do not count.
"""

STATUSES = exit_statuses({0: "no difference", 1: "a difference"})

app = typer.Typer(add_completion=False)

_TOLERATED = "What is no difference"

JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write it there.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=choices.SHOW, help="Only the status."),
]
Ignore = Annotated[
    list[str],
    typer.Option(
        metavar="REGEX",
        rich_help_panel=_TOLERATED,
        help="A part of lines, such as a time stamp. Repeatable.",
    ),
]
Unordered = Annotated[
    bool,
    typer.Option(
        "--unordered", rich_help_panel=_TOLERATED, help="The order of the console's lines."
    ),
]
ConsoleOnly = Annotated[
    bool,
    typer.Option(
        "--console-only", rich_help_panel=_TOLERATED, help="The VM exits of the image's guests."
    ),
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
    ignore: Ignore = [],  # noqa: B006 - Typer copies it
    unordered: Unordered = False,
    console_only: ConsoleOnly = False,
    initrd: linux_options.Initrds = [],  # noqa: B006 - Typer copies it
    share: linux_options.Share = None,
    run_command: linux_options.Command = None,
    insmod: linux_options.KernelModules = [],  # noqa: B006 - Typer copies it
) -> int:
    """Run an image bare and nested, and show the first difference."""
    chosen = choices.SystemChoices(
        image, Mode.NESTED, cpus, memory, cmdline, tuple(module), profile, tlb, shadow, seed
    )
    stops = stopping.StopChoices(
        until, fail_on, max_instructions, until_count, until_all, success_code
    ).resolve()
    options = linux_options.LinuxChoices(initrd, share, run_command, insmod).apply(chosen.resolve())
    patterns = [stopping.pattern("--ignore", one) for one in ignore]
    tolerance = Tolerance([one for one in patterns if one is not None], unordered, console_only)
    with output_file("--json", json) as file:
        found = compare_runs(options, stops, tolerance)
        if file is not None:
            file.write(dump(comparison_as_dict(found)).encode())
    if not quiet and json != "-":
        print_plainly(comparison_view(found))
    return 0 if found.is_same else 1
