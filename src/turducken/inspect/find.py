"""Finding the roots of tables in memory from structure alone.

Every page is judged as a table of each level, from the leaves up: a page is plausible at a level if
nearly all of its present entries are well-formed there and lead to pages or to tables that are
plausible one level down. What is plausible at the top, and not part of a larger tree, is a root.
No VMCS layout, symbol or register is used.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from turducken.inspect.errors import InspectError
from turducken.memory import Memory
from turducken.paging import rights
from turducken.paging.compose import compose, within
from turducken.paging.formats import FORMATS, BoundFormat, Features
from turducken.paging.inventory import take_inventory
from turducken.paging.ranges import RangeTable, map_ranges
from turducken.paging.readers import Bools, Segment, SegmentReader, Words, reader_of

PAGES_AT_ONCE = 1024
TOLERANCE = 8
"""One bad entry is forgiven for this many good ones."""

SEARCHED = ("EPT", "4-level", "5-level", "PAE", "32-bit")
PHYSICAL_BITS = 46
"""Addresses above this are taken for garbage: more than any machine has that makes dumps."""

MAX_CANDIDATES = 4096
MAX_PARTS = 1 << 16

ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
_CHEAP = 4
MAX_KINDS = 8
"""A 32-bit table has at most this many combinations of flags, accessed and dirty aside."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plausible root, with the evidence for it."""

    root: int
    format: str
    also: tuple[str, ...]
    """Other formats that the same tables are well-formed in."""
    score: float
    tables: int
    leaves: int
    mapped: int
    malformed: int
    in_memory: float
    """The part of the mapped bytes that leads to memory which the source has."""
    attributes: int
    """How many different attributes its pages have."""

    @property
    def evidence(self) -> str:
        """Return the evidence as one line."""
        return (
            f"{self.tables} tables, {self.leaves} pages, {self.in_memory:.0%} of them to memory, "
            f"{self.attributes} kinds of rights, {self.malformed} malformed entries"
        )


