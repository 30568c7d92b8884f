"""Judging every page as a table of each level of a format, from the leaves up.

A page is plausible at a level if nearly all of its present entries lead to pages, or to tables that
are plausible one level down. Entries may be *faulty*: malformed, and yet with an address that leads
where an entry of this level should lead. A faulty table is what somebody searches who has a faulty
table, so a few faulty entries, or many with one and the same fault, do not hide it. No symbol or
register is used, and bits that processors ignore may hold what they like, as long as they hold few
different things.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from turducken.inspect.search.pages import PAGES_AT_ONCE, PageSpace
from turducken.paging.formats import FORMATS, BoundFormat, Features
from turducken.paging.readers import Bools, Words

SEARCHED = ("EPT", "EPT 5-level", "4-level", "5-level", "PAE", "32-bit")
PHYSICAL_BITS = 46
"""Addresses above this are taken for garbage: more than any machine has that makes dumps."""

FEATURES = Features(maxphyaddr=PHYSICAL_BITS)
TOLERANCE = 8
"""One garbage entry is forgiven for this many good ones."""
LOOSE = 2
"""The same where near misses are asked for."""

_ADDRESS = np.uint64((1 << PHYSICAL_BITS) - 4096)
_CHEAP = 4
_MAX_KINDS = 8
"""A 32-bit table has at most this many combinations of flags, accessed and dirty aside."""
_MAX_VARYING = 6
"""Of the ignored bits 62:52, so many may differ between the entries of one table."""
_SOFTWARE = np.uint64(0x7FF << 52)
_LOW = np.uint64(0xFFF)
_SUPPRESS_VE = np.uint64(1 << 63)
"""All that an entry has that is not present, where a hypervisor suppresses #VE by default."""
WRITE_ONLY = (2, 6)
"""Permissions of entries that hypervisors misconfigure on purpose, to catch accesses to devices."""

Counts = NDArray[np.int64]
Weights = NDArray[np.float32]


@dataclass
class Role:
    """What is known of pages as tables of one level of a format, by page number."""

    plausible: Bools
    leaves: Weights = field(repr=False)
    """Pages mapped below."""
    faults: Weights = field(repr=False)
    """Faulty entries in the table and below."""


@dataclass(frozen=True, slots=True)
class Root:
    """A page that is plausible as a top table."""

    format: str
    address: int
    leaves: int
    faults: int


def _ignore(_part: float) -> None:
    """Take progress that nobody wants to know of."""


