"""Far JMP and CALL, directly and through call gates, in every mode.

SDM 2A, "JMP - Jump" and "CALL - Call Procedure"; SDM 3A, "Accessing a Code Segment Through a Call
Gate" and "Stack Switching". Nothing has changed where a step faults, but for memory below the new
stack pointer.
"""

from typing import TYPE_CHECKING, NamedTuple

from iced_x86 import Code, Instruction, OpKind

from turducken.arch.exceptions import Vector
from turducken.arch.segments import Descriptor, Segment, SegmentIndex, SystemType
from turducken.arch.tasks import TaskSwitchSource
from turducken.cpu import operands
from turducken.cpu.decoder import effective_address
from turducken.cpu.descriptors import mark_accessed, place_of, read_descriptor
from turducken.cpu.events import Event, exception
from turducken.cpu.transfers import steps, tasks
from turducken.cpu.transfers.steps import Refusal, fault
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_CS, _SS = SegmentIndex.CS, SegmentIndex.SS
_CALLS = frozenset(
    {Code.CALL_PTR1616, Code.CALL_PTR1632, Code.CALL_M1616, Code.CALL_M1632, Code.CALL_M1664}
)
_SIZES = {
    Code.CALL_PTR1616: 2,
    Code.CALL_PTR1632: 4,
    Code.CALL_M1616: 2,
    Code.CALL_M1632: 4,
    Code.CALL_M1664: 8,
    Code.JMP_PTR1616: 2,
    Code.JMP_PTR1632: 4,
    Code.JMP_M1616: 2,
    Code.JMP_M1632: 4,
    Code.JMP_M1664: 8,
}
_GATE_WIDTHS = {SystemType.CALL_GATE16: 2, SystemType.CALL_GATE: 4}
_TASKS = frozenset({SystemType.TSS16, SystemType.BUSY_TSS16, SystemType.TSS, SystemType.BUSY_TSS})


class _Transfer(NamedTuple):
    """What an instruction asks for: CALL or JMP, width of its operands, its own length."""

    is_call: bool
    size: int
    length: int


class _Pointer(NamedTuple):
    """A far pointer."""

    selector: int
    offset: int


class _Stack(NamedTuple):
    """A stack of an inner level: SS, its descriptor (None: the null selector), the pointer."""

    segment: Segment
    descriptor: Descriptor | None
    pointer: int


class _Gate(NamedTuple):
    """A call gate: the target, the width of a stack slot, how many parameters are copied."""

    selector: int
    offset: int
    size: int
    parameters: int


def far_transfer(p: "Processor", instruction: Instruction) -> Refusal:
    """Execute far JMP or CALL."""
    size = _SIZES[instruction.code]
    transfer = _Transfer(instruction.code in _CALLS, size, instruction.len)
    pointer = _pointer(p, instruction, size)
    if not isinstance(pointer, _Pointer):
        return pointer
    selector, offset = pointer
    if steps.is_real_or_8086(p.state):
        return _real(p, transfer, selector, offset)
    return _protected(p, transfer, selector, offset)


def _pointer(p: "Processor", instruction: Instruction, size: int) -> _Pointer | Event | Fault:
    """Return selector and offset."""
    if instruction.op0_kind in (OpKind.FAR_BRANCH16, OpKind.FAR_BRANCH32):
        wide = instruction.op0_kind == OpKind.FAR_BRANCH32
        offset = instruction.far_branch32 if wide else instruction.far_branch16
        return _Pointer(instruction.far_branch_selector, offset)
    operand = effective_address(p.state, instruction, p.state.rip)
    raw = operands.read(p, operand.segment, operand.offset, size + 2)
    if not isinstance(raw, bytes):
        return raw
    return _Pointer(int.from_bytes(raw[size:], "little"), int.from_bytes(raw[:size], "little"))


def _real(p: "Processor", transfer: _Transfer, selector: int, offset: int) -> Refusal:
    state = p.state
    code = state.segment(_CS)
    if offset > min(code.limit, 0xFFFF):
        return exception(Vector.GP, 0)
    if transfer.is_call:
        failed = operands.push(p, transfer.size, code.selector, state.rip + transfer.length)
        if failed is not None:
            return failed
    steps.go_8086(p, selector, offset)
    _complete(p)
    return None


