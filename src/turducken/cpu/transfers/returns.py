"""Far RET and IRET, in every mode.

SDM 2B, "RET - Return From Procedure"; SDM 2A, "IRET/IRETD/IRETQ - Interrupt Return": the
pseudocode, step by step. Nothing has changed where a step faults.
"""

from typing import TYPE_CHECKING

from iced_x86 import Code, Instruction

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR4, RFLAGS
from turducken.arch.segments import Descriptor, SegmentIndex
from turducken.cpu.descriptors import mark_accessed, read_descriptor
from turducken.cpu.engine import State
from turducken.cpu.events import Event, exception
from turducken.cpu.operands import read_stack, set_stack_pointer, stack_mask
from turducken.cpu.transfers import steps
from turducken.cpu.transfers.steps import Refusal, fault
from turducken.cpu.virtual_interrupt_flag import load_program_flags
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_CS, _SS = SegmentIndex.CS, SegmentIndex.SS
_IOPL = RFLAGS["IOPL"]
_VME = CR4.mask("VME")
_IF, _VM, _NT, _RF = (RFLAGS.mask(one) for one in ("IF", "VM", "NT", "RF"))
_ALWAYS = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "TF", "DF", "OF", "NT")
_WIDE, _VIRTUAL = RFLAGS.mask("RF", "AC", "ID"), RFLAGS.mask("VIF", "VIP")
_RESERVED = RFLAGS.reserved_mask & 0xFFFF
_REAL_WIDE = 0x25_7FD5
"""The bits of EFLAGS that a 32-bit IRET takes from the stack in real-address mode."""

_SIZES = {
    Code.RETFW: 2,
    Code.RETFW_IMM16: 2,
    Code.RETFD: 4,
    Code.RETFD_IMM16: 4,
    Code.RETFQ: 8,
    Code.RETFQ_IMM16: 8,
    Code.IRETW: 2,
    Code.IRETD: 4,
    Code.IRETQ: 8,
}
_WITH_PARAMETERS = frozenset({Code.RETFW_IMM16, Code.RETFD_IMM16, Code.RETFQ_IMM16})
_TO_8086 = (SegmentIndex.ES, SegmentIndex.DS, SegmentIndex.FS, SegmentIndex.GS)


def far_return(p: "Processor", instruction: Instruction) -> Refusal:
    """RETF."""
    size = _SIZES[instruction.code]
    extra = instruction.immediate16 if instruction.code in _WITH_PARAMETERS else 0
    state = p.state
    flags = state.rflags
    words = read_stack(p, 0, size, 2)
    if not isinstance(words, list):
        return words
    offset, selector = words[0], words[1] & 0xFFFF
    if steps.is_real_or_8086(state):
        if offset > min(state.segment(_CS).limit, 0xFFFF_FFFF):
            return exception(Vector.GP, 0)
        _release(state, 2 * size + extra)
        steps.go_8086(p, selector, offset)
    else:
        code = _return_code(p, selector)
        if not isinstance(code, Descriptor):
            return code
        level = selector & 3
        if level > state.cpl:
            outer = read_stack(p, 2 * size + extra, size, 2)
            if not isinstance(outer, list):
                return outer
            refusal = _to_stack(p, code, (selector, offset), outer, extra)
        else:
            refusal = steps.check_target(state, code, offset) or mark_accessed(p.linear, code)
            if refusal is None:
                _release(state, 2 * size + extra)
                steps.go(p, code, selector, offset, level)
        if refusal is not None:
            return refusal
    steps.clear_resume(p)
    steps.complete(p, flags)
    return None


def interrupt_return(p: "Processor", instruction: Instruction) -> Refusal:
    """IRET, but for the return to another task (RFLAGS.NT)."""
    size = _SIZES[instruction.code]
    state = p.state
    flags = state.rflags
    if steps.is_real_or_8086(state):
        refusal = _from_real_or_8086(p, size)
    elif steps.is_long(state):
        refusal = exception(Vector.GP, 0) if flags & _NT else _from_long(p, size)
    else:
        refusal = _from_protected(p, size)
    if refusal is not None:
        return refusal
    steps.complete(p, flags)
    return None


def _release(state: State, count: int) -> None:
    set_stack_pointer(state, state.gpr[4] + count, stack_mask(state))


def _return_code(p: "Processor", selector: int) -> Descriptor | Event | Fault:
    """Read and check the code segment to return to."""
    code = read_descriptor(p.state, p.linear, selector, Vector.GP)
    if not isinstance(code, Descriptor):
        return code
    level = selector & 3
    if not code.is_code or level < p.state.cpl:
        return fault(Vector.GP, selector)
    if code.dpl > level if code.is_conforming else code.dpl != level:
        return fault(Vector.GP, selector)
    if steps.is_long(p.state) and code.is_long and code.is_default_32:
        return fault(Vector.GP, selector)
    if not code.is_present:
        return fault(Vector.NP, selector)
    return code


