"""Task switches of L1, which in non-root operation are VM exits: L0 makes them.

SDM 3C, "Treatment of Task Switches": the processor has checked privilege and the TSS descriptor's
type; all that follows is the hypervisor's. The steps are `turducken.arch.tasks`, on VMCS01.
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import CONTRIBUTORY, Vector
from turducken.arch.registers import CR0, CR4
from turducken.arch.segments import Segment, SegmentIndex
from turducken.arch.tasks import Switch, TaskFault, TaskState, TaskSwitchSource, switch_task
from turducken.hypervisor.linear import PageFault
from turducken.hypervisor.operands import read_gpr, write_gpr
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import (
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    BLOCKING_BY_STI,
    INTERRUPTION_ERROR_CODE,
    INTERRUPTION_TYPE,
    INTERRUPTION_VALID,
    INTERRUPTION_VECTOR,
    SOFTWARE_EVENTS,
    TASK_SWITCH_QUALIFICATION,
    EventType,
)

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Handling, Vcpu

_SELECTOR, _SOURCE = TASK_SWITCH_QUALIFICATION["SELECTOR"], TASK_SWITCH_QUALIFICATION["SOURCE"]
_PG, _TS, _PAE = CR0.mask("PG"), CR0.mask("TS"), CR4.mask("PAE")
_LOCAL_BREAKPOINTS = 0x155
_BT = 1 << 15
_BIG = 1 << 14


class GuestTask:
    """The registers of L1, as a task switch uses them: implements `TaskState`."""

    def __init__(self, vcpu: "Vcpu") -> None:
        self._vcpu = vcpu
        self._vmcs = vcpu.vmcs01

    @property
    def rflags(self) -> int:
        """RFLAGS."""
        return self._vmcs.read(f.GUEST_RFLAGS)

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._vmcs.write(f.GUEST_RFLAGS, value)

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self._vmcs.read(f.GUEST_RIP)

    @rip.setter
    def rip(self, value: int) -> None:
        self._vmcs.write(f.GUEST_RIP, value)

    def gpr(self, number: int) -> int:
        """Return a general-purpose register."""
        return read_gpr(self._vcpu.processor, self._vmcs, number)

    def set_gpr(self, number: int, value: int) -> None:
        """Set a general-purpose register."""
        write_gpr(self._vcpu.processor, self._vmcs, number, value)

    def segment(self, index: SegmentIndex) -> Segment:
        """Return a segment register."""
        fields, read = f.GUEST_SEGMENTS[index], self._vmcs.read
        return Segment(
            read(fields.selector), read(fields.base), read(fields.limit), read(fields.access_rights)
        )

    def set_segment(self, index: SegmentIndex, value: Segment) -> None:
        """Set a segment register."""
        fields, write = f.GUEST_SEGMENTS[index], self._vmcs.write
        write(fields.selector, value.selector)
        write(fields.base, value.base)
        write(fields.limit, value.limit)
        write(fields.access_rights, value.access)

    def gdtr(self) -> tuple[int, int]:
        """Return base and limit of the GDT."""
        return self._vmcs.read(f.GUEST_GDTR_BASE), self._vmcs.read(f.GUEST_GDTR_LIMIT)

    def read(self, address: int, size: int) -> bytes | PageFault:
        """Read linear memory."""
        return self._vcpu.linear.read(address & 0xFFFF_FFFF, size)

    def write(self, address: int, data: bytes) -> PageFault | None:
        """Write linear memory."""
        return self._vcpu.linear.write(address & 0xFFFF_FFFF, data)

    def check_write(self, address: int, size: int) -> PageFault | None:
        """Return what a write would fail with."""
        for place in (address, address + size - 1):
            found = self._vcpu.linear.translate(place & 0xFFFF_FFFF, write=True)
            if isinstance(found, PageFault):
                return found
        return None

    def load_cr3(self, value: int) -> TaskFault | None:
        """Load CR3, if paging is in use."""
        vmcs = self._vmcs
        if not vmcs.read(f.GUEST_CR0) & _PG:
            return None
        if vmcs.read(f.GUEST_CR4) & _PAE and not self._vcpu.load_l1_pdptes(value):
            return TaskFault(Vector.GP, 0)
        vmcs.write(f.GUEST_CR3, value)
        self._vcpu.flush_vpid(self._vcpu.vpids.own)
        return None

    def enter(self, cpl: int) -> None:
        """Take over the new task's privilege level, which is the DPL of SS."""
        vmcs = self._vmcs
        vmcs.write(f.GUEST_CR0, vmcs.read(f.GUEST_CR0) | _TS)
        vmcs.write(f.CR0_READ_SHADOW, vmcs.read(f.CR0_READ_SHADOW) | _TS)
        vmcs.write(f.GUEST_DR7, vmcs.read(f.GUEST_DR7) & ~_LOCAL_BREAKPOINTS)
        rights = vmcs.read(f.GUEST_SS_ACCESS_RIGHTS) & ~0x60 | cpl << 5
        vmcs.write(f.GUEST_SS_ACCESS_RIGHTS, rights)


