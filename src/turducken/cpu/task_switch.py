"""Task switches: when far jumps, far calls and task gates ask for one, and the VM exit it is.

SDM 3A, "Task Switching"; SDM 3C, "Exit Qualification for Task Switches". In VMX non-root operation
a task switch never happens; outside, the engine switches tasks for JMP and CALL by itself.
"""

from typing import TYPE_CHECKING, NamedTuple

from iced_x86 import MemorySize, Mnemonic, OpKind

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.cpu import vm_exit
from turducken.cpu.control_registers import write_cr3
from turducken.cpu.decoder import Instruction, effective_address
from turducken.cpu.delivery import Descriptor, TaskSwitch, read_descriptor
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.events import Event, exception
from turducken.mmu.faults import Fault
from turducken.vmx.exit_information import TaskSwitchSource
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_LMA, _VM, _NT = EFER.mask("LMA"), RFLAGS.mask("VM"), RFLAGS.mask("NT")
_PG = CR0.mask("PG")
_TASK_GATE = 5
_CR3_FIELD = 0x1C
"""Of a 32-bit TSS."""
_AVAILABLE = frozenset({1, 9})
_BUSY = frozenset({3, 0xB})
_FAR_POINTERS = frozenset({OpKind.FAR_BRANCH16, OpKind.FAR_BRANCH32})


class SystemDescriptor(NamedTuple):
    """A system descriptor: type, DPL, presence, and the selector that a gate holds."""

    kind: int
    dpl: int
    is_present: bool
    target: int


def exit_for_task_switch(
    p: "Processor", switch: TaskSwitch, source: int, length: int, during: Event | None
) -> None:
    """Cause the VM exit that a task switch is in non-root operation."""
    qualification = switch.selector | source << 30
    vm_exit.exit_to_host(p, ExitReason.TASK_SWITCH, qualification, length=length, during=during)


def far_transfer(p: "Processor", instruction: Instruction) -> bool:
    """Handle a far JMP or CALL in non-root operation that is a task switch; tell whether it was."""
    state = p.state
    if p.guest is None or state.efer & _LMA or not state.cr0 & 1 or state.rflags & _VM:
        return False
    selector = far_selector(p, instruction)
    if selector is None or selector & 0xFFFC == 0:
        return False
    found = system_descriptor(p, selector)
    if found is None or found.kind not in _AVAILABLE | _BUSY | {_TASK_GATE}:
        return False
    refusal = _check(p, selector, found)
    if isinstance(refusal, Event):
        p.raise_event(refusal)
        return True
    target = selector
    if found.kind == _TASK_GATE:
        target = found.target
        inner = _read_system_descriptor(p, target)
        if not isinstance(inner, SystemDescriptor | None):
            p.take_fault(inner)
            return True
        if inner is None or inner.kind not in _AVAILABLE:
            p.raise_event(exception(Vector.GP, target & 0xFFFC))
            return True
    is_call = instruction.mnemonic == Mnemonic.CALL
    source = TaskSwitchSource.CALL if is_call else TaskSwitchSource.JMP
    exit_for_task_switch(p, TaskSwitch(target), source, instruction.len, None)
    return True


def step_far_transfer(p: "Processor") -> int:
    """Have the engine execute a far JMP or CALL, perhaps a task switch; return as its `step` does.

    The engine loses its way when it loads CR3 by itself, which it does while CR0.PG is set; the
    translation of addresses is ours, and does not look at that.
    """
    state = p.state
    paging = state.cr0 & _PG if not state.efer & _LMA else 0
    task = state.segment(SegmentIndex.TR)
    state.cr0 &= ~paging
    trap = p.engine.step()
    state.cr0 |= paging
    new = state.segment(SegmentIndex.TR)
    if paging and new != task and new.access & 8:
        raw = p.linear.read(new.base + _CR3_FIELD, 4)
        if isinstance(raw, bytes):
            write_cr3(p, int.from_bytes(raw, "little"))
    _mark_accessed(p)
    return trap


def _mark_accessed(p: "Processor") -> None:
    """Set the accessed bit of the descriptor that CS came from, which the engine does not."""
    code = read_descriptor(
        p.state, p.linear, p.state.segment(SegmentIndex.CS).selector, Vector.GP, 0
    )
    if isinstance(code, Descriptor) and code.is_code and not code.segment_type & 1:
        p.linear.write(code.linear + 5, bytes([code.raw >> 40 & 0xFF | 1]))


