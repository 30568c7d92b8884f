"""Breakpoints of DR0 to DR3: instructions, data and ports.

SDM 3B, "Debug Registers" and "Debug Exceptions". Blocks with an instruction breakpoint are executed
one instruction at a time; the engine is told of no page with a data breakpoint, so that each access
to it stops. While none is enabled, this costs nothing.
"""

from typing import TYPE_CHECKING, NamedTuple

from turducken.address import PAGE_OFFSET_MASK
from turducken.arch.registers import CR4, RFLAGS
from turducken.arch.segments import SegmentIndex
from turducken.cpu.decoder import Instruction, linear_address
from turducken.cpu.used_memory import Access, accesses_of

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_DE, _RF = CR4.mask("DE"), RFLAGS.mask("RF")
_EXECUTE, _WRITE, _PORT, _READ_WRITE = range(4)
_LENGTHS = (1, 2, 8, 4)
"""By the LEN field."""
ENABLED = 0xFF
"""L0 to G3 in DR7."""
_WAS_ENABLED = 1 << 12
"""In the pending debug exceptions: a breakpoint was met that is enabled."""


class Breakpoint(NamedTuple):
    """An enabled breakpoint: ``bit`` is its bit in DR6."""

    bit: int
    kind: int
    address: int
    length: int

    def covers(self, address: int, size: int) -> bool:
        """Tell whether bytes from ``address`` on are among those that it watches."""
        return address < self.address + self.length and self.address < address + size


class Breakpoints:
    """One processor's enabled breakpoints."""

    def __init__(self, processor: "Processor") -> None:
        self._p = processor
        self._key: tuple[int, ...] = ()
        self.enabled: tuple[Breakpoint, ...] = ()
        self.pages: frozenset[int] = frozenset()
        """Linear pages with data breakpoints."""
        self.has_ports = False
        """There are I/O breakpoints: code runs one instruction at a time."""

    def update(self) -> None:
        """Follow the debug registers, before code runs."""
        dr = self._p.dr
        key = (dr[7], *dr[:4]) if dr[7] & ENABLED else ()
        if key == self._key:
            return
        self._key = key
        self.enabled = tuple(_read(dr, number) for number in range(4) if dr[7] >> 2 * number & 3)
        data = [one for one in self.enabled if one.kind in (_WRITE, _READ_WRITE)]
        self.pages = frozenset(
            page
            for one in data
            for page in (one.address & ~PAGE_OFFSET_MASK,
                         one.address + one.length - 1 & ~PAGE_OFFSET_MASK)
        )  # fmt: skip
        self.has_ports = any(one.kind == _PORT for one in self.enabled)
        self._p.accesses.watched = self.pages
        self._p.engine.is_code_stale = True

    def has_code(self, address: int, size: int) -> bool:
        """Tell whether an instruction breakpoint is in a block."""
        return any(one.kind == _EXECUTE and one.covers(address, size) for one in self.enabled)

    def at_instruction(self) -> int:
        """Return the DR6 bits of instruction breakpoints at RIP, which RFLAGS.RF holds back."""
        state = self._p.state
        if state.rflags & _RF:
            return 0
        place = linear_address(state, SegmentIndex.CS, state.rip)
        return sum(one.bit for one in self.enabled if one.kind == _EXECUTE and one.address == place)

    def touched(self, accesses: list[Access]) -> None:
        """Note which data breakpoints accesses have met: a trap behind the instruction."""
        bits = 0
        for one in self.enabled:
            if one.kind in (_WRITE, _READ_WRITE) and any(
                one.covers(access.address, access.size)
                and (access.is_write or one.kind == _READ_WRITE)
                for access in accesses
            ):
                bits |= one.bit
        self._trap(bits)

    def accesses(self, instruction: Instruction) -> list[Access]:
        """Return what an instruction is about to access, if data breakpoints are enabled."""
        return list(accesses_of(self._p.state, instruction)) if self.pages else []

    def port(self, port: int, size: int) -> None:
        """Note which I/O breakpoints an access to a port has met."""
        if not self._p.state.cr4 & _DE:
            return
        met = (one for one in self.enabled if one.kind == _PORT and one.covers(port, size))
        self._trap(sum(one.bit for one in met))

    def _trap(self, bits: int) -> None:
        if bits:
            self._p.pending.debug |= bits | _WAS_ENABLED
            self._p.attention = True


def _read(dr: list[int], number: int) -> Breakpoint:
    control = dr[7] >> 16 + 4 * number
    length = _LENGTHS[control >> 2 & 3]
    return Breakpoint(1 << number, control & 3, dr[number] & ~(length - 1), length)
