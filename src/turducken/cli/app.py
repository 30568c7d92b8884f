"""The commands, put together."""

from typing import Annotated

import typer

from turducken import __version__
from turducken.cli.teaching import group_with

EXAMPLES = """\
 Examples

   turducken run                          the shipped guest hypervisor, tested from inside
   turducken run lhv-i386-pae --cpus 2    another of the shipped images, two processors
   turducken run my-hypervisor.elf --cmdline "console=com1" --until "all tests passed"
   turducken compare lhv-amd64            bare and nested: is there a difference?
   turducken fuzz --iterations 100        hostile guests: does our hypervisor stand?
   turducken pt walk DUMP 0x1234000 --via ept12=0x8bb4000
                                          every entry on an address's way
   turducken vmcs DUMP                    a VMCS, every field with its meaning
   turducken zoo run invept-type-0        a mistake that broke hypervisors, and its cure
   turducken demo shootdown               a security hole that other emulators hide
   turducken demo kvm                     Linux's own hypervisor as the guest hypervisor
   turducken systems                      other people's systems that run here
   turducken images                       what is shipped
   turducken COMMAND --help               the options of a command, and more examples
"""

LATER = {
    "run": "turducken.cli.run",
    "compare": "turducken.cli.compare",
    "pt": "turducken.cli.pt",
    "vmcs": "turducken.cli.vmcs",
    "zoo": "turducken.cli.zoo",
    "demo": "turducken.cli.demo",
    "fuzz": "turducken.cli.fuzz",
    "systems": "turducken.cli.systems",
    "bench": "turducken.cli.bench",
    "images": "turducken.cli.listing",
    "profiles": "turducken.cli.listing",
}

app = typer.Typer(
    name="turducken",
    cls=group_with(EXAMPLES, LATER),
    help="A guest inside a guest hypervisor inside a hypervisor, on an emulated Intel VMX machine.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"turducken {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Say which."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        context.get_help()
