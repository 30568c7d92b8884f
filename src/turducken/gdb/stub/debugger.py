"""Where the machine stops: breakpoints, watchpoints, steps, a user's interrupt.

The stub's conversation with gdb takes place inside the hook that the processor calls before it
runs code. So a stop changes nothing of the machine: its turn goes on afterwards as if there had
been none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from iced_x86 import (
    CodeSize,
    Decoder,
    InstructionInfoFactory,
    MemorySizeExt,
    OpAccess,
    Register,
    RegisterExt,
    UsedMemory,
)

from turducken.cpu.decoder import code_bits
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.processor import Processor
from turducken.gdb.stub.levels import Levels

SIGINT, SIGTRAP = 2, 5


class Kind(Enum):
    """What a point waits for; the number is the protocol's."""

    BREAK = 0
    HARDWARE_BREAK = 1
    WRITE = 2
    READ = 3
    ACCESS = 4

    @property
    def is_watch(self) -> bool:
        """It waits for an access to data."""
        return self.value >= Kind.WRITE.value


@dataclass(frozen=True, slots=True)
class Point:
    """A breakpoint or watchpoint: at a linear address of one level, on all processors."""

    kind: Kind
    level: str
    address: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a processor stands still."""

    cpu: int
    signal: int
    watch: Point | None = None
    at: int = 0
    """With ``watch``: the address that was accessed."""
    is_break: bool = False


Register_: TypeAlias = Any
"""The library has numbers where its types have a class."""

_READS = (
    OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE
)  # fmt: skip
_WRITES = (
    OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE
)  # fmt: skip
_INFO = InstructionInfoFactory()
_GENERAL = {
    getattr(Register, name.upper()): number
    for number, name in enumerate(
        ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    )
}
_SEGMENTS = {
    Register.ES: SegmentIndex.ES,
    Register.CS: SegmentIndex.CS,
    Register.SS: SegmentIndex.SS,
    Register.DS: SegmentIndex.DS,
    Register.FS: SegmentIndex.FS,
    Register.GS: SegmentIndex.GS,
}


class Debugger:
    """Implements `turducken.cpu.surroundings.DebuggerPort`.

    ``talk`` is called with every `Stop`, and returns when the machine is to run on; it may set
    ``stepping`` to the number of a processor that is to execute one instruction.
    """

    def __init__(
        self, processors: list[Processor], levels: Levels, talk: Callable[[Stop], None]
    ) -> None:
        self._processors = processors
        self._levels = levels
        self._talk = talk
        self._points: dict[Point, None] = {}
        self._breaks: dict[int, set[str]] = {}
        self._watched_pages: set[int] = set()
        self._has_watch = self._is_open = False
        self._accessed: tuple[int, Point, int] | None = None
        self.stepping: int | None = None
        self.step_range: tuple[int, int] | None = None
        """While stepping: run on while RIP is in here (first, end)."""
        self._stepped = False
        self.is_interrupted = True  # a run begins with a stop
        self.is_detached = False

    def attach(self) -> None:
        """Watch all processors."""
        for one in self._processors:
            one.debugger = self

    def detach(self) -> None:
        """Let everything run on, unwatched."""
        self.is_detached = True
        self._points.clear()
        self._points_changed()
        for one in self._processors:
            one.debugger = None

    # Points

    def insert(self, point: Point) -> None:
        """Add a point; adding one that is there changes nothing."""
        self._points[point] = None
        self._points_changed()

    def remove(self, point: Point) -> None:
        """Take a point away; one that is not there is none."""
        self._points.pop(point, None)
        self._points_changed()

    def clear(self) -> None:
        """Take all points away."""
        self._points.clear()
        self._points_changed()

    def _points_changed(self) -> None:
        self._breaks = {}
        for one in self._points:
            if not one.kind.is_watch:
                self._breaks.setdefault(one.address, set()).add(one.level)
        self._watched_pages = {
            page << 12
            for one in self._points
            if one.kind.is_watch
            for page in range(one.address >> 12, (one.address + one.size - 1 >> 12) + 1)
        }
        self._has_watch = bool(self._watched_pages)
        # What is known of a block depends on where there are breakpoints.
        self._levels.code_changed()

    # The hook

    def covers(self, processor: int, address: int, size: int) -> bool:
        """Tell whether a breakpoint is in a block of code."""
        return any(address <= one < address + size for one in self._breaks)

    def before_code(self, processor: int) -> bool:
        """Stop where something asks for it; return whether to run one instruction alone."""
        p = self._processors[processor]
        self._close_guards(p)
        self._stop_if_asked(p)
        if self.stepping != processor or self.is_detached:
            return False
        self._stepped = True
        self._open_guards(p)
        return True

    def before_alone(self, processor: int) -> None:
        """Stop where something asks for it; note what the instruction will access."""
        p = self._processors[processor]
        self._stop_if_asked(p)
        if not self.is_detached:
            self._open_guards(p)

    def _stop_if_asked(self, p: Processor) -> None:
        stop = self._reason(p)
        if stop is not None:
            self.is_interrupted = self._stepped = False
            self.stepping = self.step_range = None
            self._talk(stop)

    # Watched data: accesses to its pages are refused, until their instruction runs alone.

    @property
    def guards_any(self) -> bool:
        """Some data is watched."""
        return self._has_watch

    def guards(self, processor: int, page: int) -> bool:
        """Tell whether watched data is in a linear page."""
        return self._has_watch and not self._is_open and page in self._watched_pages

    def _open_guards(self, p: Processor) -> None:
        if self._has_watch:
            self._is_open = True
            self._look_at_accesses(p)

    def _close_guards(self, p: Processor) -> None:
        if self._is_open:
            self._is_open = False
            p.engine.is_stale = True

    def _reason(self, p: Processor) -> Stop | None:
        if self._accessed is not None:
            cpu, point, at = self._accessed
            self._accessed = None
            return Stop(cpu, SIGTRAP, point, at)
        if self.is_interrupted:
            return Stop(p.index, SIGINT)
        rip = self.linear_rip(p)
        if self._stepped and self.stepping == p.index:
            inside = self.step_range is not None and (
                self.step_range[0] <= rip < self.step_range[1]
            )
            if not inside:
                return Stop(p.index, SIGTRAP)
        levels = self._breaks.get(rip)
        if levels is not None and self._levels.running(p.index) in levels:
            return Stop(p.index, SIGTRAP, is_break=True)
        return None

    @staticmethod
    def linear_rip(p: Processor) -> int:
        """Return the linear address of the next instruction."""
        if p.state.is_64bit:
            return p.state.rip
        return p.state.segment_base(SegmentIndex.CS) + p.state.rip & 0xFFFF_FFFF

    def _look_at_accesses(self, p: Processor) -> None:
        """Note whether the instruction that runs next accesses watched data."""
        level = self._levels.running(p.index)
        watched = [one for one in self._points if one.kind.is_watch and one.level == level]
        if not watched:
            return
        code = self._levels.read(p.index, level, self.linear_rip(p), 15)
        bits = code_bits(p.state)
        instruction = next(iter(Decoder(bits, code, ip=p.state.rip)), None)
        if instruction is None:
            return
        for one in _INFO.info(instruction).used_memory():
            begin = _linear_address(p, one)
            size = max(1, int(MemorySizeExt.size(one.memory_size)))
            for point in watched:
                hits = begin < point.address + point.size and begin + size > point.address
                if hits and _matches(point.kind, one.access):
                    self._accessed = p.index, point, max(begin, point.address)
                    return


_ADDRESS_MASKS = {CodeSize.CODE16: 0xFFFF, CodeSize.CODE32: 0xFFFF_FFFF}


def _linear_address(p: Processor, one: UsedMemory) -> int:
    """Return where an instruction that runs next will access memory."""
    offset = one.displacement
    offset += _register_value(p, one.base) + _register_value(p, one.index) * one.scale
    offset &= _ADDRESS_MASKS.get(one.address_size, 0xFFFF_FFFF_FFFF_FFFF)
    is_64bit = p.state.is_64bit
    index = _SEGMENTS.get(one.segment)
    is_flat = is_64bit and index not in (SegmentIndex.FS, SegmentIndex.GS)
    base = 0 if index is None or is_flat else p.state.segment_base(index)
    return base + offset & (0xFFFF_FFFF_FFFF_FFFF if is_64bit else 0xFFFF_FFFF)


def _register_value(p: Processor, register: Register_) -> int:
    if register == Register.NONE:
        return 0
    number = _GENERAL.get(RegisterExt.full_register(register))
    if number is None:
        return 0  # RIP is in the displacement already
    return int(p.state.gpr[number]) & ((1 << 8 * RegisterExt.size(register)) - 1)


def _matches(kind: Kind, access: int) -> bool:
    if kind is Kind.WRITE:
        return access in _WRITES
    if kind is Kind.READ:
        return access in _READS
    return access in _READS or access in _WRITES
