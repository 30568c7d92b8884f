"""Memory operands of instructions that we execute: every check that the processor makes of one.

Segment type and limit, or canonical form; then the page, as an explicit access at the current
privilege level (SDM 3A, "Limit Checking", "Type Checking", "Access Rights"). What an instruction
reads or writes besides (descriptors, TSS) are implicit accesses: `turducken.cpu.linear`.
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, RFLAGS
from turducken.arch.segments import SegmentIndex
from turducken.cpu.decoder import MemoryOperand, linear_address
from turducken.cpu.engine import State
from turducken.cpu.events import Event, exception
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PE = CR0.mask("PE")
_AC, _VM = RFLAGS.mask("AC"), RFLAGS.mask("VM")


def check(state: State, segment: int, offset: int, size: int, *, write: bool) -> int | Event:
    """Return the linear address of an operand, or the exception that its segment causes."""
    linear = linear_address(state, segment, offset)
    if state.is_64bit:
        good = state.is_canonical(linear) and state.is_canonical(linear + size - 1)
    else:
        register = state.segment(segment)
        has_types = state.cr0 & _PE and not state.rflags & _VM
        good = register.holds(offset, size)
        good = good and (not has_types or register.allows(write=write))
    if good:
        return linear
    return exception(Vector.SS if segment == SegmentIndex.SS else Vector.GP, 0)


def read(p: "Processor", segment: int, offset: int, size: int) -> bytes | Event | Fault:
    """Read an operand."""
    state = p.state
    linear = check(state, segment, offset, size, write=False)
    if not isinstance(linear, int):
        return linear
    return p.linear.read(linear, size, user=state.cpl == 3, ac=bool(state.rflags & _AC))


def check_write(p: "Processor", segment: int, offset: int, size: int) -> Event | Fault | None:
    """Return what `write` would fail with."""
    state = p.state
    linear = check(state, segment, offset, size, write=True)
    if not isinstance(linear, int):
        return linear
    return p.linear.write_check(linear, size, user=state.cpl == 3, ac=bool(state.rflags & _AC))


def write(p: "Processor", segment: int, offset: int, data: bytes) -> Event | Fault | None:
    """Write an operand; nothing is written where it faults."""
    state = p.state
    linear = check(state, segment, offset, len(data), write=True)
    if not isinstance(linear, int):
        return linear
    return p.linear.write(linear, data, user=state.cpl == 3, ac=bool(state.rflags & _AC))


def read_operand(p: "Processor", operand: MemoryOperand, size: int) -> int | None:
    """Read an instruction's memory operand; None where that caused an exception or VM exit."""
    raw = read(p, operand.segment, operand.offset, size)
    if isinstance(raw, bytes):
        return int.from_bytes(raw, "little")
    p.refuse(raw)
    return None


def write_operand(p: "Processor", operand: MemoryOperand, size: int, value: int) -> bool:
    """Write an instruction's memory operand; False where that caused an exception or VM exit."""
    failed = write(p, operand.segment, operand.offset, value.to_bytes(size, "little"))
    if failed is None:
        return True
    p.refuse(failed)
    return False


# The stack


def stack_mask(state: State) -> int:
    """Return the bits of RSP that the stack pointer has: SDM 3A, "Stack Segments" (the B flag)."""
    if state.is_64bit:
        return 0xFFFF_FFFF_FFFF_FFFF
    return 0xFFFF_FFFF if state.segment(SegmentIndex.SS).access >> 14 & 1 else 0xFFFF


def set_stack_pointer(state: State, pointer: int, mask: int) -> None:
    """Set as much of RSP as ``mask`` says: SP leaves the rest alone, ESP clears it."""
    kept = state.gpr[4] & ~mask & 0xFFFF_FFFF_FFFF_FFFF if mask == 0xFFFF else 0
    state.gpr[4] = kept | pointer & mask


def read_stack(p: "Processor", skip: int, size: int, count: int) -> list[int] | Event | Fault:
    """Read ``count`` words of ``size`` bytes, the first at RSP + ``skip``; RSP stays."""
    state = p.state
    mask = stack_mask(state)
    first = (state.gpr[4] + skip) & mask
    if first + size * count - 1 <= mask:
        raw = read(p, SegmentIndex.SS, first, size * count)
        if not isinstance(raw, bytes):
            return raw
        return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]
    words = []
    for number in range(count):
        # Each by itself: the pointer may wrap between two of them.
        raw = read(p, SegmentIndex.SS, (first + size * number) & mask, size)
        if not isinstance(raw, bytes):
            return raw
        words.append(int.from_bytes(raw, "little"))
    return words


def push(p: "Processor", size: int, *values: int) -> Event | Fault | None:
    """Push words, the first first; where one faults, none has been pushed."""
    state = p.state
    mask = stack_mask(state)
    pointer = (state.gpr[4] - size * len(values)) & mask
    cut = (1 << 8 * size) - 1
    if pointer + size * len(values) - 1 <= mask:
        data = b"".join((one & cut).to_bytes(size, "little") for one in reversed(values))
        failed = write(p, SegmentIndex.SS, pointer, data)
        if failed is not None:
            return failed
    else:
        for number, value in enumerate(values, 1):
            place = (state.gpr[4] - size * number) & mask
            failed = write(p, SegmentIndex.SS, place, (value & cut).to_bytes(size, "little"))
            if failed is not None:
                return failed
    set_stack_pointer(state, pointer, mask)
    return None
