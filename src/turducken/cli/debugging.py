"""``--gdb``: a stub for gdb."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from turducken.cli import choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.system import System

Gdb = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT|unix:PATH",
        rich_help_panel=choices.SHOW,
        help="Wait for gdb there, and let it debug L1 and its guests (docs/gdb.md). "
        "Without HOST only this computer can connect.",
    ),
]


class Architecture(Enum):
    """What gdb is told that the processors are."""

    AUTO = "auto"
    I386 = "i386"
    X86_64 = "x86-64"


Arch = Annotated[
    Architecture,
    typer.Option(
        "--gdb-arch",
        rich_help_panel=choices.SHOW,
        help="The registers that gdb is told of (auto: i386 for a 32-bit ELF file whose code does "
        "not run in 64-bit mode yet). gdb's own 'set architecture' has to fit.",
    ),
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--gdb-no-wait",
        rich_help_panel=choices.SHOW,
        help="Run at once; the machine stops when gdb connects.",
    ),
]


@contextmanager
def debugged(
    system: "System",
    where: str | None,
    *,
    waits: bool,
    architecture: Architecture,
    tell: "Callable[[str], None]",
) -> Iterator[None]:
    """Let gdb watch the run inside, if ``where`` says that it may."""
    if where is None:
        yield
        return
    from turducken.gdb.stub.server import Address, Server

    wide = {Architecture.I386: False, Architecture.X86_64: True}.get(architecture)
    server = Server(system, Address.parse(where), tell, waits=waits, wide=wide)
    try:
        yield
    finally:
        server.finish(system.result())
