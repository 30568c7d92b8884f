"""Reading many tables at once: from mapped bytes without copying, from anything else by `read`.

A memory may bring its own way to read tables in bulk (a method ``table_reader``, see `HasReader`);
otherwise this module finds one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from turducken.memory import Memory, MemoryHoleError, PhysicalMemory

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Octets = NDArray[np.uint8]


class TableReader(Protocol):
    """Bulk reading of tables of one size."""

    def read_tables(self, addresses: Words, count: int, size: int) -> tuple[Words, Bools]:
        """Return the ``count`` entries of ``size`` bytes of each table, and which tables exist.

        The entries have shape ``(len(addresses), count)`` and may be a read-only view; a table of
        which a byte is missing reads as zeros.
        """


@runtime_checkable
class HasReader(Protocol):
    """A memory that reads tables in bulk in its own way."""

    def table_reader(self) -> TableReader:
        """Return the reader."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of memory that lie together in this process, from physical address ``base`` on."""

    base: int
    data: Octets
    zeros: tuple[tuple[int, int], ...] = ()
    """Offsets (begin, end) between which the bytes are known to be zero, ascending."""

    @property
    def end(self) -> int:
        """The first address after the segment."""
        return self.base + len(self.data)


def distinct(words: Words) -> Words:
    """Return each word once, ascending. For short arrays faster than NumPy's own."""
    ordered = np.sort(words)
    if len(ordered) < 2:
        return ordered
    first = np.concatenate((np.ones(1, dtype=np.bool_), ordered[1:] != ordered[:-1]))
    once: Words = ordered[first]
    return once


class SegmentReader:
    """Reads tables from segments, in place where they lie one after another."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(sorted((one for one in segments if len(one.data)), key=_base))
        self._bases = np.array([one.base for one in self.segments], dtype=np.uint64)
        self._ends = np.array([one.end for one in self.segments], dtype=np.uint64)

    def read_tables(self, addresses: Words, count: int, size: int) -> tuple[Words, Bools]:
        """See `TableReader`."""
        length = count * size
        number = len(addresses)
        which = np.searchsorted(self._bases, addresses, side="right").astype(np.intp) - 1
        exists = which >= 0
        if number and self.segments:
            ends = self._ends[which]
            # Written so that an address near 2**64 cannot wrap around.
            exists &= (ends > addresses) & (ends - addresses >= np.uint64(length))
        if number and exists.all() and (which == which[0]).all():
            return self._from_one(int(which[0]), addresses, count, size), exists
        entries = np.zeros((number, count), dtype=np.uint64)
        for index in np.unique(which[exists]):
            mine = np.flatnonzero(exists & (which == index))
            entries[mine] = self._from_one(int(index), addresses[mine], count, size)
        return entries, exists

    def _from_one(self, index: int, addresses: Words, count: int, size: int) -> Words:
        segment = self.segments[index]
        length = count * size
        offsets = (addresses - np.uint64(segment.base)).astype(np.intp)
        first = int(offsets[0])
        if (np.diff(offsets) == length).all():
            return _entries(segment.data[first : first + length * len(offsets)], count, size)
        if not (offsets % length).any():
            whole = len(segment.data) // length * length
            return _entries(segment.data[:whole], count, size, offsets // length)
        return np.concatenate(
            [_entries(segment.data[at : at + length], count, size) for at in offsets.tolist()]
        )


def _base(segment: Segment) -> int:
    return segment.base


def _entries(data: Octets, count: int, size: int, which: NDArray[np.intp] | None = None) -> Words:
    """Return the bytes as tables of ``count`` entries, one a row: all, or those at ``which``."""
    if size == 8:
        wide = np.frombuffer(data, dtype="<u8").reshape(-1, count)
        return wide if which is None else wide[which]
    narrow = np.frombuffer(data, dtype="<u4").reshape(-1, count)
    return (narrow if which is None else narrow[which]).astype(np.uint64)


class ByteReader:
    """Reads tables from any memory with `Memory.read`, as many at once as lie together."""

    def __init__(self, memory: Memory, *, longest: int = 1 << 18) -> None:
        self._memory = memory
        self._longest = longest

    def read_tables(self, addresses: Words, count: int, size: int) -> tuple[Words, Bools]:
        """See `TableReader`."""
        length = count * size
        entries = np.zeros((len(addresses), count), dtype=np.uint64)
        exists = np.zeros(len(addresses), dtype=np.bool_)
        for first, last in _adjacent(addresses, length, max(1, self._longest // length)):
            self._fill(entries, exists, int(addresses[first]), slice(first, last), size)
        return entries, exists

    def _fill(self, entries: Words, exists: Bools, address: int, rows: slice, size: int) -> None:
        count = entries.shape[1]
        length = count * size
        number = rows.stop - rows.start
        try:
            data = self._memory.read(address, number * length)
        except MemoryHoleError:
            if number == 1:
                return
            for row in range(number):
                one = slice(rows.start + row, rows.start + row + 1)
                self._fill(entries, exists, address + row * length, one, size)
            return
        entries[rows] = _entries(np.frombuffer(data, dtype=np.uint8), count, size)
        exists[rows] = True


def _adjacent(addresses: Words, length: int, most: int) -> list[tuple[int, int]]:
    """Split into runs ``(first, last + 1)`` of tables that follow one another in memory."""
    if not len(addresses):
        return []
    breaks = np.flatnonzero(addresses[1:] - addresses[:-1] != np.uint64(length)) + 1
    bounds = [0, *breaks.tolist(), len(addresses)]
    return [
        (at, min(at + most, last))
        for first, last in pairwise(bounds)
        for at in range(first, last, most)
    ]


def reader_of(memory: Memory) -> TableReader:
    """Return the best bulk reader for ``memory``."""
    if isinstance(memory, HasReader):
        return memory.table_reader()
    if isinstance(memory, PhysicalMemory):
        octets = np.frombuffer(memory.bytes, dtype=np.uint8)
        return SegmentReader(
            [
                Segment(one.base, octets[one.offset : one.offset + one.size])
                for one in memory.regions
            ]
        )
    return ByteReader(memory)
