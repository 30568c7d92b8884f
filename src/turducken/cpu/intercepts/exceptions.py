"""Exceptions that the engine met, software interrupts, and instructions that only we know."""

from typing import TYPE_CHECKING

from iced_x86 import Mnemonic

from turducken.arch.exceptions import HAS_ERROR_CODE, Vector
from turducken.arch.registers import CR4
from turducken.cpu import branch_stepping, virtual_interrupt_flag
from turducken.cpu.decoder import Code
from turducken.cpu.engine import Trap
from turducken.cpu.events import Event, EventKind, exception
from turducken.cpu.intercepts import control, system, system_calls, vmx
from turducken.cpu.last_block import last_branch

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_INVPCID = frozenset({Code.INVPCID_R32_M128, Code.INVPCID_R64_M128})
_MOV_DR = (Code.MOV_DR_R32, Code.MOV_DR_R64, Code.MOV_R32_DR, Code.MOV_R64_DR)
_EXITS_FIRST: "dict[int, Callable[[Processor], None]]" = {
    **dict.fromkeys(_MOV_DR, control.on_debug_register),
    **dict.fromkeys((Code.MONITORW, Code.MONITORD, Code.MONITORQ), system.on_monitor),
    Code.MWAIT: system.on_mwait,
}
_BS = 1 << 14
_VIRTUAL_INTERRUPTS = CR4.mask("VME", "PVI")
_ALL = 0xFFFF_FFFF_FFFF_FFFF


def on_exception(p: "Processor", vector: int) -> None:
    """Raise an exception that the engine met executing the instruction at RIP."""
    code = p.state.error_code if vector in HAS_ERROR_CODE else None
    p.raise_event(exception(vector, code))


def on_single_step(p: "Processor") -> None:
    """The trap behind an instruction that RFLAGS.TF asks for: the boundary delivers it."""
    if branch_stepping.is_on(p) and not branch_stepping.has_branched(p):
        return
    p.pending.debug |= _BS
    p.attention = True


def on_device_not_available(p: "Processor") -> None:
    """#NM in the engine: it takes the opcodes of INVEPT, INVVPID and INVPCID for SSE's."""
    instruction = p.instruction()
    if instruction is None:
        return
    if instruction.code in vmx.OPERATIONS or instruction.code in _INVPCID:
        on_undefined(p)
    else:
        on_exception(p, Vector.NM)


def on_general_protection(p: "Processor") -> None:
    """#GP in the engine, unless a VM exit comes first.

    MOV DR checks it before the privilege level, MONITOR and MWAIT before ECX: SDM 3C, "Relative
    Priority of Faults and VM Exits".
    """
    if p.guest is not None:
        instruction = p.instruction()
        if instruction is None:
            return
        handler = _EXITS_FIRST.get(instruction.code)
        if handler is not None:
            handler(p)
            return
    if p.state.cr4 & _VIRTUAL_INTERRUPTS:
        instruction = p.instruction()
        if instruction is None or virtual_interrupt_flag.execute(p, instruction):
            return
    on_exception(p, Vector.GP)


def on_undefined(p: "Processor") -> None:
    """#UD in the engine: an instruction that is ours, or really undefined."""
    instruction = p.instruction()
    if instruction is None:
        return
    code = instruction.code
    operation = vmx.OPERATIONS.get(code)
    if operation is not None:
        operation(p, instruction)
    elif code in _INVPCID and p.profile.features.invpcid:
        system.invpcid(p, instruction)
    elif code in system_calls.OPERATIONS:
        system_calls.OPERATIONS[code](p, instruction)
    else:
        p.raise_exception(Vector.UD)


def on_software_interrupt(p: "Processor", vector: int) -> None:
    """INT n, INT3 or INTO: the engine stands behind the instruction."""
    state = p.state
    instruction = last_branch(p)
    length, kind = 2, EventKind.SOFTWARE_INTERRUPT
    if instruction is not None:
        length = instruction.len
        if instruction.mnemonic in (Mnemonic.INT3, Mnemonic.INTO):
            kind = EventKind.SOFTWARE_EXCEPTION
    # It may have wrapped.
    state.rip = (state.rip - length) & (_ALL if state.is_64bit else 0xFFFF_FFFF)
    p.raise_event(Event(kind, vector, None, length))


def on_icebp(p: "Processor") -> None:
    """INT1 (F1): a privileged software exception."""
    p.raise_event(Event(EventKind.PRIVILEGED_SOFTWARE, Vector.DB, None, 1))


def on_shutdown(p: "Processor") -> None:
    """A shutdown that the engine came to by itself cannot happen: all delivery is ours."""
    p.triple_fault([])


def _exception_handler(vector: int) -> "Callable[[Processor], None]":
    return lambda p: on_exception(p, vector)


def _interrupt_handler(vector: int) -> "Callable[[Processor], None]":
    return lambda p: on_software_interrupt(p, vector)


HANDLERS: "dict[int, Callable[[Processor], None]]" = {
    **{0x140 + n: _exception_handler(n) for n in range(32)},
    0x140 + Vector.DB: on_single_step,
    0x140 + Vector.UD: on_undefined,
    0x140 + Vector.NM: on_device_not_available,
    0x140 + Vector.GP: on_general_protection,
    **{Trap.SOFTWARE_INTERRUPT + n: _interrupt_handler(n) for n in range(256)},
    0x17F: on_shutdown,
    0x188: on_icebp,
    # AMD's virtualization instructions do not exist on this processor.
    **{0x180 + n: on_undefined for n in range(7)},
    0x17A: on_undefined,
    0x173: on_undefined,
}
