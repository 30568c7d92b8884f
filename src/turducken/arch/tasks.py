"""Task switches: SDM 3A, "Task Switching", for whoever holds a processor's registers.

The steps are those of the manual, in its order. Up to the commit point nothing has changed where
one fails; behind it, what fails is met by the new task.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

from turducken.arch.exceptions import Vector
from turducken.arch.registers import RFLAGS
from turducken.arch.segments import UNUSABLE, Descriptor, Segment, SegmentIndex, SystemType

_VM, _NT = RFLAGS.mask("VM"), RFLAGS.mask("NT")
_CS, _SS = SegmentIndex.CS, SegmentIndex.SS
_BUSY = 2
_LINK = 0
_8086_RIGHTS = 0xF3
_UNLOADED_CODE = 0x409B
"""Access rights of CS until its descriptor is loaded."""

Failure = TypeVar("Failure")
"""What an access to memory fails with: the host's affair."""
Failed_co = TypeVar("Failed_co", covariant=True)


class TaskSwitchSource(IntEnum):
    """What asks for a task switch, as bits 31:30 of the exit qualification have it."""

    CALL = 0
    IRET = 1
    JMP = 2
    IDT_GATE = 3


@dataclass(frozen=True, slots=True)
class TaskFault:
    """An exception that a task switch meets; ``code`` is its error code."""

    vector: int
    code: int


class Layout(NamedTuple):
    """Where a TSS has what; all words of one width but selectors, of which 16 bits count."""

    size: int
    """Bytes that its limit must cover."""
    width: int
    cr3: int | None
    ip: int
    flags: int
    gpr: int
    segments: tuple[tuple[SegmentIndex, int], ...]
    ldt: int
    trap: int | None
    selector_step: int


_ORDER = (SegmentIndex.ES, _CS, _SS, SegmentIndex.DS, SegmentIndex.FS, SegmentIndex.GS)
TSS16 = Layout(
    0x2C, 2, None, 0xE, 0x10, 0x12, tuple(zip(_ORDER[:4], range(0x22, 0x2A, 2), strict=True)),
    0x2A, None, 2,
)  # fmt: skip
TSS32 = Layout(
    0x68, 4, 0x1C, 0x20, 0x24, 0x28, tuple(zip(_ORDER, range(0x48, 0x60, 4), strict=True)),
    0x60, 0x64, 4,
)  # fmt: skip
"""SDM 3A, "Task-State Segment (TSS)" and "16-Bit Task-State Segment (TSS)"."""

_LAYOUTS = {
    SystemType.TSS16: TSS16,
    SystemType.BUSY_TSS16: TSS16,
    SystemType.TSS: TSS32,
    SystemType.BUSY_TSS: TSS32,
}


class TaskState(Protocol[Failed_co]):
    """The registers of a processor outside IA-32e mode, and its linear memory.

    Memory accesses are implicit supervisor-mode accesses; what they fail with is the host's affair.
    """

    rflags: int
    rip: int

    def gpr(self, number: int) -> int:
        """Return a general-purpose register."""

    def set_gpr(self, number: int, value: int) -> None:
        """Set a general-purpose register."""

    def segment(self, index: SegmentIndex) -> Segment:
        """Return a segment register."""

    def set_segment(self, index: SegmentIndex, value: Segment) -> None:
        """Set a segment register."""

    def gdtr(self) -> tuple[int, int]:
        """Return base and limit of the GDT."""

    def read(self, address: int, size: int) -> bytes | Failed_co:
        """Read linear memory."""

    def write(self, address: int, data: bytes) -> Failed_co | None:
        """Write linear memory; nothing is written where it fails."""

    def check_write(self, address: int, size: int) -> Failed_co | None:
        """Return what a write would fail with."""

    def load_cr3(self, value: int) -> Failed_co | TaskFault | None:
        """Load CR3, if paging is in use."""

    def enter(self, cpl: int) -> None:
        """Take over the new task's privilege level and mode; set CR0.TS, disable breakpoints.

        Those that are local to a task: L0 to L3 and LE in DR7.
        """


class Switch(NamedTuple):
    """A task switch: to which TSS, why, and the length of the instruction that asks for it."""

    selector: int
    source: TaskSwitchSource
    length: int = 0
    external: int = 0