class PageSpace:
    """The whole pages of some segments of memory, numbered from 0 on."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = []
        for one in sorted(segments, key=lambda segment: segment.base):
            skip = -one.base % 4096
            count = (len(one.data) - skip) // 4096
            if count > 0:
                data = one.data[skip : skip + count * 4096]
                self._segments.append(Segment(one.base + skip, data))
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
            return np.where(number < self.count, number, np.uint64(ALL_ONES)).astype(np.int64)
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
        """Yield (number of the first page, pages as rows of 64-bit words)."""
        first = 0
        for one in self._segments:
            count = len(one.data) // 4096
            words = np.frombuffer(one.data, dtype="<u8").reshape(count, 512)
            for low in range(0, count, PAGES_AT_ONCE):
                yield first + low, words[low : low + PAGES_AT_ONCE]
            first += count

    def pages(self, numbers: NDArray[np.int64]) -> Words:
        """Return the given pages (ascending) as rows of 64-bit words."""
        which = np.searchsorted(self._first, numbers.astype(np.uint64), side="right") - 1
        rows = np.empty((len(numbers), 512), dtype=np.uint64)
        for index in np.unique(which).tolist():
            mine = which == index
            data = np.frombuffer(self._segments[index].data, dtype="<u8").reshape(-1, 512)
            rows[mine] = data[numbers[mine] - int(self._first[index])]
        return rows


@dataclass
class _Role:
    """What is known of pages as tables of one level of a format, by page number."""

    plausible: Bools
    leaves: NDArray[np.float32] = field(repr=False)


class Finder:
    """Judges every page of a space once for each level of each format that is asked for."""

    def __init__(self, space: PageSpace, formats: Sequence[str] = SEARCHED) -> None:
        self.space = space
        self._formats = formats
        self._zero = np.zeros(space.count, dtype=np.bool_)
        self._wide: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._narrow: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def roots(self) -> list[tuple[str, int]]:
        """Return (format, address) of every page that is plausible as a top table."""
        self._filter()
        found: list[tuple[str, int]] = []
        features = Features(maxphyaddr=PHYSICAL_BITS)
        for name in self._formats:
            fmt = FORMATS[name].bind(features)
            pages = self._wide if fmt.entry_size == 8 else self._narrow
            role: _Role | None = None
            for number in reversed(range(len(fmt.levels))):
                if fmt.name == "PAE" and number == 0:
                    found += [(name, one) for one in self._quads(fmt, role)]
                    break
                role = self._judge(fmt, number, pages, role)
            else:
                top = np.flatnonzero(role.plausible) if role else np.zeros(0, dtype=np.int64)
                found += [(name, one) for one in self.space.address_of(top).tolist()]
        return found

    def _filter(self) -> None:
        """Drop pages that are no table of any kind, and remember those that are all zero."""
        wide, narrow = [], []
        beyond = np.uint64(((1 << 52) - 1) & ~((1 << PHYSICAL_BITS) - 1))
        seek_narrow = "32-bit" in self._formats
        for first, words in self.space.blocks():
            some = words.any(axis=1)
            self._zero[first : first + len(words)] = ~some
            rows = np.flatnonzero(some)
            if not len(rows):
                continue
            part = words if len(rows) == len(words) else words[rows]
            present = part & np.uint64(7) != 0
            bad = present & (part & beyond != 0)
            good = (present & ~bad).sum(axis=1)
            # Not present here are entries of guests' page tables that hold what they like.
            wide.append(first + rows[(good > 0) & (bad.sum(axis=1) * _CHEAP <= good)])
            if seek_narrow:
                narrow.append(first + rows[_sane_narrow(part)])
        none = np.zeros(0, dtype=np.int64)
        self._wide = np.concatenate([none, *wide])
        self._narrow = np.concatenate([none, *narrow])

    def _judge(
        self, fmt: BoundFormat, number: int, pages: NDArray[np.int64], below: _Role | None
    ) -> _Role:
        plausible = np.zeros(self.space.count, dtype=np.bool_)
        leaves = np.zeros(self.space.count, dtype=np.float32)
        for first in range(0, len(pages), PAGES_AT_ONCE):
            block = pages[first : first + PAGES_AT_ONCE]
            words = self.space.pages(block)
            entries = words if fmt.entry_size == 8 else _halves(words)
            ok, count = self._judge_block(fmt, number, entries, below)
            plausible[block] = ok
            leaves[block] = count
        return _Role(plausible, leaves)

    def _judge_block(
        self, fmt: BoundFormat, number: int, entries: Words, below: _Role | None
    ) -> tuple[Bools, NDArray[np.float32]]:
        level = fmt.levels[number]
        present = entries & np.uint64(fmt.present) != 0
        is_leaf = present & (entries & np.uint64(level.leaf_mask & 0xFFFF_FFFF_FFFF_FFFF) != 0)
        if level.leaf_mask == -1:
            is_leaf = present
        is_table = present & ~is_leaf
        good_leaf = is_leaf & self._good_leaves(fmt, number, entries)
        good = good_leaf.sum(axis=1)
        neutral = np.zeros(len(entries), dtype=np.int64)
        leaves = good.astype(np.float32)
        if below is not None and is_table.any():
            row, column = np.nonzero(is_table)
            entry = entries[row, column]
            child = self.space.number_of(entry & np.uint64(level.table_address))
            formed = _table_formed(fmt, number, entry)
            formed &= (child >= 0) & (entry & np.uint64(level.table_address) != 0)
            empty = formed & self._zero[child]
            formed &= below.plausible[child]
            good = good + np.bincount(row[formed], minlength=len(entries))
            neutral = np.bincount(row[empty], minlength=len(entries))
            leaves += np.bincount(
                row[formed], weights=below.leaves[child[formed]], minlength=len(entries)
            ).astype(np.float32)
        bad = present.sum(axis=1) - good - neutral
        ok = (good > 0) & (leaves > 0) & (bad * TOLERANCE <= good) & (neutral <= 4 * good)
        return ok, leaves

    def _good_leaves(self, fmt: BoundFormat, number: int, entries: Words) -> Bools:
        level = fmt.levels[number]
        reserved = level.leaf_reserved
        if fmt.entry_size == 8 and not fmt.is_ept:
            reserved |= 0x1F << 52  # ignored by the processor, and by every system's pages
        good: Bools = entries & np.uint64(reserved) == 0
        if fmt.is_ept:
            good &= np.uint64(fmt.bad_permissions) >> (entries & np.uint64(7)) & np.uint64(1) == 0
            kind = entries >> np.uint64(3) & np.uint64(7)
            good &= np.uint64(fmt.bad_types) >> kind & np.uint64(1) == 0
            good &= entries & np.uint64(0x7FF << 52) == 0
        if fmt.entry_size == 4:
            inside = self.space.number_of(entries & np.uint64(level.leaf_address)) >= 0
            device = entries >= np.uint64(0xE000_0000)
            rows = (good & inside).sum(axis=1) >= (good & device).sum(axis=1)
            good &= inside | device & rows[:, np.newaxis]
        return good

    def _quads(self, fmt: BoundFormat, below: _Role | None) -> Iterator[int]:
        """Yield the addresses of four PAE PDPTEs in a row."""
        if below is None:
            return
        reserved = np.uint64(0xFFF0_0000_0000_01E6)
        for first, words in self.space.blocks():
            quads = words.reshape(-1, 4)
            formed = (quads & np.uint64(1) != 0) & (quads & reserved == 0)
            formed &= quads >> np.uint64(12) != 0
            rows = np.flatnonzero((formed | (quads == 0)).all(axis=1) & formed.any(axis=1))
            for row in rows.tolist():
                entry = quads[row][formed[row]]
                child = self.space.number_of(entry & np.uint64(fmt.levels[0].table_address))
                if (child >= 0).all() and below.plausible[child].all():
                    page = np.array([first + row // 128], dtype=np.int64)
                    yield int(self.space.address_of(page)[0]) + row % 128 * 32


def _sane_narrow(words: Words) -> Bools:
    """Tell which pages could be 32-bit tables, whose entries have hardly any reserved bits.

    What is not present must be mostly zero, entries must not repeat, and flags must be few.
    """
    entries = np.ascontiguousarray(words).view("<u4")
    present = entries & np.uint32(1)
    count = present.sum(axis=1)
    sane: Bools = (count > 0) & (np.count_nonzero(entries, axis=1) <= 2 * count)
    rows = np.flatnonzero(sane)
    entries, present, count = entries[rows], present[rows], count[rows]
    repeated = ((entries[:, 1:] == entries[:, :-1]) & (present[:, 1:] != 0)).sum(axis=1)
    # Bits 8:7 and 4:1, one of 64 kinds, each a bit of a word.
    kind = (entries >> np.uint32(7) & np.uint32(3)) << np.uint32(4)
    kind |= entries >> np.uint32(1) & np.uint32(15)
    kinds = np.where(present != 0, np.uint64(1) << kind.astype(np.uint64), np.uint64(0))
    together = np.bitwise_or.reduce(kinds, axis=1)
    number = np.unpackbits(together.view(np.uint8)).reshape(-1, 64).sum(axis=1)
    sane[rows] = (repeated * 2 <= count) & (number <= MAX_KINDS)
    return sane


def _halves(words: Words) -> Words:
    return np.ascontiguousarray(words).view("<u4").astype(np.uint64)


def _table_formed(fmt: BoundFormat, number: int, entry: Words) -> Bools:
    level = fmt.levels[number]
    reserved = level.table_reserved
    if fmt.entry_size == 8:
        reserved |= 0x7FF << 52
    else:
        reserved |= 0xF00
    good: Bools = entry & np.uint64(reserved) == 0
    if fmt.is_ept:
        good &= np.uint64(fmt.bad_permissions) >> (entry & np.uint64(7)) & np.uint64(1) == 0
        good &= entry & np.uint64(1) != 0  # no table is referenced without read permission
    return good


# From pages that are plausible to a ranked list.


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
        parts.append(Segment(one.start, home.data[offset : offset + one.size]))
        if len(parts) > MAX_PARTS:
            raise InspectError("the memory behind these translations is too scattered to search")
    return PageSpace(parts)


def _as_ranges(segments: Sequence[Segment]) -> RangeTable:
    start = np.array([one.base for one in segments], dtype=np.uint64)
    size = np.array([len(one.data) for one in segments], dtype=np.uint64)
    zero = np.zeros(len(start), dtype=np.uint64)
    return RangeTable(start, size, start, zero.astype(np.uint32), zero, zero, zero)


def find_roots(
    memory: Memory, space: PageSpace, formats: Sequence[str] = SEARCHED
) -> list[Candidate]:
    """Return the plausible roots in ``space``, the likeliest first.

    ``memory`` has the same addresses as ``space``. Tables below another root are not listed.
    """
    raw = Finder(space, formats).roots()
    backed = space.as_ranges()
    judged = [_weigh(memory, name, root, backed) for name, root in raw[:MAX_CANDIDATES]]
    # Formats with more structure first: a PAE directory also reads as a 32-bit one.
    strength = {name: (name == "32-bit") * 2 + (name == "PAE") for name in SEARCHED}
    best = sorted(filter(_is_sound, judged), key=lambda one: (strength[one.format], -one.score))
    features = Features(maxphyaddr=PHYSICAL_BITS)
    result: dict[int, Candidate] = {}
    inner: set[int] = set()
    for one in best:
        if one.root in result:
            first = result[one.root]
            if strength[one.format] == strength[first.format]:
                result[one.root] = _with_also(first, one.format)
            continue
        if one.root in inner:
            continue
        fmt = FORMATS[one.format].bind(features)
        tables = take_inventory(fmt, memory, one.root, max_tables=1 << 16)
        for level in tables.tables[1:]:
            inner.update(level.tolist())
        result[one.root] = one
    return sorted(result.values(), key=lambda one: -one.score)


def _is_sound(one: Candidate) -> bool:
    """Ask more of the format whose entries hardly reserve any bit."""
    return one.leaves > 0 and (
        one.format != "32-bit" or (one.in_memory >= 0.5 and one.attributes <= 2 * MAX_KINDS)
    )


def _with_also(one: Candidate, name: str) -> Candidate:
    return replace(one, also=(*one.also, name)) if name not in one.also else one


def _weigh(memory: Memory, name: str, root: int, backed: RangeTable) -> Candidate:
    fmt = FORMATS[name].bind(Features(maxphyaddr=PHYSICAL_BITS))
    mapping = map_ranges(fmt, memory, root, max_tables=1 << 14, max_ranges=1 << 17)
    ranges = mapping.ranges
    mapped, leaves = ranges.total, int(ranges.leaves.sum())
    inside = within(ranges, backed).total if len(ranges) else 0
    share = inside / mapped if mapped else 0.0
    kinds = len(np.unique(ranges.attributes)) if len(ranges) else 0
    malformed = len(mapping.problems)
    score = 2 * math.log2(1 + mapping.tables_read) + math.log2(1 + leaves)
    score += 4 * share - 2 * malformed / (1 + leaves) - math.log2(1 + kinds)
    score += _preference(name, ranges)
    return Candidate(
        root,
        name,
        (),
        round(score, 2),
        mapping.tables_read,
        leaves,
        mapped,
        malformed,
        round(share, 4),
        kinds,
    )


def _preference(name: str, ranges: RangeTable) -> float:
    """Tell apart formats that the same bytes are well-formed in, by what their owners do."""
    if not len(ranges):
        return 0.0
    weight = ranges.leaves.astype(np.float64)
    total = weight.sum()
    kind = rights.MEMORY_TYPE.mask
    cached = (ranges.attributes & np.uint32(kind)) == np.uint32(6 << 8)
    return float((weight * cached).sum() / total) * 3.0 + (0.5 if name == "EPT" else 0.0)
