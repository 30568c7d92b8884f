"""Delivery of an event through the IDT, step by step, in every mode.

SDM 3A, "Interrupt and Exception Handling" and "64-Bit Mode Exception and Interrupt Handling"; SDM
2A, "INT n/INTO/INT3/INT1" has the steps as pseudocode. A step may fault: nothing but memory below
the new stack pointer has changed then, and the caller decides what follows.
"""

from typing import NamedTuple

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.arch.segments import UNUSABLE, Descriptor, Segment, SegmentIndex
from turducken.cpu.delivery_8086 import deliver_real, redirect, return_address
from turducken.cpu.descriptors import mark_accessed, read_descriptor
from turducken.cpu.engine import State
from turducken.cpu.events import Event, EventKind, exception
from turducken.cpu.linear import LinearMemory
from turducken.mmu.faults import Fault

_PE, _LMA = CR0.mask("PE"), EFER.mask("LMA")
_TF, _IF, _NT, _RF, _VM, _AC = (RFLAGS.mask(one) for one in ("TF", "IF", "NT", "RF", "VM", "AC"))
_IOPL = RFLAGS["IOPL"]


class TaskSwitch(NamedTuple):
    """The task of the TSS at ``selector`` is to be entered."""

    selector: int


Failure = Event | Fault | TaskSwitch
"""What a step of the delivery may meet: a second exception, or a fault of address translation."""

_TASK_GATE = 5
_GATES_32 = {6: (False, 2), 7: (True, 2), 0xE: (False, 4), 0xF: (True, 4)}
_GATES_64 = {0xE: (False, 8), 0xF: (True, 8)}


class Gate(NamedTuple):
    """An interrupt or trap gate: ``size`` is the width of a stack slot in bytes."""

    selector: int
    offset: int
    is_trap: bool
    size: int
    ist: int


class Stack(NamedTuple):
    """A new stack: its segment register (None: unchanged) and stack pointer."""

    segment: Segment | None
    pointer: int


def deliver(state: State, memory: LinearMemory, event: Event) -> Failure | None:
    """Deliver ``event``; return None when the handler is about to begin, or what failed."""
    if not state.cr0 & _PE:
        return deliver_real(state, memory, event)
    if state.efer & _LMA:
        return _deliver_long(state, memory, event)
    return _deliver_protected(state, memory, event)


def read_gate(state: State, memory: LinearMemory, event: Event, *, long: bool) -> Gate | Failure:
    """Read and check the IDT entry: limit, type, privilege of software interrupts, presence."""
    base, limit = state.table(SegmentIndex.IDTR)
    size = 16 if long else 8
    code = event.vector * 8 + 2 + event.external
    if size * event.vector + size - 1 > limit:
        return exception(Vector.GP, code)
    raw = memory.read(base + size * event.vector, size)
    if not isinstance(raw, bytes):
        return raw
    word = int.from_bytes(raw, "little")
    kind = word >> 40 & 0x1F
    shape = (_GATES_64 if long else _GATES_32).get(kind)
    is_task_gate = kind == _TASK_GATE and not long
    if shape is None and not is_task_gate:
        return exception(Vector.GP, code)
    software = event.kind in (EventKind.SOFTWARE_INTERRUPT, EventKind.SOFTWARE_EXCEPTION)
    if software and (word >> 45 & 3) < state.cpl:
        return exception(Vector.GP, code)
    if not word >> 47 & 1:
        return exception(Vector.NP, code)
    if shape is None:
        return TaskSwitch(word >> 16 & 0xFFFF)
    is_trap, slot = shape
    offset = word & 0xFFFF | word >> 32 & 0xFFFF_0000
    if long:
        offset |= word >> 64 << 32 & 0xFFFF_FFFF_0000_0000
    elif slot == 2:
        offset &= 0xFFFF
    return Gate(word >> 16 & 0xFFFF, offset, is_trap, slot, word >> 32 & 7)