class Judge:
    """Judges the pages of a space once for each level of each format that is asked for.

    ``on_progress`` learns how much is done, from 0 to 1.
    """

    def __init__(
        self,
        space: PageSpace,
        formats: Sequence[str] = SEARCHED,
        *,
        tolerance: int = TOLERANCE,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        self.space = space
        self._on_progress = on_progress or _ignore
        self._formats = formats
        self._tolerance = tolerance
        self._zero = np.zeros(space.count, dtype=np.bool_)
        self._wide: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._narrow: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def roots(self) -> list[Root]:
        """Return every page that is plausible as a top table."""
        self._filter()
        found: list[Root] = []
        for done, name in enumerate(self._formats):
            self._on_progress(0.5 + 0.5 * done / len(self._formats))
            fmt = FORMATS[name].bind(FEATURES)
            pages = self._wide if fmt.entry_size == 8 else self._narrow
            role: Role | None = None
            for number in reversed(range(len(fmt.levels))):
                if fmt.name == "PAE" and number == 0:
                    found += self._quads(fmt, role)
                    break
                role = self._judge(fmt, number, pages, role)
            else:
                found += self._tops(name, role)
        return found

    def _tops(self, name: str, role: Role | None) -> Iterator[Root]:
        if role is None:
            return
        top = np.flatnonzero(role.plausible)
        for address, number in zip(self.space.address_of(top).tolist(), top, strict=True):
            yield Root(name, address, int(role.leaves[number]), int(role.faults[number]))

    def _filter(self) -> None:
        """Drop pages that are no table of any kind, and remember those that hold nothing."""
        wide, narrow = [], []
        beyond = np.uint64(((1 << 52) - 1) & ~((1 << PHYSICAL_BITS) - 1))
        seek_narrow = "32-bit" in self._formats
        for begin, end in self.space.empty_runs():
            self._zero[begin:end] = True
        for first, words in self.space.blocks():
            self._on_progress(0.5 * first / self.space.count)
            some = words.any(axis=1)
            self._zero[first : first + len(words)] = ~some
            rows = np.flatnonzero(some)
            if not len(rows):
                continue
            part = words if len(rows) == len(words) else words[rows]
            present = part & np.uint64(7) != 0
            count = present.sum(axis=1)
            empty = rows[count == 0]
            self._zero[first + empty] = (words[empty] & ~_SUPPRESS_VE == 0).all(axis=1)
            bad = (present & (part & beyond != 0)).sum(axis=1)
            # Not present here are entries of guests' page tables that hold what they like.
            alone = np.count_nonzero(part, axis=1) == 1
            few = np.maximum(bad - 1, 0) * _CHEAP <= count
            wide.append(first + rows[few & ((count > bad) | alone)])
            if seek_narrow:
                narrow.append(first + rows[_sane_narrow(part)])
        none = np.zeros(0, dtype=np.int64)
        self._wide = np.concatenate([none, *wide])
        self._narrow = np.concatenate([none, *narrow])

    def _judge(
        self, fmt: BoundFormat, number: int, pages: NDArray[np.int64], below: Role | None
    ) -> Role:
        count = self.space.count
        role = Role(
            np.zeros(count, dtype=np.bool_),
            np.zeros(count, dtype=np.float32),
            np.zeros(count, dtype=np.float32),
        )
        for first in range(0, len(pages), PAGES_AT_ONCE):
            block = pages[first : first + PAGES_AT_ONCE]
            words = self.space.pages(block)
            entries = words if fmt.entry_size == 8 else _halves(words)
            verdict = _Block(self, fmt, number, entries, below).verdict(self._tolerance)
            role.plausible[block], role.leaves[block], role.faults[block] = verdict
        return role

    def is_empty(self, pages: NDArray[np.int64]) -> Bools:
        """Tell which pages hold no present entry and nothing else (-1 is no page)."""
        empty: Bools = (pages >= 0) & self._zero[pages]
        return empty

    def _quads(self, fmt: BoundFormat, below: Role | None) -> Iterator[Root]:
        """Yield four PAE PDPTEs in a row."""
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
                    address = int(self.space.address_of(page)[0]) + row % 128 * 32
                    leaves, faults = below.leaves[child].sum(), below.faults[child].sum()
                    yield Root("PAE", address, int(leaves), int(faults))


class _Block:
    """Some pages, each read as a table of level ``number``: its entries by class."""

    def __init__(
        self, judge: Judge, fmt: BoundFormat, number: int, entries: Words, below: Role | None
    ) -> None:
        self.fmt, self.level, self.entries = fmt, fmt.levels[number], entries
        self.is_wide = fmt.entry_size == 8
        level = self.level
        self.present: Bools = entries & np.uint64(fmt.present) != 0
        if level.leaf_mask == -1:
            is_leaf = self.present
        else:
            mask = np.uint64(level.leaf_mask & 0xFFFF_FFFF_FFFF_FFFF)
            is_leaf = self.present & (entries & mask != 0)
        well = self._well_formed(is_leaf)
        good_leaf, faulty_leaf = is_leaf & well, is_leaf & ~well
        if faulty_leaf.any():
            inside = judge.space.number_of(entries & np.uint64(level.leaf_address) & _ADDRESS) >= 0
            faulty_leaf &= inside
        if not self.is_wide:
            good_leaf &= self._narrow_targets(judge, good_leaf)
            faulty_leaf[:] = False
        self.sound: Bools = good_leaf | faulty_leaf
        self.faulty: Bools = faulty_leaf
        self.leaves = self.sound.sum(axis=1).astype(np.float32)
        self.faults = faulty_leaf.sum(axis=1).astype(np.float32)
        self.neutral: Counts = np.zeros(len(entries), dtype=np.int64)
        is_table = self.present & ~is_leaf
        if below is not None and is_table.any():
            self._count_tables(judge, is_table, well, below)
        if fmt.is_ept:
            # Misconfigured on purpose; leads nowhere, and is no fault.
            marks = self.present & np.isin(entries & np.uint64(7), WRITE_ONLY) & ~self.sound
            self.neutral += marks.sum(axis=1)

    def _well_formed(self, is_leaf: Bools) -> Bools:
        """Tell which entries have nothing that the processor refuses."""
        fmt, level, entries = self.fmt, self.level, self.entries
        reserved = np.where(
            is_leaf, np.uint64(level.leaf_reserved), np.uint64(level.table_reserved)
        )
        if not self.is_wide:
            reserved |= np.where(is_leaf, np.uint64(0), np.uint64(0xF00))
        good: Bools = entries & reserved == 0
        if fmt.is_ept:
            good &= np.uint64(fmt.bad_permissions) >> (entries & np.uint64(7)) & np.uint64(1) == 0
            kind = entries >> np.uint64(3) & np.uint64(7)
            good &= ~is_leaf | (np.uint64(fmt.bad_types) >> kind & np.uint64(1) == 0)
            # No hypervisor references a table without read permission.
            good &= is_leaf | (entries & np.uint64(1) != 0)
        return good

    def _narrow_targets(self, judge: Judge, leaf: Bools) -> Bools:
        """32-bit entries reserve hardly anything: their pages must be memory, or devices."""
        entries = self.entries
        inside = judge.space.number_of(entries & np.uint64(self.level.leaf_address)) >= 0
        device = entries >= np.uint64(0xE000_0000)
        rows = (leaf & inside).sum(axis=1) >= (leaf & device).sum(axis=1)
        result: Bools = inside | device & rows[:, np.newaxis]
        return result

    def _count_tables(self, judge: Judge, is_table: Bools, well: Bools, below: Role) -> None:
        count = len(self.entries)
        row, column = np.nonzero(is_table)
        entry = self.entries[row, column]
        address = entry & np.uint64(self.level.table_address)
        formed = well[row, column]
        child = judge.space.number_of(np.where(formed, address, address & _ADDRESS))
        leads = (child >= 0) & (address != 0) & below.plausible[child]
        empty = formed & (address != 0) & judge.is_empty(child)
        good, faulty = leads & formed, leads & ~formed & self.is_wide
        self.neutral = self.neutral + np.bincount(row[empty & ~leads], minlength=count)
        self.faulty[row[faulty], column[faulty]] = True
        self.faults += np.bincount(row[faulty], minlength=count).astype(np.float32)
        used = good | faulty
        self.sound[row[used], column[used]] = True
        self.leaves += np.bincount(row[used], below.leaves[child[used]], count).astype(np.float32)
        self.faults += np.bincount(row[used], below.faults[child[used]], count).astype(np.float32)

    def verdict(self, tolerance: int) -> tuple[Bools, Weights, Weights]:
        """Return which pages are plausible, their leaves and their faults."""
        faulty, sound = self.faulty.sum(axis=1), self.sound.sum(axis=1)
        good = sound - faulty
        bad = self.present.sum(axis=1) - sound - self.neutral
        ok = (sound > 0) & (self.leaves > 0) & (np.maximum(bad, 0) * tolerance <= sound)
        if not self.fmt.is_ept:  # whose marks may be many
            ok &= self.neutral <= 4 * sound
        ok &= (faulty <= np.maximum(1, good // tolerance)) | self._have_one_fault(faulty)
        if self.is_wide:
            ok &= self._varies_little()
            # With nothing that is well-formed, a page must be nothing but its entries.
            words = self.entries & ~_SUPPRESS_VE if self.fmt.is_ept else self.entries
            ok &= (good > 0) | (np.count_nonzero(words, axis=1) == sound + self.neutral)
        return ok, np.where(ok, self.leaves, 0), np.where(ok, self.faults, 0)

    def _have_one_fault(self, faulty: Counts) -> Bools:
        """Tell in which pages the faulty entries are all faulty in the same way."""
        one = np.zeros(len(faulty), dtype=np.bool_)
        rows = np.flatnonzero(faulty > 1)
        if len(rows):
            fmt = self.fmt
            flags = self.entries[rows] & _LOW & ~np.uint64(fmt.accessed | fmt.dirty)
            mine = self.faulty[rows]
            highest = np.where(mine, flags, np.uint64(0)).max(axis=1)
            lowest = np.where(mine, flags, _LOW).min(axis=1)
            one[rows] = highest == lowest
        return one

    def _varies_little(self) -> Bools:
        software = self.entries & _SOFTWARE
        some = np.bitwise_or.reduce(np.where(self.sound, software, np.uint64(0)), axis=1)
        every = np.bitwise_and.reduce(np.where(self.sound, software, _SOFTWARE), axis=1)
        little: Bools = _bits_set(some & ~every) <= _MAX_VARYING
        if self.level.leaf_mask == -1 and not self.fmt.is_ept:
            little[:] = True  # systems keep numbers of their own in the entries of pages
        return little


def _bits_set(words: Words) -> Counts:
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    count: Counts = np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.int64)
    return count


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
    number = _bits_set(np.bitwise_or.reduce(kinds, axis=1))
    sane[rows] = (repeated * 2 <= count) & (number <= _MAX_KINDS)
    return sane


def _halves(words: Words) -> Words:
    return np.ascontiguousarray(words).view("<u4").astype(np.uint64)