def on_task_switch(vcpu: "Vcpu") -> "Handling":
    """Switch L1's tasks, or give it the exception that this meets."""
    vmcs = vcpu.vmcs01
    qualification = vmcs.read(f.EXIT_QUALIFICATION)
    source = TaskSwitchSource(_SOURCE.get(qualification))
    vectoring = vmcs.read(f.IDT_VECTORING_INFORMATION)
    is_event = bool(vectoring & INTERRUPTION_VALID)
    kind = INTERRUPTION_TYPE.get(vectoring)
    is_software = not is_event or kind in SOFTWARE_EVENTS
    length = vmcs.read(f.EXIT_INSTRUCTION_LENGTH) if is_software else 0
    external = int(is_event and kind not in SOFTWARE_EVENTS)
    host: TaskState[PageFault] = GuestTask(vcpu)
    switch = Switch(_SELECTOR.get(qualification), source, length, external)
    result: PageFault | TaskFault | bool = switch_task(host, switch)
    if isinstance(result, bool) and is_event and vectoring & INTERRUPTION_ERROR_CODE:
        failed = _push(host, vmcs.read(f.IDT_VECTORING_ERROR_CODE))
        result = result if failed is None else failed
    if not isinstance(result, bool):
        _fail(vcpu, result, vectoring if is_event else 0)
        return None
    _settle(vcpu, source, is_nmi=is_event and kind == EventType.NMI)
    if result:
        vcpu.processor.dr[6] |= _BT
        vcpu.inject(Vector.DB)
    return None


def _push(host: TaskState[PageFault], code: int) -> PageFault | TaskFault | None:
    """Push an exception's error code on the new task's stack."""
    size = 4 if host.segment(SegmentIndex.TR).access & 8 else 2
    stack = host.segment(SegmentIndex.SS)
    mask = 0xFFFF_FFFF if stack.access & _BIG else 0xFFFF
    pointer = (host.gpr(4) - size) & mask
    if not stack.holds(pointer, size):
        return TaskFault(Vector.SS, 0)
    failed = host.write(stack.base + pointer, (code & (1 << 8 * size) - 1).to_bytes(size, "little"))
    if failed is None:
        host.set_gpr(4, host.gpr(4) & ~mask & 0xFFFF_FFFF | pointer)
    return failed


def _settle(vcpu: "Vcpu", source: TaskSwitchSource, *, is_nmi: bool) -> None:
    """What a completed switch does to what holds events back."""
    vmcs = vcpu.vmcs01
    blocking = vmcs.read(f.GUEST_INTERRUPTIBILITY) & ~(BLOCKING_BY_STI | BLOCKING_BY_MOV_SS)
    if source is TaskSwitchSource.IRET:
        blocking &= ~BLOCKING_BY_NMI
    if is_nmi:
        blocking |= BLOCKING_BY_NMI
    vmcs.write(f.GUEST_INTERRUPTIBILITY, blocking)
    vmcs.write(f.GUEST_PENDING_DEBUG, 0)


def _fail(vcpu: "Vcpu", failure: PageFault | TaskFault, vectoring: int) -> None:
    """Raise what the switch met, or the double fault that it is while an exception is delivered."""
    vector = Vector.PF if isinstance(failure, PageFault) else failure.vector
    code = failure.error_code if isinstance(failure, PageFault) else failure.code
    first = vectoring & INTERRUPTION_VECTOR
    was_exception = INTERRUPTION_TYPE.get(vectoring) == EventType.HARDWARE_EXCEPTION
    if was_exception and (first in CONTRIBUTORY or first == Vector.PF):
        vcpu.inject(Vector.DF, 0)
    elif was_exception and first == Vector.DF:
        vcpu.triple_fault()
    else:
        if isinstance(failure, PageFault):
            vcpu.processor.cr2 = failure.address
        vcpu.inject(vector, code)