def switch_task(host: TaskState[Failure], switch: Switch) -> Failure | TaskFault | bool:
    """Switch tasks; return what it fails with, or whether the new task asks for a debug trap."""
    target = find_task(host, switch)
    if not isinstance(target, Descriptor):
        return target
    layout = _LAYOUTS[SystemType(target.segment_type)]
    if target.limit < layout.size - 1:
        return TaskFault(Vector.TS, switch.selector & 0xFFFC | switch.external)
    image = host.read(target.base, layout.size)
    if not isinstance(image, bytes):
        return image
    failed = _save(host, switch)
    if failed is None and switch.source in (TaskSwitchSource.CALL, TaskSwitchSource.IDT_GATE):
        link = host.segment(SegmentIndex.TR).selector
        failed = host.write(target.base + _LINK, link.to_bytes(2, "little"))
    if failed is None and switch.source is not TaskSwitchSource.IRET:
        failed = _set_busy(host, target, busy=True)
    if failed is not None:
        return failed
    # The commit point.
    access = target.raw >> 40 & 0xF0FF | _BUSY
    host.set_segment(SegmentIndex.TR, Segment(switch.selector, target.base, target.limit, access))
    wrong = _load(host, switch, layout, image)
    if wrong is not None:
        return wrong
    return layout.trap is not None and bool(image[layout.trap] & 1)


def find_task(host: TaskState[Failure], switch: Switch) -> Descriptor | Failure | TaskFault:
    """Find and check the new task's TSS descriptor (its privilege has been checked).

    SDM 3C, "Treatment of Task Switches": these checks precede a VM exit.
    """
    selector = switch.selector
    vector = Vector.TS if switch.source is TaskSwitchSource.IRET else Vector.GP
    code = selector & 0xFFFC | switch.external
    base, limit = host.gdtr()
    if selector & 4 or selector & 0xFFFC == 0 or (selector & 0xFFF8) + 7 > limit:
        return TaskFault(vector, code)
    place = base + (selector & 0xFFF8)
    raw = host.read(place, 8)
    if not isinstance(raw, bytes):
        return raw
    found = Descriptor(int.from_bytes(raw, "little"), place)
    if not found.is_system or found.segment_type not in _LAYOUTS:
        return TaskFault(vector, code)
    if bool(found.segment_type & _BUSY) is not (switch.source is TaskSwitchSource.IRET):
        return TaskFault(vector, code)
    if not found.is_present:
        return TaskFault(Vector.NP, code)
    return found


def _set_busy(host: TaskState[Failure], task: Descriptor, *, busy: bool) -> Failure | None:
    access = task.raw >> 40 & 0xFF
    return host.write(task.linear + 5, bytes([access | _BUSY if busy else access & ~_BUSY]))


def _save(host: TaskState[Failure], switch: Switch) -> Failure | TaskFault | None:
    """Save the old task in its TSS, and end its being busy for JMP and IRET."""
    task = host.segment(SegmentIndex.TR)
    layout = TSS32 if task.access & 8 else TSS16
    if task.limit < layout.size - 1:
        return TaskFault(Vector.TS, task.selector & 0xFFFC | switch.external)
    width = layout.width
    cut = (1 << 8 * width) - 1
    flags = host.rflags & ~_NT if switch.source is TaskSwitchSource.IRET else host.rflags
    words = [host.rip + switch.length, flags, *(host.gpr(number) for number in range(8))]
    body = b"".join((one & cut).to_bytes(width, "little") for one in words)
    for index, _ in layout.segments:
        body += host.segment(index).selector.to_bytes(width, "little")
    failed = host.check_write(task.base + layout.ip, len(body))
    if failed is not None:
        return failed
    if switch.source in (TaskSwitchSource.JMP, TaskSwitchSource.IRET):
        place = host.gdtr()[0] + (task.selector & 0xFFF8)
        raw = host.read(place, 8)
        if not isinstance(raw, bytes):
            return raw
        failed = _set_busy(host, Descriptor(int.from_bytes(raw, "little"), place), busy=False)
    return failed if failed is not None else host.write(task.base + layout.ip, body)