def _complete(p: "Processor") -> None:
    steps.complete(p, p.state.rflags)
    steps.clear_resume(p)


def _protected(p: "Processor", transfer: _Transfer, selector: int, offset: int) -> Refusal:
    found = read_descriptor(p.state, p.linear, selector, Vector.GP)
    if not isinstance(found, Descriptor):
        return found
    if found.is_code:
        return _to_code(p, transfer, found, selector, offset)
    if not found.is_system:
        return fault(Vector.GP, selector)
    kind = found.segment_type
    long = steps.is_long(p.state)
    if kind == SystemType.CALL_GATE or (kind == SystemType.CALL_GATE16 and not long):
        return _through_gate(p, transfer, found, selector)
    if (kind == SystemType.TASK_GATE or kind in _TASKS) and not long:
        return _to_task(p, transfer, found, selector)
    return fault(Vector.GP, selector)


def _to_code(
    p: "Processor", transfer: _Transfer, code: Descriptor, selector: int, offset: int
) -> Refusal:
    state = p.state
    level = state.cpl
    if code.is_conforming:
        allowed = code.dpl <= level
    else:
        allowed = code.dpl == level and selector & 3 <= level
    if not allowed or (steps.is_long(state) and code.is_long and code.is_default_32):
        return fault(Vector.GP, selector)
    if not code.is_present:
        return fault(Vector.NP, selector)
    refusal: Refusal = steps.check_target(state, code, offset) or mark_accessed(p.linear, code)
    if refusal is None and transfer.is_call:
        back = state.segment(_CS).selector, state.rip + transfer.length
        refusal = operands.push(p, transfer.size, *back)
    if refusal is not None:
        return refusal
    steps.go(p, code, selector, offset, level)
    _complete(p)
    return None


def _through_gate(p: "Processor", transfer: _Transfer, found: Descriptor, selector: int) -> Refusal:
    state = p.state
    if found.dpl < max(state.cpl, selector & 3):
        return fault(Vector.GP, selector)
    gate = _read_gate(p, found, selector)
    if not isinstance(gate, _Gate):
        return gate
    if not found.is_present:
        return fault(Vector.NP, selector)
    code = read_descriptor(state, p.linear, gate.selector, Vector.GP)
    if not isinstance(code, Descriptor):
        return code
    level = state.cpl
    allowed = code.is_code and code.dpl <= level
    if not transfer.is_call and not code.is_conforming:
        allowed = allowed and code.dpl == level
    if not allowed or (steps.is_long(state) and (not code.is_long or code.is_default_32)):
        return fault(Vector.GP, gate.selector)
    if not code.is_present:
        return fault(Vector.NP, gate.selector)
    refusal: Refusal = steps.check_target(state, code, gate.offset)
    if refusal is not None:
        return refusal
    if transfer.is_call and not code.is_conforming and code.dpl < level:
        return _call_inner(p, transfer, gate, code)
    refusal = mark_accessed(p.linear, code)
    if refusal is None and transfer.is_call:
        back = state.segment(_CS).selector, state.rip + transfer.length
        refusal = operands.push(p, gate.size, *back)
    if refusal is not None:
        return refusal
    steps.go(p, code, gate.selector, gate.offset, level)
    _complete(p)
    return None


def _read_gate(p: "Processor", found: Descriptor, selector: int) -> _Gate | Event | Fault:
    """Return a call gate's content; in IA-32e mode it has 16 bytes.

    SDM 3A, "IA-32e Mode Call Gates": type bits of the upper half must be 0.
    """
    offset = found.raw & 0xFFFF | found.raw >> 32 & 0xFFFF_0000
    if not steps.is_long(p.state):
        size = _GATE_WIDTHS[SystemType(found.segment_type)]
        offset &= 0xFFFF if size == 2 else 0xFFFF_FFFF
        return _Gate(found.target, offset, size, found.raw >> 32 & 0x1F)
    if place_of(p.state, selector, 16) is None:
        return fault(Vector.GP, selector)
    raw = p.linear.read(found.linear + 8, 8)
    if not isinstance(raw, bytes):
        return raw
    upper = int.from_bytes(raw, "little")
    if upper >> 40 & 0x1F:
        return fault(Vector.GP, selector)
    return _Gate(found.target, offset | (upper & 0xFFFF_FFFF) << 32, 8, 0)