def iret_to_task(p: "Processor", length: int) -> bool:
    """Handle IRET in non-root operation that returns to another task; tell whether it does.

    SDM 2A, "IRET/IRETD/IRETQ": with RFLAGS.NT, to the task whose selector the TSS links to.
    """
    state = p.state
    if p.guest is None or state.efer & _LMA or not state.cr0 & 1 or state.rflags & _VM:
        return False
    if not state.rflags & _NT:
        return False
    raw = p.linear.read(state.segment(SegmentIndex.TR).base, 2)
    if not isinstance(raw, bytes):
        p.take_fault(raw)
        return True
    selector = int.from_bytes(raw, "little")
    found = None if selector & 4 else _read_system_descriptor(p, selector)
    if not isinstance(found, SystemDescriptor | None):
        p.take_fault(found)
    elif found is None or found.kind not in _BUSY:
        p.raise_event(exception(Vector.TS, selector & 0xFFFC))
    elif not found.is_present:
        p.raise_event(exception(Vector.NP, selector & 0xFFFC))
    else:
        exit_for_task_switch(p, TaskSwitch(selector), TaskSwitchSource.IRET, length, None)
    return True


def _check(p: "Processor", selector: int, found: SystemDescriptor) -> Event | None:
    code = selector & 0xFFFC
    if found.dpl < max(p.state.cpl, selector & 3) or found.kind in _BUSY:
        return exception(Vector.GP, code)
    if not found.is_present:
        return exception(Vector.NP, code)
    return None


def far_selector(p: "Processor", instruction: Instruction) -> int | None:
    """Return the far pointer's selector, or None where reading it faults (the engine will tell)."""
    if instruction.op0_kind in _FAR_POINTERS:
        return instruction.far_branch_selector
    if instruction.op0_kind != OpKind.MEMORY:
        return None
    operand = effective_address(p.state, instruction, p.state.rip)
    raw = p.linear.read(operand.linear, 6, user=p.state.cpl == 3)
    if not isinstance(raw, bytes):
        return None
    wide = instruction.memory_size == MemorySize.SEG_PTR32
    return int.from_bytes(raw[4:6] if wide else raw[2:4], "little")


def system_descriptor(p: "Processor", selector: int) -> SystemDescriptor | None:
    """Return a system descriptor; None for code, data, or what cannot be read."""
    found = _read_system_descriptor(p, selector)
    return found if isinstance(found, SystemDescriptor) else None


def _read_system_descriptor(p: "Processor", selector: int) -> SystemDescriptor | Fault | None:
    """Return a system descriptor, or None for code, data, and beyond the table's limit."""
    state = p.state
    if selector & 4:
        table = state.segment(SegmentIndex.LDTR)
        base, limit = table.base, table.limit
    else:
        base, limit = state.table(SegmentIndex.GDTR)
    if (selector & 0xFFF8) + 7 > limit:
        return None
    raw = p.linear.read(base + (selector & 0xFFF8), 8)
    if not isinstance(raw, bytes):
        return raw
    word = int.from_bytes(raw, "little")
    if word >> 44 & 1:
        return None
    return SystemDescriptor(
        word >> 40 & 0xF, word >> 45 & 3, bool(word >> 47 & 1), word >> 16 & 0xFFFF
    )


_CALL_GATES = frozenset({4, 0xC})


def inner_stack(p: "Processor", instruction: Instruction) -> int | None:
    """Return the linear address of the stack that a far CALL through a call gate switches to."""
    state = p.state
    selector = far_selector(p, instruction) if instruction.mnemonic == Mnemonic.CALL else None
    gate = system_descriptor(p, selector) if selector is not None else None
    if gate is None or gate.kind not in _CALL_GATES:
        return None
    code = read_descriptor(state, p.linear, gate.target, Vector.GP, 0)
    if not isinstance(code, Descriptor) or code.is_conforming or code.dpl >= state.cpl:
        return None
    task = state.segment(SegmentIndex.TR)
    is_long = bool(state.efer & _LMA)
    raw = p.linear.read(task.base + 4 + 8 * code.dpl, 8)
    if not isinstance(raw, bytes):
        return None
    if is_long:
        return int.from_bytes(raw, "little")
    stack = read_descriptor(state, p.linear, int.from_bytes(raw[4:6], "little"), Vector.TS, 0)
    if not isinstance(stack, Descriptor):
        return None
    return stack.segment(0).base + int.from_bytes(raw[:4], "little")
