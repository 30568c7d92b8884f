"""The options that say what a system is made of, shared by the commands that make one."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, cast

import typer

from turducken.address import PAGE_SIZE
from turducken.apps import BUILT_IN, AppRequest, parse_request
from turducken.cli.errors import InputError
from turducken.hypervisor import POLICIES as SHADOW_POLICIES
from turducken.hypervisor import ShadowPolicyName
from turducken.machine.boot import Module, load_module
from turducken.mmu.policy import POLICIES
from turducken.symbols import read_symbols
from turducken.system import (
    DEFAULT_IMAGE,
    DEFAULT_MODE,
    Mode,
    SystemOptions,
    find_image,
    parse_size,
    shipped_images,
)
from turducken.system.options import NOTED_ADDRESSES
from turducken.vmx.profile import list_profiles, load_profile

_PHYSICAL_END = 1 << 52
_MACHINE, SHOW = "The machine", "What to show"

Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help=f"A shipped image ({', '.join(shipped_images())}) or the path of a Multiboot image "
        "(gzip too), of a Linux kernel (vmlinuz, vmlinux, or any ELF file with a PVH entry), or "
        "of a UEFI application. None with --firmware, which boots from disks.",
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        rich_help_panel=_MACHINE,
        help="nested: under our hypervisor. bare: directly on the machine.",
    ),
]
Cpus = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_MACHINE, help="Processors, 1 to 255.")
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="SIZE", rich_help_panel=_MACHINE, help="What the image gets, as 512M or 4G."
    ),
]
Cmdline = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        rich_help_panel=_MACHINE,
        help="The command line (of a Multiboot image: after its name).",
    ),
]
Modules = Annotated[
    list[str],
    typer.Option(
        "--module",
        metavar="FILE[:TEXT]",
        rich_help_panel=_MACHINE,
        help="A Multiboot module and its text. Repeatable.",
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        rich_help_panel=_MACHINE,
        help=f"What processor it is: {', '.join(list_profiles())}, or a TOML file.",
    ),
]
Tlb = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        rich_help_panel=_MACHINE,
        help=f"How long translations stay cached: {', '.join(POLICIES)}.",
    ),
]
Shadow = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        rich_help_panel=_MACHINE,
        help=f"How our hypervisor keeps EPT02: {', '.join(SHADOW_POLICIES)}.",
    ),
]
Apps = Annotated[
    list[str],
    typer.Option(
        "--app",
        metavar="NAME[:OPTIONS]",
        rich_help_panel=_MACHINE,
        help=f"An application on our hypervisor: {', '.join(BUILT_IN)}, or the path of a Python "
        "file; OPTIONS as key=value,... Repeatable.",
    ),
]
Watch = Annotated[
    list[str],
    typer.Option(
        "--watch",
        metavar="ADDRESS",
        rich_help_panel=SHOW,
        help="An L2-physical address (hexadecimal) whose way through EPT12, EPT01 and EPT02 (bare: "
        "the EPT in force) the summary shows, up to the entry that stops it. Repeatable.",
    ),
]


class Explain(Enum):
    """How much is told of failures."""

    NONE = "none"
    FATAL = "fatal"
    ALL = "all"


ExplainOption = Annotated[
    Explain,
    typer.Option(
        "--explain",
        rich_help_panel=SHOW,
        help="Say why VMX instructions, VM entries and the run failed: which rule of the manual, "
        "which fields, what would have passed. fatal: what ended the run, and a line for each of "
        "the others; all: every failure in full; none: nothing.",
    ),
]
VmcsOption = Annotated[
    bool,
    typer.Option(
        "--vmcs",
        rich_help_panel=SHOW,
        help="Print every field of the current VMCS at the end of the run, decoded "
        "(also in --json).",
    ),
]
SymbolFiles = Annotated[
    list[str],
    typer.Option(
        "--symbols",
        metavar="FILE[@ADDRESS]",
        rich_help_panel=SHOW,
        help="Further names and source lines, of L1's or L2's code: an ELF file or a System.map; "
        "ADDRESS (hexadecimal): where its first address is, if not where it was linked. "
        "Repeatable.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=_MACHINE,
        help="Another schedule of the processors, and other choices of --tlb random. 0: in turn.",
    ),
]
Sanitize = Annotated[
    str | None,
    typer.Option(
        "--sanitize",
        metavar="[report|strict]",
        rich_help_panel=SHOW,
        help="Report every use of a translation that should have been invalidated, and who left "
        "that out; --sanitize=strict: status 1 where there is one.",
    ),
]


@dataclass(frozen=True, slots=True)
class SystemChoices:
    """The options as the user wrote them."""

    image: str = DEFAULT_IMAGE
    mode: Mode = DEFAULT_MODE
    cpus: int = 1
    memory: str = "256M"
    cmdline: str = ""
    modules: tuple[str, ...] = ()
    profile: str = "default"
    tlb: str = "keep"
    shadow: str = "cached"
    seed: int = 0
    watch: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def resolve(self) -> SystemOptions:
        """Read the files; raise what `turducken.cli.errors.is_users` knows."""
        options = SystemOptions(
            image=find_image(self.image, self.cmdline),
            mode=self.mode,
            cpus=self.cpus,
            memory=parse_size(self.memory),
            text=self.cmdline,
            modules=[read_module(one) for one in self.modules],
            profile=load_profile(self.profile),
            tlb=self.tlb,
            shadow=cast(ShadowPolicyName, self.shadow),  # checked below
            seed=self.seed,
            watch=[_address(one) for one in self.watch] or NOTED_ADDRESSES,
            apps=_read_apps(self.apps),
            symbols=[read_symbols(one) for one in self.symbols],
        )
        options.check()
        return options


def _read_apps(texts: Sequence[str]) -> list[AppRequest]:
    names = [one.partition(":")[0] for one in texts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--app {name}: given more than once")
    return [parse_request(one) for one in texts]


def check_sanitize(value: str) -> None:
    """Raise InputError unless this is how `--sanitize` may be used."""
    if value not in ("report", "strict"):
        raise InputError(f"--sanitize={value}: one of report, strict")


def _address(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        raise InputError(f"--watch {text!r}: not a hexadecimal number") from None
    if not 0 <= number < _PHYSICAL_END:
        raise InputError(f"--watch {text}: physical addresses are from 0 to {_PHYSICAL_END - 1:x}")
    return number & -PAGE_SIZE


def read_module(argument: str) -> Module:
    """Return the module that ``FILE[:TEXT]`` names; FILE may have colons if there is no TEXT."""
    name, text = argument, ""
    if ":" in argument and not _exists(argument):
        name, text = argument.split(":", 1)
    return load_module(name, text)


def _exists(name: str) -> bool:
    """Tell whether there is such a file; what is too long for a name is none."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
