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


def compare(a: RangeTable, b: RangeTable, *, mask: int = 0xFFFF_FFFF) -> Iterator[Difference]:
    """Yield, in input order, every range in which the two differ.

    Only attributes in ``mask`` count. A range that leads elsewhere with other attributes too is
    reported as leading elsewhere.
    """
    cuts = _cuts(a, b)
    if not len(cuts):
        return
    size = np.diff(cuts)
    mine, yours = _side(a, cuts[:-1]), _side(b, cuts[:-1])
    kind = _kinds(mine, yours, np.uint32(mask))
    breaks = _breaks(size, kind, mine, yours)
    heads = np.concatenate((np.zeros(1, dtype=np.intp), breaks + 1))
    total = np.add.reduceat(size, heads)
    for at, length in zip(heads[kind[heads] > 0], total[kind[heads] > 0], strict=True):
        yield Difference(
            _CHANGES[int(kind[at]) - 1],
            int(cuts[at]),
            int(length),
            int(mine.target[at]) if mine.there[at] else None,
            int(yours.target[at]) if yours.there[at] else None,
            int(mine.attributes[at]) if mine.there[at] else None,
            int(yours.attributes[at]) if yours.there[at] else None,
        )


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
