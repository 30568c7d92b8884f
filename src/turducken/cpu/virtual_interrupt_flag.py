"""Instructions on the interrupt flag where CR4.VME or CR4.PVI give a program a virtual one.

SDM 3B, "Enhanced Virtual-8086 Mode", "Protected-Mode Virtual Interrupts": below IOPL 3, what would
be #GP(0) works on RFLAGS.VIF. The engine raises the #GP; these are looked at then.
"""

from typing import TYPE_CHECKING

from iced_x86 import Code, Instruction

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, RFLAGS
from turducken.cpu.delivery_8086 import program_flags
from turducken.cpu.events import Event, EventKind, exception
from turducken.cpu.operands import push, read_stack, set_stack_pointer, stack_mask
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

Refusal = Event | Fault | None
_VM, _IF, _TF, _VIF, _VIP = (RFLAGS.mask(one) for one in ("VM", "IF", "TF", "VIF", "VIP"))
_RF = RFLAGS.mask("RF")
_VME, _PVI = CR4.mask("VME"), CR4.mask("PVI")
_LOADED = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "TF", "DF", "OF", "NT")
"""What POPF and IRET of 16 bits load below IOPL 3, besides IF into VIF."""


def load_program_flags(flags: int, word: int) -> int | None:
    """Return RFLAGS after POPF or IRET of 16 bits; None where that is #GP(0)."""
    if word & _TF or (word & _IF and flags & _VIP):
        return None
    return flags & ~(_LOADED | _VIF | _RF) | word & _LOADED | (_VIF if word & _IF else 0)


def execute(p: "Processor", instruction: Instruction) -> bool:
    """Execute an instruction that was refused for the IOPL; False where that was right."""
    state = p.state
    is_8086 = bool(state.rflags & _VM)
    enabled = state.cr4 & (_VME if is_8086 else _PVI)
    operation = (_IN_8086 if is_8086 else _PROTECTED).get(instruction.code)
    if not enabled or operation is None or state.cpl != 3:
        return False
    failed = operation(p, instruction)
    if failed is not None:
        p.refuse(failed)
    return True


def _cli(p: "Processor", instruction: Instruction) -> Refusal:
    p.state.rflags &= ~_VIF
    p.advance(instruction.len)
    return None


def _sti(p: "Processor", instruction: Instruction) -> Refusal:
    if p.state.rflags & _VIP:
        return exception(Vector.GP, 0)
    p.state.rflags |= _VIF
    p.advance(instruction.len)
    return None


def _pushf(p: "Processor", instruction: Instruction) -> Refusal:
    failed = push(p, 2, program_flags(p.state.rflags) & 0xFFFF)
    if failed is None:
        p.advance(instruction.len)
    return failed


def _popf(p: "Processor", instruction: Instruction) -> Refusal:
    state = p.state
    words = read_stack(p, 0, 2, 1)
    if not isinstance(words, list):
        return words
    flags = load_program_flags(state.rflags, words[0])
    if flags is None:
        return exception(Vector.GP, 0)
    state.rflags = flags
    set_stack_pointer(state, state.gpr[4] + 2, stack_mask(state))
    p.advance(instruction.len)
    return None


def _int(p: "Processor", instruction: Instruction) -> Refusal:
    length = instruction.len
    return Event(EventKind.SOFTWARE_INTERRUPT, instruction.immediate8, None, length)


_PROTECTED: "dict[int, Callable[[Processor, Instruction], Refusal]]" = {
    Code.CLI: _cli,
    Code.STI: _sti,
}
_IN_8086: "dict[int, Callable[[Processor, Instruction], Refusal]]" = {
    **_PROTECTED,
    Code.PUSHFW: _pushf,
    Code.POPFW: _popf,
    Code.INT_IMM8: _int,
}
