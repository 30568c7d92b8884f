"""The memory map that firmware reports: ACPI specification, "System Address Map Interfaces"."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from turducken.address import KIB, MIB
from turducken.memory.physical import HIGH_BASE, LOW_LIMIT

EBDA_BASE = 0x9FC00
EBDA_SIZE = 1 * KIB
LOW_MEMORY_END = 0xA0000
TABLES_BASE = 0xE0000
BIOS_BASE = 0xF0000
SMALLEST_RAM = 2 * MIB

_DEVICE_PAGES = (0xFEC0_0000, 0xFED0_0000, 0xFEE0_0000)
"""I/O APIC, HPET, local APICs."""
_ROM_BASE = 0xFFFC_0000


class MemoryKind(IntEnum):
    """Types of address ranges, with the numbers that E820 and Multiboot share."""

    AVAILABLE = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4
    BAD = 5


@dataclass(frozen=True, slots=True, order=True)
class MemoryRange:
    """Addresses from ``start`` up to, not including, ``end``."""

    start: int
    end: int
    kind: MemoryKind = MemoryKind.AVAILABLE

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def overlaps(self, start: int, end: int) -> bool:
        """Tell whether the range shares a byte with ``[start, end)``."""
        return self.start < end and start < self.end


class MemoryMap:
    """Disjoint ranges in ascending order; what no range names, nobody has said anything about."""

    def __init__(self, ranges: Iterable[MemoryRange]) -> None:
        self.ranges: tuple[MemoryRange, ...] = tuple(sorted(one for one in ranges if one.size > 0))

    def __iter__(self) -> Iterator[MemoryRange]:
        return iter(self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryMap) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        parts = (f"{one.start:#x}-{one.end:#x} {one.kind.name}" for one in self.ranges)
        return f"MemoryMap({', '.join(parts)})"

    @property
    def available(self) -> tuple[MemoryRange, ...]:
        """The ranges that software may use."""
        return tuple(one for one in self.ranges if one.kind is MemoryKind.AVAILABLE)

    def is_available(self, start: int, end: int) -> bool:
        """Tell whether every byte of ``[start, end)`` is in available ranges."""
        for one in self.available:
            if one.start <= start < one.end:
                start = one.end
        return start >= end

    def without(self, reserve: Sequence[range]) -> "MemoryMap":
        """Return the map in which the bytes of ``reserve`` are reserved too."""
        ranges = list(self.ranges)
        for kept in reserve:
            ranges = [part for one in ranges for part in _cut(one, kept.start, kept.stop)]
            ranges.append(MemoryRange(kept.start, kept.stop, MemoryKind.RESERVED))
        return MemoryMap(ranges)

    @property
    def lower_kib(self) -> int:
        """Available memory from 0 on, in KiB (at most 640)."""
        return min(self._run_end(0), LOW_MEMORY_END) // KIB

    @property
    def upper_kib(self) -> int:
        """Available memory from 1 MiB to the first hole, in KiB."""
        return (self._run_end(MIB) - MIB) // KIB

    def _run_end(self, start: int) -> int:
        for one in self.available:
            if one.start <= start < one.end:
                start = one.end
        return start


def _cut(one: MemoryRange, start: int, end: int) -> Iterator[MemoryRange]:
    """Yield what remains of a range without ``[start, end)``."""
    if not one.overlaps(start, end):
        yield one
        return
    yield MemoryRange(one.start, max(one.start, start), one.kind)
    yield MemoryRange(min(one.end, end), one.end, one.kind)


def ram_ranges(ram_size: int) -> tuple[tuple[int, int], ...]:
    """Return ``(start, end)`` of the RAM below and above the 32-bit device hole."""
    low = (0, min(ram_size, LOW_LIMIT))
    return (low,) if ram_size <= LOW_LIMIT else (low, (HIGH_BASE, HIGH_BASE + ram_size - LOW_LIMIT))


def pc_memory_map(ram_size: int) -> MemoryMap:
    """Return the map of a PC with ``ram_size`` bytes of RAM (at least 2 MiB)."""
    if ram_size < SMALLEST_RAM:
        raise ValueError(f"a PC needs at least 2 MiB of RAM, not {ram_size} bytes")
    reserved = MemoryKind.RESERVED
    ranges = [
        MemoryRange(0, EBDA_BASE),
        MemoryRange(EBDA_BASE, LOW_MEMORY_END, reserved),
        MemoryRange(TABLES_BASE, MIB, reserved),
        *(MemoryRange(page, page + 4 * KIB, reserved) for page in _DEVICE_PAGES),
        MemoryRange(_ROM_BASE, HIGH_BASE, reserved),
    ]
    for start, end in ram_ranges(ram_size):
        ranges.append(MemoryRange(max(start, MIB), end))
    return MemoryMap(ranges)
