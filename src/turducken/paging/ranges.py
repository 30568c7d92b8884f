"""Merged ranges: what a table, or a composition of tables, maps where, in NumPy columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from turducken.arch.memory_types import PAT_RESET
from turducken.memory import Memory
from turducken.paging import rights
from turducken.paging.formats import BoundFormat
from turducken.paging.readers import Bools, Words
from turducken.paging.survey import DEFAULT_MAX_TABLES, Rows, State, Survey, join_rows

Attributes = NDArray[np.uint32]

DEFAULT_MAX_RANGES = 1 << 22
"""16 GiB of single pages, each somewhere else; some 250 MB."""

MAX_PROBLEMS = 1 << 16
NO_ENTRY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Range(NamedTuple):
    """``size`` bytes from input address ``start`` on lead to ``target`` on, all with one right."""

    start: int
    size: int
    target: int
    attributes: int
    entry_address: int | None
    """Where the first leaf entry lies, in the table's output space; None if there is no table."""
    shifts: int
    """Bit n is set if the range has a leaf of ``1 << n`` bytes."""
    leaves: int

    @property
    def end(self) -> int:
        """The first input address after the range."""
        return self.start + self.size


def _no_words() -> Words:
    return np.zeros(0, dtype=np.uint64)


def _no_attributes() -> Attributes:
    return np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class RangeTable:
    """Ranges in ascending input order that do not overlap; iterate for `Range` records.

    Input addresses are canonical (sign-extended) where the format's are.
    """

    start: Words = field(default_factory=_no_words)
    size: Words = field(default_factory=_no_words)
    target: Words = field(default_factory=_no_words)
    attributes: Attributes = field(default_factory=_no_attributes)
    entry_address: Words = field(default_factory=_no_words)
    shifts: Words = field(default_factory=_no_words)
    leaves: Words = field(default_factory=_no_words)

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[Range]:
        columns = [getattr(self, one.name).tolist() for one in fields(self)]
        for start, size, target, attributes, entry, shifts, leaves in zip(*columns, strict=True):
            where = None if entry == int(NO_ENTRY) else entry
            yield Range(start, size, target, attributes, where, shifts, leaves)

    @property
    def last(self) -> Words:
        """The last input address of each range (the end of the last one may be 2**64)."""
        return self.start + (self.size - np.uint64(1))

    @property
    def total(self) -> int:
        """Number of bytes mapped."""
        return int(self.size.sum(dtype=np.uint64))

    def take(self, which: NDArray[np.intp] | Bools | slice) -> "RangeTable":
        """Return the selected ranges."""
        return RangeTable(*(getattr(self, one.name)[which] for one in fields(self)))

    def find(self, address: int) -> Range | None:
        """Return the range that contains input ``address``, or None."""
        index = int(np.searchsorted(self.start, np.uint64(address), side="right")) - 1
        if index < 0 or address > int(self.last[index]):
            return None
        return next(iter(self.take(slice(index, index + 1))))

    def where(self, mask: int, value: int | None = None) -> "RangeTable":
        """Return the ranges whose attributes under ``mask`` are ``value`` (default: all set)."""
        value = mask if value is None else value
        return self.take(self.attributes & np.uint32(mask) == np.uint32(value))

    def without(self, mask: int) -> "RangeTable":
        """Return the ranges with the attribute bits of ``mask`` cleared, and merged again."""
        kept = np.uint32(~mask & 0xFFFF_FFFF)
        return merge(replace(self, attributes=self.attributes & kept))

    def clip(self, start: int, end: int) -> "RangeTable":
        """Return what lies in input addresses ``start`` (inclusive) to ``end`` (exclusive)."""
        if end <= start or not len(self):
            return RangeTable()
        first, last = np.uint64(start), np.uint64(end - 1)
        part = self.take((self.start <= last) & (self.last >= first))
        cut = np.maximum(part.start, first)
        size = np.minimum(part.last, last) - cut + np.uint64(1)
        entry = np.where(cut == part.start, part.entry_address, NO_ENTRY)
        moved = cut - part.start
        return replace(
            part, start=cut, size=size, target=np.add(part.target, moved), entry_address=entry
        )


