"""``turducken demo``: what this is all about, shown in one run."""

from collections.abc import Callable
from typing import Annotated

import typer

from turducken.apps.trustvisor.app import Sharing
from turducken.check import Sanitizer
from turducken.cli import choices, demo_kvm
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.report.as_json import dump
from turducken.report.printing import print_plainly
from turducken.system import System

app = typer.Typer(
    name="demo",
    help="Demonstrations: what this is all about, shown in one run.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
)

SHOOTDOWN_EXAMPLES = """\
 Examples

   turducken demo shootdown                     the hole in TrustVisor, and what hides it
   turducken demo shootdown --json -            the same as JSON
   turducken run pal-demo-amd64 --cpus 2 --app trustvisor:shootdown=off --cmdline tests=shootdown
                                                one of the runs by itself
"""

SHOOTDOWN_STATUSES = exit_statuses(
    {0: "the hole showed where it must and nowhere else", 1: "it did not"}
)

JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write it there.")
]
SharingOption = Annotated[
    Sharing,
    typer.Option(help="Whether the processors have one EPT01, or roots of their own."),
]


@app.callback()
def demo() -> None:
    """Show what this is all about."""


def _sanitized(system: System) -> Callable[[], int]:
    """Let the sanitizer follow; the function tells how many invalidations it misses."""
    sanitizer = Sanitizer(system.machine, system.hypervisor)
    return lambda: sum(one.kind == "missing" for one in sanitizer.findings)


@app.command("shootdown", cls=command_with(SHOOTDOWN_EXAMPLES + "\n" + SHOOTDOWN_STATUSES))
def shootdown(
    sharing: SharingOption = Sharing.ONE, seed: choices.Seed = 0, json: JsonOption = None
) -> int:
    """Show TrustVisor's missing TLB shootdown: who sees it, and who hides it."""
    from turducken.report.shootdown import is_as_told, sightings_as_list, story, table, watch

    with output_file("--json", json) as file:
        if json != STDOUT:
            print_plainly(story())
        found = list(watch(_sanitized, sharing=sharing.value, seed=seed))
        if file is not None:
            record = {"as_told": is_as_told(found, sharing.value), "runs": sightings_as_list(found)}
            file.write(dump(record).encode())
    if json != STDOUT:
        print_plainly(table(found, sharing.value))
    return 0 if is_as_told(found, sharing.value) else 1


demo_kvm.mount(app)