def _to_stack(
    p: "Processor",
    code: Descriptor,
    target: tuple[int, int],
    stack: list[int],
    extra: int = 0,
) -> Refusal:
    """Return to ``target`` (selector and offset) with another ``stack`` (pointer and selector)."""
    state = p.state
    selector, offset = target
    level, was = selector & 3, state.cpl
    found = _return_stack(p, code, stack[1] & 0xFFFF, level)
    if not isinstance(found, Descriptor | None):
        return found
    refusal = steps.check_target(state, code, offset) or mark_accessed(p.linear, code)
    if refusal is None and found is not None:
        refusal = mark_accessed(p.linear, found)
    if refusal is not None:
        return refusal
    segment = steps.null_stack(level) if found is None else found.segment(stack[1] & 0xFFFF)
    state.set_segment(_SS, segment)
    steps.go(p, code, selector, offset, level)
    set_stack_pointer(state, stack[0] + extra, stack_mask(state))
    if level > was:
        steps.drop_inner_segments(p, level)
    return None


def _return_stack(
    p: "Processor", code: Descriptor, selector: int, level: int
) -> Descriptor | Event | Fault | None:
    """Read and check the stack segment to return to; None: the null selector, where it may be."""
    if selector & 0xFFFC == 0 and steps.is_long(p.state) and code.is_long and level != 3:
        return None if selector == level else fault(Vector.GP, selector)
    return steps.check_stack(p, selector, level, Vector.GP)


def _from_real_or_8086(p: "Processor", size: int) -> Refusal:
    state = p.state
    flags = state.rflags
    is_8086 = bool(flags & _VM)
    is_virtual = is_8086 and _IOPL.get(flags) < 3
    if is_virtual and not (state.cr4 & _VME and size == 2):
        return exception(Vector.GP, 0)
    words = read_stack(p, 0, size, 3)
    if not isinstance(words, list):
        return words
    offset, selector, image = words
    if offset > state.segment(_CS).limit:
        return exception(Vector.GP, 0)
    mask = 0xFFFF if size == 2 else _REAL_WIDE
    if is_8086:
        mask &= ~_IOPL.mask
    loaded = flags & ~mask | image & mask & ~_RESERVED
    if is_virtual:
        own = load_program_flags(flags, image)
        if own is None:
            return exception(Vector.GP, 0)
        loaded = own
    _release(state, 3 * size)
    steps.go_8086(p, selector, offset)
    state.rflags = loaded
    return None


def _loaded_flags(state: State, image: int, size: int) -> int:
    """Return RFLAGS as IRET leaves it: what the privilege level allows to change."""
    flags = state.rflags
    mask = _ALWAYS | (_WIDE if size > 2 else 0)
    if state.cpl <= _IOPL.get(flags):
        mask |= _IF
    if state.cpl == 0:
        mask |= _IOPL.mask | (_VIRTUAL if size > 2 else 0)
    return flags & ~mask | image & mask


def _from_protected(p: "Processor", size: int) -> Refusal:
    state = p.state
    words = read_stack(p, 0, size, 3)
    if not isinstance(words, list):
        return words
    offset, selector, image = words[0], words[1] & 0xFFFF, words[2]
    if image & _VM and state.cpl == 0:
        return _to_8086(p, offset, selector, image)
    code = _return_code(p, selector)
    if not isinstance(code, Descriptor):
        return code
    flags = _loaded_flags(state, image, size)
    if selector & 3 > state.cpl:
        outer = read_stack(p, 3 * size, size, 2)
        if not isinstance(outer, list):
            return outer
        refusal = _to_stack(p, code, (selector, offset), outer)
    else:
        refusal = steps.check_target(state, code, offset) or mark_accessed(p.linear, code)
        if refusal is None:
            _release(state, 3 * size)
            steps.go(p, code, selector, offset, selector & 3)
    if refusal is None:
        state.rflags = flags
    return refusal


def _to_8086(p: "Processor", offset: int, selector: int, image: int) -> Refusal:
    """IRET at CPL 0 to virtual-8086 mode: six more words."""
    state = p.state
    words = read_stack(p, 12, 4, 6)
    if not isinstance(words, list):
        return words
    if offset > 0xFFFF:
        return exception(Vector.GP, 0)
    state.rflags = image & (_ALWAYS | _WIDE | _VIRTUAL | _VM | _IF | _IOPL.mask)
    state.set_segment(_CS, steps.segment_8086(selector))
    state.set_segment(_SS, steps.segment_8086(words[1]))
    for index, value in zip(_TO_8086, words[2:], strict=True):
        state.set_segment(index, steps.segment_8086(value))
    state.gpr[4], state.rip = words[0], offset
    state.update_mode(3)
    return None


def _from_long(p: "Processor", size: int) -> Refusal:
    """IRET in IA-32e mode: in 64-bit mode the stack is always popped too."""
    state = p.state
    count = 5 if state.is_64bit else 3
    words = read_stack(p, 0, size, count)
    if not isinstance(words, list):
        return words
    offset, selector, image = words[0], words[1] & 0xFFFF, words[2]
    code = _return_code(p, selector)
    if not isinstance(code, Descriptor):
        return code
    flags = _loaded_flags(state, image, size)
    if count == 3 and selector & 3 > state.cpl:
        outer = read_stack(p, 3 * size, size, 2)
        if not isinstance(outer, list):
            return outer
        words += outer
    if len(words) > 3:
        refusal = _to_stack(p, code, (selector, offset), words[3:])
    else:
        refusal = steps.check_target(state, code, offset) or mark_accessed(p.linear, code)
        if refusal is None:
            _release(state, 3 * size)
            steps.go(p, code, selector, offset, selector & 3)
    if refusal is None:
        state.rflags = flags
    return refusal