def target_code(
    state: State, memory: LinearMemory, event: Event, gate: Gate, *, long: bool
) -> Descriptor | Failure:
    """Read and check the handler's code segment."""
    found = read_descriptor(state, memory, gate.selector, Vector.GP, event.external)
    if not isinstance(found, Descriptor):
        return found
    code = gate.selector & 0xFFFC | event.external
    if not found.is_code or found.dpl > state.cpl:
        return exception(Vector.GP, code)
    if long and (not found.is_long or found.is_default_32):
        return exception(Vector.GP, code)
    if not found.is_present:
        return exception(Vector.NP, code)
    return found


def saved_flags(state: State, event: Event) -> int:
    """Return the RFLAGS image: RF is set for faults, so that the instruction can be restarted.

    SDM 3B, "Instruction-Breakpoint Exception Condition": a software interrupt pushes it clear.
    """
    flags = state.rflags
    if event.is_software:
        return flags & ~_RF
    if event.kind is EventKind.HARDWARE and event.vector != Vector.DB:
        flags |= _RF
    return flags


def _enter_handler(
    state: State, target: Descriptor, gate: Gate, level: int, *, clear_vm: bool
) -> None:
    flags = state.rflags & ~(_TF | _NT | _RF)
    if clear_vm:
        flags &= ~_VM
    if not gate.is_trap:
        flags &= ~_IF
    state.rflags = flags
    selector = gate.selector & 0xFFFC | level
    state.set_segment(SegmentIndex.CS, target.segment(selector))
    state.rip = gate.offset
    state.in_shadow = False
    state.update_mode(level)


# 64-bit mode


