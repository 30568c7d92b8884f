"""Instructions on the interrupt flag where CR4.VME or CR4.PVI give a program a virtual one.

SDM 3B, "Enhanced Virtual-8086 Mode", "Protected-Mode Virtual Interrupts": below IOPL 3, what would
be #GP(0) works on RFLAGS.VIF. The engine raises the #GP; these are looked at then.
"""

from typing import TYPE_CHECKING

from iced_x86 import Code, Instruction

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, RFLAGS
from turducken.cpu.delivery_8086 import program_flags
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.events import Event, EventKind, exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_VM, _IF, _TF, _VIF, _VIP = (RFLAGS.mask(one) for one in ("VM", "IF", "TF", "VIF", "VIP"))
_RF = RFLAGS.mask("RF")
_VME, _PVI = CR4.mask("VME"), CR4.mask("PVI")
_LOADED = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "TF", "DF", "OF", "NT")
"""What POPF and IRET of 16 bits load below IOPL 3, besides IF into VIF."""


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
        p.raise_event(failed)
    return True


def _cli(p: "Processor", instruction: Instruction) -> Event | None:
    p.state.rflags &= ~_VIF
    p.advance(instruction.len)
    return None


def _sti(p: "Processor", instruction: Instruction) -> Event | None:
    if p.state.rflags & _VIP:
        return exception(Vector.GP, 0)
    p.state.rflags |= _VIF
    p.advance(instruction.len)
    return None


def _pushf(p: "Processor", instruction: Instruction) -> Event | None:
    state = p.state
    pointer = (state.gpr[4] - 2) & 0xFFFF
    word = program_flags(state.rflags) & 0xFFFF
    failed = p.linear.write(_stack(p, pointer), word.to_bytes(2, "little"), user=True)
    if failed is not None:
        p.take_fault(failed)
        return None
    state.gpr[4] = state.gpr[4] & ~0xFFFF | pointer
    p.advance(instruction.len)
    return None


def _popf(p: "Processor", instruction: Instruction) -> Event | None:
    words = _pop(p, 1)
    if words is None:
        return None
    if not _load(p, words[0]):
        return exception(Vector.GP, 0)
    p.state.gpr[4] = p.state.gpr[4] & ~0xFFFF | p.state.gpr[4] + 2 & 0xFFFF
    p.advance(instruction.len)
    return None


def _iret(p: "Processor", _: Instruction) -> Event | None:
    state = p.state
    words = _pop(p, 3)
    if words is None:
        return None
    if not _load(p, words[2]):
        return exception(Vector.GP, 0)
    state.gpr[4] = state.gpr[4] & ~0xFFFF | state.gpr[4] + 6 & 0xFFFF
    code = state.segment(SegmentIndex.CS)
    state.set_segment(SegmentIndex.CS, code._replace(selector=words[1], base=words[1] << 4))
    state.rip = words[0]
    state.update_mode()
    return None


def _int(p: "Processor", instruction: Instruction) -> Event | None:
    length = instruction.len
    return Event(EventKind.SOFTWARE_INTERRUPT, instruction.immediate8, None, length)


def _load(p: "Processor", word: int) -> bool:
    """Load flags that were popped; False for #GP(0)."""
    flags = p.state.rflags
    if word & _TF or (word & _IF and flags & _VIP):
        return False
    loaded = flags & ~(_LOADED | _VIF | _RF) | word & _LOADED
    p.state.rflags = loaded | (_VIF if word & _IF else 0)
    return True


def _stack(p: "Processor", pointer: int) -> int:
    return p.state.segment_base(SegmentIndex.SS) + pointer & 0xFFFF_FFFF


def _pop(p: "Processor", count: int) -> list[int] | None:
    """Read words from the stack, each for itself: SP may wrap; None after a fault."""
    words = []
    for number in range(count):
        pointer = (p.state.gpr[4] + 2 * number) & 0xFFFF
        raw = p.linear.read(_stack(p, pointer), 2, user=True)
        if not isinstance(raw, bytes):
            p.take_fault(raw)
            return None
        words.append(int.from_bytes(raw, "little"))
    return words


_PROTECTED: "dict[int, Callable[[Processor, Instruction], Event | None]]" = {
    Code.CLI: _cli,
    Code.STI: _sti,
}
_IN_8086: "dict[int, Callable[[Processor, Instruction], Event | None]]" = {
    **_PROTECTED,
    Code.PUSHFW: _pushf,
    Code.POPFW: _popf,
    Code.IRETW: _iret,
    Code.INT_IMM8: _int,
}
