"""Task switches of one processor: they happen in root operation, and are VM exits outside.

SDM 3A, "Task Switching" (`turducken.arch.tasks`); SDM 3C, "Treatment of Task Switches".
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0
from turducken.arch.segments import Descriptor, Segment, SegmentIndex
from turducken.arch.tasks import (
    Switch,
    TaskFault,
    TaskState,
    TaskSwitchSource,
    find_task,
    switch_task,
)
from turducken.cpu import vm_exit
from turducken.cpu.control_registers import write_cr3
from turducken.cpu.events import Event, exception
from turducken.cpu.operands import push
from turducken.cpu.transfers.steps import Refusal
from turducken.mmu.faults import Fault
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PG, _TS = CR0.mask("PG"), CR0.mask("TS")
_LOCAL_BREAKPOINTS = 0x155
"""L0 to L3 and LE in DR7."""
_BT = 1 << 15
"""In DR6: the debug trap of a TSS."""


class ProcessorTask:
    """The registers of a processor, as a task switch uses them: implements `TaskState`."""

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self._state = processor.state

    @property
    def rflags(self) -> int:
        """RFLAGS."""
        return self._state.rflags

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._state.rflags = value

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self._state.rip

    @rip.setter
    def rip(self, value: int) -> None:
        self._state.rip = value

    def gpr(self, number: int) -> int:
        """Return a general-purpose register."""
        return self._state.gpr[number]

    def set_gpr(self, number: int, value: int) -> None:
        """Set a general-purpose register."""
        self._state.gpr[number] = value

    def segment(self, index: SegmentIndex) -> Segment:
        """Return a segment register."""
        return self._state.segment(index)

    def set_segment(self, index: SegmentIndex, value: Segment) -> None:
        """Set a segment register."""
        self._state.set_segment(index, value)

    def gdtr(self) -> tuple[int, int]:
        """Return base and limit of the GDT."""
        return self._state.table(SegmentIndex.GDTR)

    def read(self, address: int, size: int) -> bytes | Fault:
        """Read linear memory."""
        return self._p.linear.read(address, size)

    def write(self, address: int, data: bytes) -> Fault | None:
        """Write linear memory."""
        return self._p.linear.write(address, data)

    def check_write(self, address: int, size: int) -> Fault | None:
        """Return what a write would fail with."""
        return self._p.linear.write_check(address, size, user=False)

    def load_cr3(self, value: int) -> Fault | TaskFault | None:
        """Load CR3, if paging is in use."""
        if not self._state.cr0 & _PG:
            return None
        refused = write_cr3(self._p, value)
        return TaskFault(refused.vector, 0) if isinstance(refused, Event) else refused

    def enter(self, cpl: int) -> None:
        """Take over the new task's privilege level and mode."""
        self._state.cr0 |= _TS
        self._p.dr[7] &= ~_LOCAL_BREAKPOINTS
        self._state.update_mode(cpl)


def switch(
    p: "Processor",
    selector: int,
    source: TaskSwitchSource,
    length: int,
    during: Event | None = None,
) -> Refusal:
    """Switch to the task of ``selector``, or exit because of it.

    ``length`` is that of the instruction that asks for it, ``during`` the event that does. The
    error code of that is pushed on the new task's stack.
    """
    external = during.external if during is not None else 0
    host: TaskState[Fault] = ProcessorTask(p)
    request = Switch(selector, source, length, external)
    if p.guest is not None:
        found: Descriptor | Fault | TaskFault = find_task(host, request)
        if not isinstance(found, Descriptor):
            return _refusal(found)
        qualification = selector | source << 30
        vm_exit.exit_to_host(p, ExitReason.TASK_SWITCH, qualification, length=length, during=during)
        return None
    result: Fault | TaskFault | bool = switch_task(host, request)
    p.state.in_shadow = False
    p.attention = True
    if not isinstance(result, bool):
        return _refusal(result)
    if during is not None and during.error_code is not None:
        refused = _push_error_code(p, during.error_code)
        if refused is not None:
            return refused
    return exception(Vector.DB, payload=_BT) if result else None


def _refusal(found: Fault | TaskFault) -> Event | Fault:
    return exception(found.vector, found.code) if isinstance(found, TaskFault) else found


def _push_error_code(p: "Processor", code: int) -> Refusal:
    wide = p.state.segment(SegmentIndex.TR).access & 8
    return push(p, 4 if wide else 2, code)


def interrupt_return_task(p: "Processor", length: int) -> Refusal:
    """IRET with RFLAGS.NT: return to the task that the TSS links to."""
    raw = p.linear.read(p.state.segment(SegmentIndex.TR).base, 2)
    if not isinstance(raw, bytes):
        return raw
    return switch(p, int.from_bytes(raw, "little"), TaskSwitchSource.IRET, length)
