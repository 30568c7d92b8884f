"""What far transfers have in common: checks of the target, and going there."""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.arch.segments import UNUSABLE, Descriptor, Segment, SegmentIndex
from turducken.cpu.descriptors import read_descriptor
from turducken.cpu.engine import State
from turducken.cpu.events import Event, exception
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

Refusal = Event | Fault | None

_PE, _LMA = CR0.mask("PE"), EFER.mask("LMA")
_VM, _TF, _RF = RFLAGS.mask("VM"), RFLAGS.mask("TF"), RFLAGS.mask("RF")
_BS = 1 << 14
_DATA_SEGMENTS = (SegmentIndex.ES, SegmentIndex.DS, SegmentIndex.FS, SegmentIndex.GS)
_CODE, _CONFORMING, _CODE_OR_DATA = 8, 4, 0x10
_8086_RIGHTS = 0xF3


def is_real_or_8086(state: State) -> bool:
    """Tell whether selectors are segment bases divided by 16."""
    return not state.cr0 & _PE or bool(state.rflags & _VM)


def is_long(state: State) -> bool:
    """Tell whether IA-32e mode is active."""
    return bool(state.efer & _LMA)


def fault(vector: int, selector: int) -> Event:
    """Return an exception whose error code names a descriptor."""
    return exception(vector, selector & 0xFFFC)


def segment_8086(selector: int) -> Segment:
    """Return a segment register of virtual-8086 mode."""
    return Segment(selector & 0xFFFF, (selector & 0xFFFF) << 4, 0xFFFF, _8086_RIGHTS)


def check_target(state: State, code: Descriptor, offset: int) -> Event | None:
    """Check an instruction pointer against the code segment that it is in."""
    if is_long(state) and code.is_long:
        return None if state.is_canonical(offset) else exception(Vector.GP, 0)
    return exception(Vector.GP, 0) if offset > code.limit else None


def check_stack(
    p: "Processor", selector: int, level: int, vector: int, external: int = 0
) -> Descriptor | Event | Fault:
    """Read and check a stack segment's descriptor for privilege ``level``."""
    found = read_descriptor(p.state, p.linear, selector, vector, external)
    if not isinstance(found, Descriptor):
        return found
    code = selector & 0xFFFC | external
    if selector & 3 != level or found.dpl != level or not found.is_writable_data:
        return exception(vector, code)
    if not found.is_present:
        return exception(Vector.SS, code)
    return found


def go_8086(p: "Processor", selector: int, offset: int) -> None:
    """Go on in real or virtual-8086 mode."""
    state = p.state
    code = state.segment(SegmentIndex.CS)
    base = (selector & 0xFFFF) << 4
    state.set_segment(SegmentIndex.CS, code._replace(selector=selector & 0xFFFF, base=base))
    state.rip = offset
    state.update_mode()


def go(p: "Processor", code: Descriptor, selector: int, offset: int, level: int) -> None:
    """Go on in ``code`` at privilege ``level``, which its selector's RPL says then."""
    state = p.state
    state.set_segment(SegmentIndex.CS, code.segment(selector & 0xFFFC | level))
    state.rip = offset
    state.update_mode(level)


def null_stack(level: int) -> Segment:
    """Return SS as the null selector leaves it in 64-bit mode."""
    return Segment(level, 0, 0, UNUSABLE | level << 5)


def drop_inner_segments(p: "Processor", level: int) -> None:
    """Make data segments unusable that ``level`` may not use: for returns to an outer level.

    Base and limit stay: only a selector of FS or GS and its validity are lost, not the base.
    """
    state = p.state
    for index in _DATA_SEGMENTS:
        segment = state.segment(index)
        access = segment.access
        is_bound = access & (_CODE | _CONFORMING) != _CODE | _CONFORMING
        if segment.is_usable and access & _CODE_OR_DATA and is_bound and access >> 5 & 3 < level:
            state.set_segment(index, segment._replace(selector=0, access=UNUSABLE))


def complete(p: "Processor", flags: int) -> None:
    """End an instruction that began with RFLAGS ``flags``: interrupt shadow, single step."""
    state = p.state
    state.in_shadow = False
    if flags & _TF:
        p.pending.debug |= _BS
        p.attention = True
    elif state.rflags & p.awaited_flags:
        p.attention = True


def clear_resume(p: "Processor") -> None:
    """Clear RFLAGS.RF, as the completion of any instruction but IRET does."""
    if p.state.rflags & _RF:
        p.state.rflags &= ~_RF
