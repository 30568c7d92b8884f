"""Traps that are handled without leaving the engine: its interrupt hook.

What a handler here does is exactly what the long way does (`turducken.cpu.intercepts`), for the
plain cases; it leaves all others to that. So a run is the same without it, only slower.
"""

from collections.abc import Callable

from turducken.cpu.engine import library
from turducken.cpu.engine.budget import BudgetData
from turducken.cpu.engine.field_access import access_field
from turducken.cpu.engine.grants import GrantData
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.interrupt_return import return_from_interrupt
from turducken.cpu.engine.registers import Registers
from turducken.cpu.engine.trap_data import TrapData, is_plain
from turducken.native import U32, U64

_UNDEFINED, _IRET = 0x146, 0x174
"""The intercepts of #UD and IRET."""


@HOT.exported
def handle_trap(engine: U64, number: U32, data: TrapData) -> None:
    """Execute what stopped the engine, or stop it for good."""
    if data.is_allowed and data.budget.left > 0 and is_plain(data.registers):
        if number == _UNDEFINED and access_field(data):
            return
        if data.is_unseen and number == _IRET and return_from_interrupt(data):
            return
    data.on_trap(engine, number, data.address)


class Traps:
    """One engine's. ``hook`` and ``data`` are for it to register."""

    def __init__(
        self,
        registers: int,
        budget: BudgetData,
        grants: GrantData,
        on_trap: Callable[[int, int, int], None],
        *,
        native: bool,
    ) -> None:
        self.words = words = TrapData()
        words.registers, words.budget, words.grants = Registers.at(registers), budget, grants
        words.on_trap = library.INTERRUPT_HOOK(on_trap)
        if native:
            self.hook = HOT.hook(handle_trap, native=True)
        else:
            self.hook = words.on_trap
        self.data = words.address

    def know_ram(self, place: int, size: int) -> None:
        """Learn where RAM from host-physical 0 on is in this process."""
        self.words.ram, self.words.ram_size = place, size

    def allow(self) -> None:
        """Begin a run: traps may be handled here."""
        self.words.is_allowed = 1

    def forbid(self) -> None:
        """Let none be handled until `allow`: something may be due before the next instruction."""
        self.words.is_allowed = 0