def _load(
    host: TaskState[Failure], switch: Switch, layout: Layout, image: bytes
) -> Failure | TaskFault | None:
    """Load the new task; what fails from here on is in its context."""

    def word(place: int, size: int = layout.width) -> int:
        return int.from_bytes(image[place : place + size], "little")

    wrong: Failure | TaskFault | None = None
    if layout.cr3 is not None:
        wrong = host.load_cr3(word(layout.cr3))
    flags = word(layout.flags) | 2
    if layout.width == 2:
        flags &= 0xFFFF
    if switch.source in (TaskSwitchSource.CALL, TaskSwitchSource.IDT_GATE):
        flags |= _NT
    host.rflags, host.rip = flags & 0x3F_7FD7, word(layout.ip)
    for number in range(8):
        value = word(layout.gpr + layout.width * number)
        kept = host.gpr(number) & ~0xFFFF & 0xFFFF_FFFF if layout.width == 2 else 0
        host.set_gpr(number, kept | value)
    selectors = {index: word(place, 2) for index, place in layout.segments}
    ldt = word(layout.ldt, 2)
    is_8086 = bool(flags & _VM)
    level = 3 if is_8086 else selectors[_CS] & 3
    for index in _ORDER:
        selector = selectors.get(index, 0)
        rights = UNUSABLE | (level << 5 if index is _SS else 0)
        segment = Segment(selector, 0, 0, rights)
        if is_8086:
            segment = Segment(selector, selector << 4, 0xFFFF, _8086_RIGHTS)
        elif index is _CS:
            segment = Segment(selector, 0, 0xFFFF, _UNLOADED_CODE | level << 5)
        host.set_segment(index, segment)
    host.set_segment(SegmentIndex.LDTR, Segment(ldt, 0, 0, UNUSABLE))
    host.enter(level)
    if wrong is not None:
        return wrong
    wrong = _load_ldt(host, ldt, switch.external)
    if wrong is None and not is_8086:
        wrong = _load_segments(host, selectors, level, switch.external)
    host.enter(level)
    return wrong


def _descriptor(
    host: TaskState[Failure], selector: int, external: int
) -> Descriptor | Failure | TaskFault:
    code = selector & 0xFFFC | external
    base, limit = host.gdtr()
    if selector & 4:
        table = host.segment(SegmentIndex.LDTR)
        base, limit = table.base, table.limit
        if not table.is_usable:
            return TaskFault(Vector.TS, code)
    if selector & 0xFFFC == 0 or (selector & 0xFFF8) + 7 > limit:
        return TaskFault(Vector.TS, code)
    place = base + (selector & 0xFFF8)
    raw = host.read(place, 8)
    if not isinstance(raw, bytes):
        return raw
    return Descriptor(int.from_bytes(raw, "little"), place)


def _load_ldt(host: TaskState[Failure], selector: int, external: int) -> Failure | TaskFault | None:
    if selector & 0xFFFC == 0:
        return None
    if selector & 4:
        return TaskFault(Vector.TS, selector & 0xFFFC | external)
    found = _descriptor(host, selector, external)
    if not isinstance(found, Descriptor):
        return found
    if not found.is_system or found.segment_type != SystemType.LDT or not found.is_present:
        return TaskFault(Vector.TS, selector & 0xFFFC | external)
    host.set_segment(SegmentIndex.LDTR, found.segment(selector))
    return None


def _load_segments(
    host: TaskState[Failure], selectors: dict[SegmentIndex, int], level: int, external: int
) -> Failure | TaskFault | None:
    for index in (_CS, _SS, SegmentIndex.DS, SegmentIndex.ES, SegmentIndex.FS, SegmentIndex.GS):
        selector = selectors.get(index, 0)
        if index not in (_CS, _SS) and selector & 0xFFFC == 0:
            continue
        found = _descriptor(host, selector, external)
        if not isinstance(found, Descriptor):
            return found
        vector = _check_segment(index, found, selector, level)
        if vector is not None:
            return TaskFault(vector, selector & 0xFFFC | external)
        if not found.is_accessed:
            failed = host.write(found.linear + 5, bytes([found.raw >> 40 & 0xFF | 1]))
            if failed is not None:
                return failed
        host.set_segment(index, found.segment(selector))
    code = host.segment(_CS)
    if host.rip > code.limit:
        return TaskFault(Vector.GP, external)
    return None


def _check_segment(
    index: SegmentIndex, found: Descriptor, selector: int, level: int
) -> Vector | None:
    """Return the exception that loading a segment register causes; None: it may be loaded."""
    rpl = selector & 3
    if index is _CS:
        allowed = found.is_code and (found.dpl <= rpl if found.is_conforming else found.dpl == rpl)
    elif index is _SS:
        allowed = found.is_writable_data and found.dpl == level == rpl
    else:
        allowed = found.is_readable and (found.is_conforming or found.dpl >= max(rpl, level))
    if not allowed:
        return Vector.TS
    if found.is_present:
        return None
    return Vector.SS if index is _SS else Vector.NP