def _deliver_long(state: State, memory: LinearMemory, event: Event) -> Failure | None:
    gate = read_gate(state, memory, event, long=True)
    if not isinstance(gate, Gate):
        return gate
    target = target_code(state, memory, event, gate, long=True)
    if not isinstance(target, Descriptor):
        return target
    level = state.cpl if target.is_conforming else target.dpl
    pointer = _long_stack(state, memory, event, gate, level)
    if not isinstance(pointer, int):
        return pointer
    pointer &= ~0xF
    old_stack, code = state.segment(SegmentIndex.SS), state.segment(SegmentIndex.CS)
    words = [
        return_address(state, event),
        code.selector,
        saved_flags(state, event),
        state.gpr[4],
        old_stack.selector,
    ]
    if event.error_code is not None:
        words.insert(0, event.error_code)
    pointer = (pointer - 8 * len(words)) & 0xFFFF_FFFF_FFFF_FFFF
    if not state.is_canonical(pointer) or not state.is_canonical(pointer + 8 * len(words) - 1):
        return exception(Vector.SS, event.external)
    if not state.is_canonical(gate.offset):
        return exception(Vector.GP, event.external)
    frame = b"".join((one & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") for one in words)
    failed = memory.write(pointer, frame) or mark_accessed(memory, target)
    if failed is not None:
        return failed
    if level < state.cpl:
        # The stack segment becomes null with the new privilege level.
        state.set_segment(SegmentIndex.SS, Segment(level, 0, 0, UNUSABLE | level << 5))
    state.gpr[4] = pointer
    _enter_handler(state, target, gate, level, clear_vm=True)
    return None


def _long_stack(
    state: State, memory: LinearMemory, event: Event, gate: Gate, level: int
) -> int | Failure:
    """Return the stack pointer to push on: from the IST, the TSS, or the current one."""
    if gate.ist:
        place = 0x24 + 8 * (gate.ist - 1)
    elif level < state.cpl:
        place = 4 + 8 * level
    else:
        return state.gpr[4]
    task = state.segment(SegmentIndex.TR)
    if place + 7 > task.limit:
        return exception(Vector.TS, task.selector & 0xFFFC | event.external)
    raw = memory.read(task.base + place, 8)
    if not isinstance(raw, bytes):
        return raw
    pointer = int.from_bytes(raw, "little")
    if not state.is_canonical(pointer):
        return exception(Vector.SS, event.external)
    return pointer


# Protected mode


def _deliver_protected(state: State, memory: LinearMemory, event: Event) -> Failure | None:
    was_vm = bool(state.rflags & _VM)
    if was_vm and event.kind is EventKind.SOFTWARE_INTERRUPT:
        redirected = redirect(state, memory, event)
        if redirected is not False:
            return None if redirected is True else redirected
    # SDM 3C, "Details of Event Injection": IOPL does not matter for one that is injected.
    is_restricted = was_vm and event.kind is EventKind.SOFTWARE_INTERRUPT and not event.is_injected
    if is_restricted and _IOPL.get(state.rflags) < 3:
        return exception(Vector.GP, 0)
    gate = read_gate(state, memory, event, long=False)
    if not isinstance(gate, Gate):
        return gate
    target = target_code(state, memory, event, gate, long=False)
    if not isinstance(target, Descriptor):
        return target
    if was_vm and (target.is_conforming or target.dpl != 0):
        return exception(Vector.GP, gate.selector & 0xFFFC | event.external)
    level = state.cpl if target.is_conforming else target.dpl
    if level < state.cpl:
        stack = _task_stack(state, memory, event, level)
    else:
        stack = Stack(None, state.gpr[4])
    if not isinstance(stack, Stack):
        return stack
    words = _protected_frame(state, event, switched=stack.segment is not None, was_vm=was_vm)
    segment = stack.segment or state.segment(SegmentIndex.SS)
    mask = 0xFFFF_FFFF if segment.access >> 14 & 1 else 0xFFFF
    pointer = (stack.pointer - gate.size * len(words)) & mask
    if not segment.holds(pointer, gate.size * len(words)):
        selector = stack.segment.selector & 0xFFFC if stack.segment else 0
        return exception(Vector.SS, selector | event.external)
    if gate.offset > target.segment(0).limit:
        return exception(Vector.GP, event.external)
    frame = b"".join(
        (one & (1 << 8 * gate.size) - 1).to_bytes(gate.size, "little") for one in words
    )
    failed = memory.write((segment.base + pointer) & 0xFFFF_FFFF, frame, user=level == 3)
    failed = failed or mark_accessed(memory, target)
    if failed is not None:
        return failed
    if stack.segment is not None:
        state.set_segment(SegmentIndex.SS, stack.segment)
    if was_vm:
        for one in (SegmentIndex.ES, SegmentIndex.DS, SegmentIndex.FS, SegmentIndex.GS):
            state.set_segment(one, Segment(0, 0, 0, UNUSABLE))
    state.gpr[4] = stack.pointer & 0xFFFF_FFFF & ~mask | pointer
    _enter_handler(state, target, gate, level, clear_vm=True)
    return None


def _protected_frame(state: State, event: Event, *, switched: bool, was_vm: bool) -> list[int]:
    """Return the words to push, the last pushed (lowest address) first."""
    code = state.segment(SegmentIndex.CS)
    words = [return_address(state, event), code.selector, saved_flags(state, event)]
    if event.error_code is not None:
        words.insert(0, event.error_code)
    if switched:
        words += [state.gpr[4], state.segment(SegmentIndex.SS).selector]
    if was_vm:
        order = (SegmentIndex.ES, SegmentIndex.DS, SegmentIndex.FS, SegmentIndex.GS)
        words += [state.segment(one).selector for one in order]
    return words


def _task_stack(state: State, memory: LinearMemory, event: Event, level: int) -> Stack | Failure:
    """Return the stack that the TSS names for privilege ``level``, its segment checked."""
    task = state.segment(SegmentIndex.TR)
    wide = bool(task.access & 8)
    place, length = (4 + 8 * level, 8) if wide else (2 + 4 * level, 4)
    if place + length - 1 > task.limit:
        return exception(Vector.TS, task.selector & 0xFFFC | event.external)
    raw = memory.read(task.base + place, length)
    if not isinstance(raw, bytes):
        return raw
    half = length // 2
    pointer = int.from_bytes(raw[:half], "little")
    selector = int.from_bytes(raw[half : half + 2], "little")
    found = read_descriptor(state, memory, selector, Vector.TS, event.external)
    if not isinstance(found, Descriptor):
        return found
    code = selector & 0xFFFC | event.external
    if selector & 3 != level or found.dpl != level or not found.is_writable_data:
        return exception(Vector.TS, code)
    if not found.is_present:
        return exception(Vector.SS, code)
    return Stack(found.segment(selector), pointer)
