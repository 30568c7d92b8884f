"""Two tables side by side: where they map differently."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from turducken.paging.ranges import RangeTable
from turducken.paging.readers import Bools, Words


class Change(Enum):
    """How a range differs between table A and table B."""

    ONLY_A = "only in A"
    ONLY_B = "only in B"
    TARGET = "leads elsewhere"
    ATTRIBUTES = "other attributes"


_CHANGES = tuple(Change)
_NUMBER = {change: number for number, change in enumerate(_CHANGES, 1)}
"""How intervals are marked: 0 where there is no difference."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``size`` bytes at input ``start``, and what each table says of them (None: not mapped)."""

    change: Change
    start: int
    size: int
    target_a: int | None
    target_b: int | None
    attributes_a: int | None
    attributes_b: int | None


@dataclass(frozen=True, slots=True)
class _Side:
    """What one table says of each elementary interval."""

    there: Bools
    target: Words
    attributes: NDArray[np.uint32]

    def take(self, which: NDArray[np.intp] | slice) -> "_Side":
        return _Side(self.there[which], self.target[which], self.attributes[which])


@dataclass(frozen=True, slots=True)
class Differences:
    """Every range in which two tables differ, as columns, in input order."""

    kind: NDArray[np.uint8]
    """1 to 4, for the members of `Change` in their order."""
    start: Words
    size: Words
    a: _Side
    b: _Side

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[Difference]:
        return (self.at(index) for index in range(len(self)))

    def which(self, change: Change) -> NDArray[np.intp]:
        """Return the indices of the differences of one kind."""
        return np.flatnonzero(self.kind == _NUMBER[change])

    def at(self, index: int) -> Difference:
        """Return one difference."""
        a, b = self.a, self.b
        return Difference(
            _CHANGES[int(self.kind[index]) - 1],
            int(self.start[index]),
            int(self.size[index]),
            int(a.target[index]) if a.there[index] else None,
            int(b.target[index]) if b.there[index] else None,
            int(a.attributes[index]) if a.there[index] else None,
            int(b.attributes[index]) if b.there[index] else None,
        )


def compare(a: RangeTable, b: RangeTable, *, mask: int = 0xFFFF_FFFF) -> Differences:
    """Return every range in which the two differ.

    Only attributes in ``mask`` count. A range that leads elsewhere with other attributes too is
    reported as leading elsewhere.
    """
    cuts = _cuts(a, b)
    size = np.diff(cuts)
    mine, yours = _side(a, cuts[:-1]), _side(b, cuts[:-1])
    kind = _kinds(mine, yours, np.uint32(mask))
    if not kind.any():
        none = slice(0, 0)
        return Differences(kind[none], cuts[none], size[none], mine.take(none), yours.take(none))
    breaks = _breaks(size, kind, mine, yours)
    heads = np.concatenate((np.zeros(1, dtype=np.intp), breaks + 1))
    total = np.add.reduceat(size, heads)
    some = kind[heads] > 0
    heads, total = heads[some], total[some]
    return Differences(kind[heads], cuts[heads], total, mine.take(heads), yours.take(heads))


def _cuts(a: RangeTable, b: RangeTable) -> Words:
    """Return all boundaries of both (2**64, which no range passes, would read as 0: cut short)."""
    ends = [
        np.where(one.last + np.uint64(1) == 0, one.last, one.last + np.uint64(1)) for one in (a, b)
    ]
    return np.unique(np.concatenate((a.start, b.start, *ends)))


def _side(table: RangeTable, at: Words) -> _Side:
    if not len(table):
        none = np.zeros(len(at), dtype=np.uint64)
        return _Side(none.astype(np.bool_), none, none.astype(np.uint32))
    index = np.searchsorted(table.start, at, side="right") - 1
    found = np.maximum(index, 0)
    there = (index >= 0) & (at <= table.last[found])
    target = np.where(there, table.target[found] + (at - table.start[found]), np.uint64(0))
    return _Side(there, target, np.where(there, table.attributes[found], np.uint32(0)))


def _kinds(mine: _Side, yours: _Side, mask: np.uint32) -> NDArray[np.uint8]:
    both = mine.there & yours.there
    other = (mine.attributes ^ yours.attributes) & mask != 0
    kind = np.zeros(len(both), dtype=np.uint8)
    kind[both & other] = _NUMBER[Change.ATTRIBUTES]
    kind[both & (mine.target != yours.target)] = _NUMBER[Change.TARGET]
    kind[mine.there & ~yours.there] = _NUMBER[Change.ONLY_A]
    kind[yours.there & ~mine.there] = _NUMBER[Change.ONLY_B]
    return kind


def _breaks(size: Words, kind: NDArray[np.uint8], mine: _Side, yours: _Side) -> NDArray[np.intp]:
    """Return the intervals after which a difference ends."""
    differ = kind[1:] != kind[:-1]
    for side in (mine, yours):
        moved = np.where(side.there[:-1], size[:-1], np.uint64(0))
        differ |= (side.target[1:] - side.target[:-1] != moved) & side.there[1:]
        differ |= side.attributes[1:] != side.attributes[:-1]
    return np.flatnonzero(differ | (kind[1:] == 0))
