"""Two stages as one: where an address goes, and what it may do there, through both.

``EPT02(x) = EPT01(EPT12(x))``, and the same for a guest's tables under an EPT.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from turducken.paging import rights
from turducken.paging.ranges import NO_ENTRY, Merger, RangeTable, merge
from turducken.paging.readers import Bools, Words

_PAGE = np.uint64(12)
ALL_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
FEW = 16
MAX_PIECES = 1 << 22
AT_ONCE = 1 << 17
"""Inner ranges are taken in blocks of this many, which keeps intermediate results small."""
INDEX_PAGES = 1 << 25
"""The index of the outer stage is used where it spans at most this many pages (128 GiB)."""


@dataclass(frozen=True, slots=True)
class Composition:
    """Both stages as one, and the part of the first that the second does not map."""

    ranges: RangeTable
    """From the inner stage's input to the outer stage's output."""
    unmapped: RangeTable
    """As in the inner stage: targets are in the space between the stages."""
    truncated: bool = False
    """The stages cut each other into more than `MAX_PIECES`; what comes later is left out."""


def compose(inner: RangeTable, outer: RangeTable) -> Composition:
    """Return the composition of ``inner`` and then ``outer``, merged.

    Attributes are those of `turducken.paging.rights.combine`. Ranges whose permissions the two
    stages have not in common stay in the result, with the permissions that are left.
    """
    if not len(inner) or not len(outer):
        return Composition(RangeTable(), inner)
    overlaps, merger, covered = _Overlaps(outer, len(inner)), Merger(), 0
    truncated = False
    for first in range(0, len(inner), AT_ONCE):
        pieces = _through(inner.take(slice(first, first + AT_ONCE)), outer, overlaps)
        covered += pieces.total
        merger.add(pieces)
        truncated = len(pieces) >= MAX_PIECES or merger.length >= MAX_PIECES
        if truncated:
            break
    unmapped = RangeTable()
    if covered != inner.total and not truncated:
        unmapped = merge(within(inner, _gaps(outer)))
    return Composition(merger.result(), unmapped, truncated)


def within(ranges: RangeTable, regions: RangeTable) -> RangeTable:
    """Return the pieces of ``ranges`` whose targets lie in the input ranges of ``regions``.

    Attributes and targets stay those of ``ranges``. Neighbouring pieces are not merged.
    """
    if not len(ranges) or not len(regions):
        return RangeTable()
    ranges = ranges.take(_near(ranges, regions))
    cut = _cut(ranges, regions, _Overlaps(regions, len(ranges)))
    return replace(
        cut.inner,
        start=np.add(cut.inner.start, cut.low - cut.inner.target),
        size=cut.size,
        target=cut.low,
        entry_address=np.full(len(cut.size), NO_ENTRY),
    )


def _near(ranges: RangeTable, regions: RangeTable) -> Bools:
    """Tell which ranges could lead into ``regions``: all those, and perhaps some more."""
    last = ranges.target + (ranges.size - np.uint64(1))
    if len(regions) > FEW:
        between: Bools = (ranges.target <= regions.last[-1]) & (last >= regions.start[0])
        return between
    near = np.zeros(len(ranges), dtype=np.bool_)
    for low, high in zip(regions.start, regions.last, strict=True):
        near |= (ranges.target <= high) & (last >= low)
    return near


def outside(ranges: RangeTable, regions: RangeTable) -> RangeTable:
    """Return the pieces of ``ranges`` whose targets lie in none of ``regions``, merged."""
    if not len(ranges) or not len(regions):
        return ranges
    inside = np.zeros(len(ranges), dtype=np.bool_)
    if len(regions) <= FEW:
        last = ranges.target + (ranges.size - np.uint64(1))
        for low, high in zip(regions.start, regions.last, strict=True):
            inside |= (ranges.target >= low) & (last <= high)
    return compose(ranges.take(~inside), regions).unmapped


class _Overlaps:
    """Finds, for ranges that lead into the input of ``outer``, which outer ranges they reach."""

    def __init__(self, outer: RangeTable, expected: int) -> None:
        self._outer = outer
        self._owner: NDArray[np.int32] | None = None
        self._base = outer.start[0] >> _PAGE
        self._pages = int((outer.last[-1] >> _PAGE) - self._base) + 1
        worth_it = len(outer) > 4096 and self._pages <= min(INDEX_PAGES, 16 * expected)
        if worth_it and not ((outer.start | outer.size) & np.uint64(0xFFF)).any():
            # By page number: millions of binary searches would miss every cache.
            ends = ((outer.last >> _PAGE) - self._base).astype(np.int64)
            self._owner = np.repeat(
                np.arange(len(outer), dtype=np.int32), np.diff(ends, prepend=-1)
            )

    def find(self, inner: RangeTable) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return, for each inner range, the first outer range it reaches and one after the last."""
        outer = self._outer
        low, high = inner.target, inner.target + (inner.size - np.uint64(1))
        if self._owner is None:
            first = np.searchsorted(outer.last, low, side="left")
            return first, np.maximum(first, np.searchsorted(outer.start, high, side="right"))
        first, _, above = self._at(self._owner, low)
        first = np.where(above, len(outer), first)
        last, below, above_last = self._at(self._owner, high)
        stop = last + (outer.start[last] <= high)
        stop = np.where(below, 0, np.where(above_last, len(outer), stop))
        return first, np.maximum(first, stop)

    def _at(
        self, owner: NDArray[np.int32], address: Words
    ) -> tuple[NDArray[np.intp], Bools, Bools]:
        page = address >> _PAGE
        below, above = page < self._base, page > self._base + np.uint64(self._pages - 1)
        index = np.where(below, np.uint64(0), page - self._base)
        index = np.where(above, np.uint64(self._pages - 1), index)
        return owner[index.astype(np.intp)].astype(np.intp), below, above


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Where inner and outer ranges overlap: a row for each piece."""

    inner: RangeTable
    outer: NDArray[np.intp]
    """Index of the outer range."""
    low: Words
    """First address between the stages, and the number of bytes."""
    size: Words


def _cut(inner: RangeTable, outer: RangeTable, overlaps: _Overlaps) -> _Pieces:
    """Cut every inner range into the pieces that lie in one outer range each."""
    first, stop = overlaps.find(inner)
    counts = stop - first
    room = MAX_PIECES - np.cumsum(counts)
    if len(room) and room[-1] < 0:
        # Tables that map the same memory over and over: garbage, usually.
        counts = np.clip(counts + np.minimum(room, 0), 0, counts)
    if (counts == 1).all():
        # The usual case when both stages are mapped page by page.
        part, theirs = inner, first
    else:
        mine = np.repeat(np.arange(len(inner)), counts)
        before = np.cumsum(counts) - counts
        part, theirs = inner.take(mine), np.arange(len(mine)) - np.repeat(before - first, counts)
    one = np.uint64(1)
    start = outer.start[theirs]
    low = np.maximum(part.target, start)
    high = np.minimum(part.target + (part.size - one), start + (outer.size[theirs] - one))
    return _Pieces(part, theirs, low, high - low + one)


def _through(inner: RangeTable, outer: RangeTable, overlaps: _Overlaps) -> RangeTable:
    """Return each piece of an inner range that lies in one outer range, not merged."""
    cut = _cut(inner, outer, overlaps)
    moved_in, moved_out = cut.low - cut.inner.target, cut.low - outer.start[cut.outer]
    return RangeTable(
        np.add(cut.inner.start, moved_in),
        cut.size,
        np.add(outer.target[cut.outer], moved_out),
        combine_all(cut.inner.attributes, outer.attributes[cut.outer]),
        np.full(len(cut.size), NO_ENTRY),
        cut.inner.shifts | outer.shifts[cut.outer],
        np.ones(len(cut.size), dtype=np.uint64),
    )


def _gaps(table: RangeTable) -> RangeTable:
    """Return what lies between the ranges of ``table``, mapped to itself."""
    after = table.last + np.uint64(1)
    # The last range may end at 2**64, where there is no gap (and the sum is 0).
    begin = np.concatenate((np.zeros(1, dtype=np.uint64), after))
    end = np.concatenate((table.start, np.zeros(1, dtype=np.uint64)))
    size = end - begin
    size[-1] = np.uint64(0) if after[-1] == 0 else ALL_ONES - begin[-1]
    some = size != 0
    none = np.zeros(int(some.sum()), dtype=np.uint64)
    return RangeTable(
        begin[some], size[some], begin[some], none.astype(np.uint32), none, none, none
    )


def combine_all(inner: NDArray[np.uint32], outer: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply `turducken.paging.rights.combine` to each pair."""
    if not len(inner):
        return inner
    if (inner == inner[0]).all() and (outer == outer[0]).all():
        return np.full(len(inner), rights.combine(int(inner[0]), int(outer[0])), dtype=np.uint32)
    pairs = inner.astype(np.uint64) << np.uint64(32) | outer.astype(np.uint64)
    distinct, inverse = np.unique(pairs, return_inverse=True)
    words = [rights.combine(one >> 32, one & 0xFFFF_FFFF) for one in distinct.tolist()]
    return np.array(words, dtype=np.uint32)[inverse]