def join(parts: list[RangeTable]) -> RangeTable:
    """Return the ranges of all ``parts``, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return RangeTable()
    return RangeTable(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(parts[0]))
    )


def merge(table: RangeTable) -> RangeTable:
    """Unite neighbours that continue each other in input, output and attributes."""
    if len(table) < 2:
        return table
    size = table.size[:-1]
    breaks = table.start[:-1] + size != table.start[1:]
    breaks |= table.target[:-1] + size != table.target[1:]
    breaks |= table.attributes[:-1] != table.attributes[1:]
    heads = np.concatenate((np.zeros(1, dtype=np.intp), np.flatnonzero(breaks) + 1))
    if len(heads) == len(table):
        return table
    return RangeTable(
        table.start[heads],
        np.add.reduceat(table.size, heads),
        table.target[heads],
        table.attributes[heads],
        table.entry_address[heads],
        np.bitwise_or.reduceat(table.shifts, heads),
        np.add.reduceat(table.leaves, heads),
    )


class Merger:
    """Merges blocks of ranges as they come; only the merged ranges are kept."""

    def __init__(self) -> None:
        self._parts: list[RangeTable] = []
        self._open = RangeTable()
        self.length = 0

    def add(self, block: RangeTable) -> None:
        """Take the next block, which lies after the earlier ones."""
        if not len(block):
            return
        merged = merge(join([self._open, block]) if len(self._open) else block)
        self._open = merged.take(slice(len(merged) - 1, len(merged)))
        if len(merged) > 1:
            self._parts.append(merged.take(slice(0, len(merged) - 1)))
            self.length += len(merged) - 1

    def result(self) -> RangeTable:
        """Return everything that was added."""
        return join([*self._parts, self._open] if len(self._open) else self._parts)


@dataclass(frozen=True, slots=True)
class Mapping:
    """All that a table maps, and what in it does not map anything though it is present."""

    fmt: BoundFormat
    root: int
    ranges: RangeTable
    problems: Rows
    """Malformed entries and references to tables that are not in memory, `MAX_PROBLEMS` at most."""
    tables_read: int
    truncated: bool
    """A limit was reached; what lies after the last range is unknown."""

    def problem_address(self, index: int) -> int:
        """Return the first input address that problem ``index`` concerns."""
        return int(canonical(self.fmt, self.problems.start[index : index + 1])[0])

    def problem_size(self, index: int) -> int:
        """Return how many bytes of input problem ``index`` concerns."""
        level = self.fmt.levels[int(self.problems.level[index])]
        return int(self.problems.count[index]) << level.shift


def canonical(fmt: BoundFormat, start: Words) -> Words:
    """Return offsets into the translated space as linear addresses; EPT's are what they are."""
    if fmt.is_ept or fmt.address_bits < 48:
        return start
    sign = np.uint64(1 << (fmt.address_bits - 1))
    if not len(start) or start[-1] < sign:
        return start
    upper = np.uint64(~((1 << fmt.address_bits) - 1) & 0xFFFF_FFFF_FFFF_FFFF)
    return np.where(start & sign != np.uint64(0), start | upper, start)


def map_ranges(
    fmt: BoundFormat,
    memory: Memory,
    root: int,
    *,
    pat: int = PAT_RESET,
    accessed_dirty: bool = False,
    max_tables: int = DEFAULT_MAX_TABLES,
    max_ranges: int = DEFAULT_MAX_RANGES,
) -> Mapping:
    """Return everything that the tables below ``root`` (the register's value) map, merged.

    With ``accessed_dirty`` the A and D flags of leaves tell ranges apart too. Input addresses are
    the format's; tables and targets are in its output space, which ``memory`` holds.
    """
    survey = Survey(fmt, memory, root, accessed_dirty=accessed_dirty, max_tables=max_tables)
    merger, problems, bad = Merger(), [], 0
    truncated = False
    for rows in survey.rows():
        pages = rows.state == State.PAGE
        if not pages.all():
            other = rows.take(~pages)
            if bad < MAX_PROBLEMS:
                problems.append(other.take(slice(0, MAX_PROBLEMS - bad)))
            bad += len(other)
        good = rows if pages.all() else rows.take(pages)
        merger.add(ranges_of(fmt, good, pat=pat, accessed_dirty=accessed_dirty))
        if merger.length > max_ranges or bad > max_ranges:
            truncated = True
            break
    return Mapping(
        fmt,
        root,
        merger.result(),
        join_rows(problems),
        survey.tables_read,
        survey.truncated or truncated,
    )


