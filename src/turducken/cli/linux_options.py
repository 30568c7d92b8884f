"""The options for Linux guests: initial RAM disks, a shared folder, a command to run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from turducken.cli.errors import InputError
from turducken.machine.boot import BootImage, Module
from turducken.machine.firmware.rom import RomImage
from turducken.system import SystemOptions
from turducken.system.linux import Userland, read_initrd, read_kernel_module

LINUX = "A Linux kernel"

Initrds = Annotated[
    list[str],
    typer.Option(
        "--initrd",
        metavar="FILE|busybox",
        rich_help_panel=LINUX,
        help="An initial RAM disk; busybox: one with the static busybox of this computer, and "
        "likewise the path of any static busybox. Repeatable.",
    ),
]
Share = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=LINUX,
        help="A folder whose files (as they are now) the guest finds in /share.",
    ),
]
Command = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="CMD",
        rich_help_panel=LINUX,
        help="Run this as the first process's only command (by /bin/sh where the initrd has it), "
        "and end the run with its status.",
    ),
]
KernelModules = Annotated[
    list[str],
    typer.Option(
        "--insmod",
        metavar="'FILE [PARAMETERS]'",
        rich_help_panel=LINUX,
        help="A kernel module to load before the command of --run. Repeatable.",
    ),
]

CONSOLE = "console=ttyS0"
_NAMES_CONSOLE = re.compile(r"(^|\s)(console|earlyprintk)=")


@dataclass(frozen=True, slots=True)
class LinuxChoices:
    """The options as the user wrote them."""

    initrds: Sequence[str] = ()
    share: str | None = None
    command: str | None = None
    modules: Sequence[str] = ()

    def apply(self, options: SystemOptions) -> SystemOptions:
        """Return the options with what is asked for here; raise what the user is to be told.

        Of a Multiboot image (Xen) with a kernel as its module, the initrd is one module more.
        """
        if isinstance(options.image, RomImage):
            self._refuse("firmware boots from --disk or --cdrom")
            return options
        userland = Userland(
            [read_initrd(one) for one in self.initrds],
            None if self.share is None else Path(self.share),
            [read_kernel_module(one) for one in self.modules],
            self.command,
        )
        initrd = userland.build()
        if not isinstance(options.image, BootImage):
            return replace(options, initrd=initrd, text=with_console(options.text))
        if initrd is None:
            return options
        if not options.modules:
            self._refuse("a Multiboot image that boots one takes it as --module")
        return replace(options, modules=[*options.modules, Module("initrd", initrd)])

    def _refuse(self, instead: str) -> None:
        given = {
            "--initrd": self.initrds,
            "--share": self.share,
            "--run": self.command,
            "--insmod": self.modules,
        }
        for name, value in given.items():
            if value:
                raise InputError(f"{name}: for Linux kernels; {instead}")


def with_console(text: str) -> str:
    """Return a kernel's command line, with the serial console where it names no console."""
    if _NAMES_CONSOLE.search(text):
        return text
    return f"{text} {CONSOLE}".strip()