def _call_inner(p: "Processor", transfer: _Transfer, gate: _Gate, code: Descriptor) -> Refusal:
    """CALL to more privilege: on the stack that the TSS names."""
    state = p.state
    level, size = code.dpl, gate.size
    stack = inner_stack(p, level)
    if not isinstance(stack, _Stack):
        return stack
    segment, found, pointer = stack
    parameters = operands.read_stack(p, 0, size, gate.parameters)
    if not isinstance(parameters, list):
        return parameters
    old = state.segment(_SS).selector, state.gpr[4]
    words = [
        state.rip + transfer.length,
        state.segment(_CS).selector,
        *parameters,
        old[1],
        old[0],
    ]
    cut = (1 << 8 * size) - 1
    frame = b"".join((one & cut).to_bytes(size, "little") for one in words)
    mask = _pointer_mask(p, segment)
    place = (pointer - len(frame)) & mask
    refusal: Refusal = _check_frame(p, segment, place, len(frame))
    if refusal is None:
        base = 0 if steps.is_long(p.state) else segment.base
        refusal = p.linear.write(base + place, frame)
    refusal = refusal or mark_accessed(p.linear, code)
    if refusal is None and found is not None:
        refusal = mark_accessed(p.linear, found)
    if refusal is not None:
        return refusal
    state.set_segment(_SS, segment)
    steps.go(p, code, gate.selector, gate.offset, level)
    operands.set_stack_pointer(state, place if mask == 0xFFFF else pointer - len(frame), mask)
    _complete(p)
    return None


def _pointer_mask(p: "Processor", segment: Segment) -> int:
    if steps.is_long(p.state):
        return 0xFFFF_FFFF_FFFF_FFFF
    return 0xFFFF_FFFF if segment.access >> 14 & 1 else 0xFFFF


def _check_frame(p: "Processor", segment: Segment, place: int, size: int) -> Event | None:
    state = p.state
    if steps.is_long(state):
        good = state.is_canonical(place) and state.is_canonical(place + size - 1)
        return None if good else exception(Vector.SS, 0)
    return None if segment.holds(place, size) else fault(Vector.SS, segment.selector)


def inner_stack(p: "Processor", level: int) -> _Stack | Event | Fault:
    """Return the stack that the TSS names for ``level``."""
    state = p.state
    task = state.segment(SegmentIndex.TR)
    if steps.is_long(state) or task.access & 8:
        place, length = 4 + 8 * level, 8
    else:
        place, length = 2 + 4 * level, 4
    if place + length - 1 > task.limit:
        return fault(Vector.TS, task.selector)
    raw = p.linear.read(task.base + place, length)
    if not isinstance(raw, bytes):
        return raw
    if steps.is_long(state):
        pointer = int.from_bytes(raw, "little")
        if not state.is_canonical(pointer):
            return exception(Vector.SS, 0)
        return _Stack(steps.null_stack(level), None, pointer)
    half = length // 2
    selector = int.from_bytes(raw[half : half + 2], "little")
    found = steps.check_stack(p, selector, level, Vector.TS)
    if not isinstance(found, Descriptor):
        return found
    return _Stack(found.segment(selector), found, int.from_bytes(raw[:half], "little"))


def _to_task(p: "Processor", transfer: _Transfer, found: Descriptor, selector: int) -> Refusal:
    """Switch tasks, directly or by a task gate: privilege and presence of what names the task."""
    if found.dpl < max(p.state.cpl, selector & 3):
        return fault(Vector.GP, selector)
    target = selector
    if found.segment_type == SystemType.TASK_GATE:
        if not found.is_present:
            return fault(Vector.NP, selector)
        target = found.target
    source = TaskSwitchSource.CALL if transfer.is_call else TaskSwitchSource.JMP
    return tasks.switch(p, target, source, transfer.length)