def ranges_of(
    fmt: BoundFormat, rows: Rows, *, pat: int = PAT_RESET, accessed_dirty: bool = False
) -> RangeTable:
    """Return rows that map pages as ranges, not merged."""
    shift = _by_level(fmt, rows, lambda number: fmt.levels[number].shift)
    return RangeTable(
        canonical(fmt, rows.start),
        rows.count << shift,
        _targets(fmt, rows),
        _attributes(fmt, rows, pat, accessed_dirty=accessed_dirty),
        rows.entry_address,
        np.uint64(1) << shift,
        rows.count,
    )


def _by_level(fmt: BoundFormat, rows: Rows, value: Callable[[int], int]) -> Words:
    """Return ``value(level)`` for every row."""
    return np.array([value(number) for number in range(len(fmt.levels))], dtype=np.uint64)[
        rows.level
    ]


def _targets(fmt: BoundFormat, rows: Rows) -> Words:
    target = rows.entry & _by_level(fmt, rows, lambda number: fmt.levels[number].leaf_address)
    for number, level in enumerate(fmt.levels):
        if level.pse36:
            high = (rows.entry >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)
            target = np.where(rows.level == number, target | high, target)
    return target


_FLAGS = np.uint64(0xFFF << 52 | 0x1FFF)
_RIGHTS = np.uint64(0x7FF)  # all_of and any_of hold nothing above, but for XD
_XD = np.uint64(1 << 63)


def _attributes(
    fmt: BoundFormat, rows: Rows, pat: int, *, accessed_dirty: bool
) -> NDArray[np.uint32]:
    """Return each row's attribute word, worked out once for each distinct combination of flags."""
    if not len(rows):
        return np.zeros(0, dtype=np.uint32)
    # The key packs all that the word depends on: flags, rights of all levels, the level.
    key = rows.entry & _FLAGS & ~_by_level(fmt, rows, lambda number: _address_bits(fmt, number))
    key |= (rows.all_of & _RIGHTS) << np.uint64(13)
    key |= rows.level.astype(np.uint64) << np.uint64(24)
    if not fmt.is_ept:
        key |= rows.any_of & _XD
    if (key == key[0]).all():
        return np.full(len(rows), _attribute_word(fmt, rows, 0, pat, accessed_dirty), np.uint32)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    words = [_attribute_word(fmt, rows, int(at), pat, accessed_dirty) for at in first.tolist()]
    return np.array(words, dtype=np.uint32)[inverse]


def _attribute_word(
    fmt: BoundFormat,
    rows: Rows,
    index: int,
    pat: int,
    accessed_dirty: bool,
) -> int:
    shift = fmt.levels[int(rows.level[index])].shift
    entry, all_of, any_of = (
        int(column[index]) for column in (rows.entry, rows.all_of, rows.any_of)
    )
    word = rights.leaf_attributes(fmt, shift, entry, all_of, any_of, pat=pat)
    return word if accessed_dirty else word & ~(rights.A | rights.D)


def _address_bits(fmt: BoundFormat, number: int) -> int:
    """Return the bits of a leaf of level ``number`` that hold its address."""
    layout = fmt.levels[number].layout_leaf
    if layout is None:
        return 0
    names = [one for one in ("ADDRESS", "ADDRESS_HIGH") if one in layout]
    return layout.mask(*names)
