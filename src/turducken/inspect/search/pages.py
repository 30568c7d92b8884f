"""The whole pages of a source, numbered: what a search goes through."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from turducken.inspect.errors import InspectError
from turducken.memory import Memory
from turducken.paging.compose import compose
from turducken.paging.ranges import RangeTable
from turducken.paging.readers import Segment, SegmentReader, Words, reader_of

PAGES_AT_ONCE = 1024
MAX_PARTS = 1 << 16
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF


class PageSpace:
    """The whole pages of some segments of memory, numbered from 0 on."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = []
        for one in sorted(segments, key=lambda segment: segment.base):
            skip = -one.base % 4096
            count = (len(one.data) - skip) // 4096
            if count > 0:
                data = one.data[skip : skip + count * 4096]
                zeros = tuple(
                    (-(-max(low - skip, 0) // 4096), min(high - skip, count * 4096) // 4096)
                    for low, high in one.zeros
                )
                self._segments.append(Segment(one.base + skip, data, zeros))
        self._bases = np.array([one.base for one in self._segments], dtype=np.uint64)
        self._sizes = np.array([len(one.data) for one in self._segments], dtype=np.uint64)
        self._first = np.cumsum(self._sizes >> np.uint64(12)) - (self._sizes >> np.uint64(12))
        self.count = int((self._sizes >> np.uint64(12)).sum())

    def number_of(self, address: Words) -> NDArray[np.int64]:
        """Return the number of the page at each address, -1 where there is none."""
        if not len(self._segments):
            return np.full(address.shape, -1, dtype=np.int64)
        if len(self._segments) == 1:
            number = (address - self._bases[0]) >> np.uint64(12)
            return np.where(number < self.count, number, np.uint64(_NOWHERE)).astype(np.int64)
        which = np.searchsorted(self._bases, address, side="right") - 1
        safe = np.maximum(which, 0)
        offset = address - self._bases[safe]
        number = (self._first[safe] + (offset >> np.uint64(12))).astype(np.int64)
        return np.where((which >= 0) & (offset < self._sizes[safe]), number, -1)

    def address_of(self, number: NDArray[np.int64]) -> Words:
        """Return the address of each page."""
        which = np.searchsorted(self._first, number.astype(np.uint64), side="right") - 1
        inside = number.astype(np.uint64) - self._first[which]
        address: Words = self._bases[which] + (inside << np.uint64(12))
        return address

    def as_ranges(self) -> RangeTable:
        """Return where the space has pages, as ranges that lead to themselves."""
        return _as_ranges(self._segments)

    def blocks(self) -> Iterator[tuple[int, Words]]:
        """Yield (number of the first page, pages as rows of 64-bit words); no known zeros."""
        first = 0
        for one in self._segments:
            count = len(one.data) // 4096
            words = np.frombuffer(one.data, dtype="<u8").reshape(count, 512)
            for begin, end in _between(one.zeros, count):
                for low in range(begin, end, PAGES_AT_ONCE):
                    yield first + low, words[low : min(low + PAGES_AT_ONCE, end)]
            first += count

    def empty_runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs of pages, by number, that are known to be zero and are not in blocks."""
        first = 0
        for one in self._segments:
            yield from ((first + low, first + high) for low, high in one.zeros if high > low)
            first += len(one.data) // 4096

    def pages(self, numbers: NDArray[np.int64]) -> Words:
        """Return the given pages (ascending) as rows of 64-bit words."""
        which = np.searchsorted(self._first, numbers.astype(np.uint64), side="right") - 1
        rows = np.empty((len(numbers), 512), dtype=np.uint64)
        for index in np.unique(which).tolist():
            mine = which == index
            data = np.frombuffer(self._segments[index].data, dtype="<u8").reshape(-1, 512)
            rows[mine] = data[numbers[mine] - int(self._first[index])]
        return rows


def space_of(memory: Memory, ranges: RangeTable | None = None) -> PageSpace:
    """Return the pages of a mapped ``memory``; with ``ranges``, as these map to it.

    Raises `InspectError` for a memory that is not mapped (a gdb remote).
    """
    reader = reader_of(memory)
    if not isinstance(reader, SegmentReader):
        raise InspectError("searching needs all of memory: make a dump of this source first")
    if ranges is None:
        return PageSpace(reader.segments)
    backed = _as_ranges(reader.segments)
    parts = []
    for one in compose(ranges, backed).ranges:
        home = reader.segments[int(np.searchsorted(backed.start, one.target, side="right")) - 1]
        offset = one.target - home.base
        # A range may continue into the next segment where two touch.
        zeros = tuple(
            (max(low - offset, 0), min(high - offset, one.size))
            for low, high in home.zeros
            if low < offset + one.size and high > offset
        )
        parts.append(Segment(one.start, home.data[offset : offset + one.size], zeros))
        if len(parts) > MAX_PARTS:
            raise InspectError("the memory behind these translations is too scattered to search")
    return PageSpace(parts)


def _as_ranges(segments: Sequence[Segment]) -> RangeTable:
    start = np.array([one.base for one in segments], dtype=np.uint64)
    size = np.array([len(one.data) for one in segments], dtype=np.uint64)
    zero = np.zeros(len(start), dtype=np.uint64)
    return RangeTable(start, size, start, zero.astype(np.uint32), zero, zero, zero)


def _between(runs: Sequence[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    """Yield what of 0 to ``count`` is in none of ``runs``, which ascend."""
    at = 0
    for low, high in runs:
        if low > at:
            yield at, low
        at = max(at, high)
    if at < count:
        yield at, count
