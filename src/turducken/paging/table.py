"""Building and changing tables in place, of any format, in any memory.

The tables' pages come from an allocator that the caller gives. Runs of entries are written at once;
a single entry, and every entry that links a new table, is written by one `store`, so that a walk at
any moment meets either the old or the new state. Invalidating what processors have cached is the
caller's part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turducken.address import PAGE_SIZE
from turducken.arch.memory_types import PAT_RESET
from turducken.errors import UserError
from turducken.memory import Memory
from turducken.paging import rights
from turducken.paging.encode import leaf_address, leaf_flags, leaf_flags_mask, table_entry
from turducken.paging.formats import BoundFormat, BoundLevel
from turducken.paging.ranges import Mapping, map_ranges
from turducken.paging.walker import Walk, leaf_page, walk

Allocate = Callable[[], int]
"""Returns the address of a free 4 KiB page in the table's output space; its content is ignored."""

Free = Callable[[int], None]


class OutOfTablesError(UserError, MemoryError):
    """The allocator has no more pages for tables."""


class BumpAllocator:
    """Hands out the pages from ``first`` (inclusive) to ``last`` (exclusive), then the freed ones.

    >>> pages = BumpAllocator(0x1000, 0x3000)
    >>> hex(pages()), hex(pages())
    ('0x1000', '0x2000')
    """

    def __init__(self, first: int, last: int) -> None:
        self.next = first
        self._last = last
        self._freed: list[int] = []

    def __call__(self) -> int:
        """Return the next page; raise `OutOfTablesError` if there is none."""
        if self._freed:
            return self._freed.pop()
        if self.next + PAGE_SIZE > self._last:
            raise OutOfTablesError(f"no page left for a table below {self._last:#x}")
        self.next += PAGE_SIZE
        return self.next - PAGE_SIZE

    def free(self, address: int) -> None:
        """Take back the page at ``address``."""
        self._freed.append(address)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What to write into leaves: where input 0 would lead, attributes, and bits to keep."""

    delta: int
    attributes: int
    max_shift: int
    extra: int = 0


class PageTable:
    """The table of format ``fmt`` at ``root`` (a register's value) in ``memory``.

    ``allocate`` gives pages for tables and ``free`` takes back those that fall out of use; without
    ``free`` they are left alone.
    """

    def __init__(
        self,
        fmt: BoundFormat,
        memory: Memory,
        root: int,
        allocate: Allocate | None = None,
        *,
        free: Free | None = None,
        pat: int = PAT_RESET,
    ) -> None:
        self.fmt = fmt
        self.memory = memory
        self.root = root & fmt.root_mask
        self.pat = pat
        self._allocate_page = allocate
        self._free = free

    @classmethod
    def create(
        cls,
        fmt: BoundFormat,
        memory: Memory,
        allocate: Allocate,
        *,
        free: Free | None = None,
        pat: int = PAT_RESET,
    ) -> "PageTable":
        """Return a new table that maps nothing."""
        root = allocate()
        memory.write(root, bytes(PAGE_SIZE))
        return cls(fmt, memory, root, allocate, free=free, pat=pat)

    # Reading.

    def walk(self, address: int) -> Walk:
        """Walk for input ``address``."""
        return walk(self.fmt, self.memory, self.root, address)

    def mapping(self, *, accessed_dirty: bool = False) -> Mapping:
        """Return everything the table maps, merged."""
        return map_ranges(
            self.fmt, self.memory, self.root, pat=self.pat, accessed_dirty=accessed_dirty
        )

    # Changing.

    def map(
        self,
        start: int,
        target: int,
        size: int,
        attributes: int,
        *,
        max_shift: int = 63,
    ) -> None:
        """Map ``size`` bytes at input ``start`` to output ``target``, with the largest leaves.

        What was mapped there is replaced. Leaves have at most ``1 << max_shift`` bytes. All three
        numbers must be multiples of the format's smallest page.

        Raises `CannotEncodeError` where the format has no such entry, ValueError for a range that
        is not whole pages or leaves the format's input space.
        """
        self._check(start, size)
        if target % PAGE_SIZE:
            raise ValueError(f"target {target:#x} is not the start of a page")
        leaf = _Leaf(target - start, attributes, max_shift)
        self._map(0, self.root, start, start + size, leaf)

    def unmap(self, start: int, size: int) -> None:
        """Make ``size`` bytes at input ``start`` not present; split larger leaves at the ends."""
        self._check(start, size)
        self._unmap(0, self.root, start, start + size)

    def change(self, start: int, size: int, attributes: int, mask: int) -> None:
        """Set the attributes in ``mask`` of the pages mapped at ``start`` as in ``attributes``.

        Leaves are changed, and split where they reach beyond the range; upper entries are not.
        """
        self._check(start, size)
        self._change(0, self.root, start, start + size, (attributes, mask))

    def split(self, address: int, shift: int) -> None:
        """Make the leaf that maps ``address`` one of at most ``1 << shift`` bytes."""
        table = self.root
        for number, level in enumerate(self.fmt.levels):
            where, entry = self._entry(number, table, address)
            if level.shift <= shift or not entry & self.fmt.present:
                return
            table = self._child(number, where, entry, address)

    def copy(self, source: "PageTable", start: int, size: int) -> None:
        """Copy what ``source`` (same format) maps at ``start``, entry by entry, into own tables.

        Entries keep every bit, ignored ones and flags included; tables below them are new ones.
        """
        self._check(start, size)
        self._copy(0, self.root, (source, source.root), start, start + size)

    # The recursion: one level of tables at a time, runs of whole entries within a table.

    def _map(self, number: int, table: int, start: int, end: int, leaf: _Leaf) -> None:
        level = self.fmt.levels[number]
        page = 1 << level.shift
        fits = level.leaf_mask != 0 and level.shift <= leaf.max_shift and not leaf.delta % page
        for first, last, whole in _runs(level, start, end):
            if whole and fits:
                self._write_leaves(number, table, first, last, leaf)
                continue
            for low, high in _entries(level, first, last):
                where, entry = self._entry(number, table, low)
                child = self._child(number, where, entry, low)
                self._map(number + 1, child, low, high, leaf)

    def _write_leaves(self, number: int, table: int, first: int, last: int, leaf: _Leaf) -> None:
        level = self.fmt.levels[number]
        count = (last - first) >> level.shift
        flags = leaf_flags(self.fmt, number, leaf.attributes, self.pat) | leaf.extra
        if count == 1:
            where, old = self._entry(number, table, first)
            new = leaf_address(self.fmt, number, first + leaf.delta) | flags
            self.memory.store(where, self.fmt.entry_size, new)
            self._drop(number, old)
            return
        # Both ends must be encodable; what lies between then is too.
        leaf_address(self.fmt, number, last - (1 << level.shift) + leaf.delta)
        head = leaf_address(self.fmt, number, first + leaf.delta)
        if level.pse36:
            pages = range(first + leaf.delta, last + leaf.delta, 1 << level.shift)
            words = np.array([leaf_address(self.fmt, number, p) for p in pages], dtype=np.uint64)
        else:
            words = np.uint64(head) + (np.arange(count, dtype=np.uint64) << np.uint64(level.shift))
        self._replace_run(number, table, first, words | np.uint64(flags))

    def _unmap(self, number: int, table: int, start: int, end: int) -> None:
        level = self.fmt.levels[number]
        for first, last, whole in _runs(level, start, end):
            if whole:
                count = (last - first) >> level.shift
                self._replace_run(number, table, first, np.zeros(count, dtype=np.uint64))
                continue
            where, entry = self._entry(number, table, first)
            if entry & self.fmt.present:
                self._unmap(number + 1, self._child(number, where, entry, first), first, last)

    def _change(self, number: int, table: int, start: int, end: int, what: tuple[int, int]) -> None:
        level = self.fmt.levels[number]
        for first, last, whole in _runs(level, start, end):
            if whole and level.leaf_mask == -1:
                self._change_run(number, table, first, last, what)
                continue
            for low, high in _entries(level, first, last):
                where, entry = self._entry(number, table, low)
                if not entry & self.fmt.present:
                    continue
                if whole and entry & level.leaf_mask:
                    self._change_run(number, table, low, high, what)
                else:
                    child = self._child(number, where, entry, low)
                    self._change(number + 1, child, low, high, what)

    def _change_run(
        self, number: int, table: int, first: int, last: int, what: tuple[int, int]
    ) -> None:
        attributes, mask = what
        level = self.fmt.levels[number]
        bits = leaf_flags_mask(self.fmt, number, mask)
        # Attributes outside the mask are taken as harmless ones; their bits are not used.
        asked = attributes & mask | (rights.RWX | rights.U) & ~mask
        if not mask & rights.MEMORY_TYPE.mask:
            asked = rights.MEMORY_TYPE.put(asked, rights.pat_type(self.pat, 0))
        value = leaf_flags(self.fmt, number, asked, self.pat) & bits
        count = (last - first) >> level.shift
        old = self._read_run(number, table, first, count)
        present = old & np.uint64(self.fmt.present) != 0
        new = np.where(present, old & ~np.uint64(bits) | np.uint64(value), old)
        if (new != old).any():
            self._replace_run(number, table, first, new, drop=False)

    def _copy(
        self, number: int, table: int, source: tuple["PageTable", int], start: int, end: int
    ) -> None:
        other, other_table = source
        level = self.fmt.levels[number]
        for first, last, whole in _runs(level, start, end):
            if whole:
                count = (last - first) >> level.shift
                words = other._read_run(number, other_table, first, count)
                self._replace_run(number, table, first, self._clone(number, other, words))
                continue
            _, theirs = other._entry(number, other_table, first)
            where, mine = self._entry(number, table, first)
            if not theirs & self.fmt.present:
                self._unmap(number, table, first, last)
            elif theirs & level.leaf_mask:
                leaf = other._leaf_of(number, first, theirs)
                self._map(number, table, first, last, leaf)
            else:
                child = self._child(number, where, mine, first)
                below = (other, theirs & level.table_address)
                self._copy(number + 1, child, below, first, last)

    def _clone(
        self, number: int, other: "PageTable", words: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Return ``words`` of level ``number`` with every table below them copied."""
        level = self.fmt.levels[number]
        if level.leaf_mask == -1:
            return words
        words = words.copy()
        for index in np.flatnonzero(words & np.uint64(self.fmt.present)).tolist():
            entry = int(words[index])
            if entry & level.leaf_mask or entry & level.table_reserved:
                continue
            old = entry & level.table_address
            below = other._read_run(number + 1, old, 0, self.fmt.levels[number + 1].index_mask + 1)
            new = self._new_table()
            self._write_words(new, self._clone(number + 1, other, below))
            words[index] = entry & ~level.table_address | new
        return words

    # Entries and tables.

    def _check(self, start: int, size: int) -> None:
        if start % PAGE_SIZE or size % PAGE_SIZE or size < 0:
            raise ValueError(f"{start:#x} + {size:#x} is not a run of whole pages")
        bits = self.fmt.address_bits
        upper_half = (1 << 64) - (1 << bits - 1)
        is_linear = not self.fmt.is_ept and bits >= 48
        limit = 1 << (bits - 1 if is_linear else bits)
        low = start >= 0 and start + size <= limit
        high = is_linear and start >= upper_half and start + size <= 1 << 64
        if not (low or high):
            raise ValueError(f"{start:#x} + {size:#x} is outside the {bits}-bit input space")

    def _entry(self, number: int, table: int, address: int) -> tuple[int, int]:
        """Return where the entry for input ``address`` lies, and its value."""
        level = self.fmt.levels[number]
        where = table + (address >> level.shift & level.index_mask) * self.fmt.entry_size
        entry = self.memory.load(where, self.fmt.entry_size)
        if entry is None:
            raise ValueError(f"there is no memory for the table at {table:#x}")
        return where, entry

    def _child(self, number: int, where: int, entry: int, address: int) -> int:
        """Return the table below an entry, making one (or splitting the leaf) if there is none."""
        level = self.fmt.levels[number]
        if entry & self.fmt.present and not entry & level.leaf_mask:
            return entry & level.table_address
        child = self._new_table()
        self.memory.write(child, bytes(PAGE_SIZE))
        if entry & self.fmt.present:
            base = address >> level.shift << level.shift
            leaf = self._leaf_of(number, base, entry)
            self._map(number + 1, child, base, base + (1 << level.shift), leaf)
        self.memory.store(where, self.fmt.entry_size, table_entry(self.fmt, number, child))
        return child

    def _leaf_of(self, number: int, address: int, entry: int) -> _Leaf:
        """Return what smaller leaves must hold to continue the leaf ``entry`` at ``address``."""
        level = self.fmt.levels[number]
        attributes = rights.leaf_attributes(self.fmt, level.shift, entry, pat=self.pat)
        base = address >> level.shift << level.shift
        layout = level.layout_leaf
        extra = entry & layout.ignored_mask if layout else 0
        return _Leaf(leaf_page(level, entry) - base, attributes, level.shift - 1, extra)

    def _new_table(self) -> int:
        if self._allocate_page is None:
            raise OutOfTablesError("this table was opened without an allocator")
        return self._allocate_page()

    def _read_run(self, number: int, table: int, first: int, count: int) -> NDArray[np.uint64]:
        where, _ = self._entry(number, table, first)
        data = self.memory.read(where, count * self.fmt.entry_size)
        kind = "<u8" if self.fmt.entry_size == 8 else "<u4"
        return np.frombuffer(data, dtype=kind).astype(np.uint64)

    def _replace_run(
        self,
        number: int,
        table: int,
        first: int,
        words: NDArray[np.uint64],
        *,
        drop: bool = True,
    ) -> None:
        where, _ = self._entry(number, table, first)
        old = None
        if drop and self._free and self.fmt.levels[number].leaf_mask != -1:
            old = self._read_run(number, table, first, len(words))
        if len(words) == 1:
            self.memory.store(where, self.fmt.entry_size, int(words[0]))
        else:
            self._write_words(where, words)
        for entry in [] if old is None else old.tolist():
            self._drop(number, entry)

    def _write_words(self, where: int, words: NDArray[np.uint64]) -> None:
        kind = "<u8" if self.fmt.entry_size == 8 else "<u4"
        self.memory.write(where, words.astype(kind).tobytes())

    def _drop(self, number: int, entry: int) -> None:
        """Give back the tables below an entry that was replaced."""
        level = self.fmt.levels[number]
        is_table = entry & self.fmt.present and not entry & level.leaf_mask
        if not self._free or not is_table or entry & level.table_reserved:
            return
        below = entry & level.table_address
        if self.fmt.levels[number + 1].leaf_mask != -1:
            count = self.fmt.levels[number + 1].index_mask + 1
            for one in self._read_run(number + 1, below, 0, count).tolist():
                self._drop(number + 1, one)
        self._free(below)


def _runs(level: BoundLevel, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Split a range into at most three: part of an entry, whole entries, part of an entry."""
    page = 1 << level.shift
    low, high = -(-start // page) * page, end // page * page
    if low > high:
        yield start, end, False
        return
    if start < low:
        yield start, low, False
    if low < high:
        yield low, high, True
    if high < end:
        yield high, end, False


def _entries(level: BoundLevel, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split a range at the boundaries of the level's entries."""
    page = 1 << level.shift
    while start < end:
        stop = min(end, (start // page + 1) * page)
        yield start, stop
        start = stop
