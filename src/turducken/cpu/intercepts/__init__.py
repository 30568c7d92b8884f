"""What each trapped instruction does: one handler for each reason that the engine stops at."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.cpu import accesses
from turducken.cpu.intercepts import control, exceptions, io, special, system, tables

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

HANDLERS: dict[int, "Callable[[Processor], None]"] = {
    **accesses.HANDLERS,
    **control.HANDLERS,
    **system.HANDLERS,
    **tables.HANDLERS,
    **io.HANDLERS,
    **special.HANDLERS,
    **exceptions.HANDLERS,
}
"""Handlers by trap number: `turducken.cpu.engine.Trap` and SVM exit codes plus 100h."""
