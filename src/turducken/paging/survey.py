"""The walker's bulk form: every mapping of a table, in address order, vectorised.

A survey reads tables in blocks and describes what it finds in rows: a row is a run of entries of
one level that map, one after the other, consecutive input pages to consecutive output pages in the
same way. It takes the same integers from the format as `turducken.paging.walker` does, and a
property test holds the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from turducken.memory import Memory
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat, BoundLevel
from turducken.paging.readers import Bools, Words, reader_of

BLOCK_BYTES = 1 << 21
"""Leaf tables are read in blocks of this many bytes: large enough to spread the cost of a call,
small enough to stay in a processor's cache between two operations."""

CHILDREN = 2048
"""At most this many leaf tables are gone through at once where pages of two sizes alternate."""

DEFAULT_MAX_TABLES = 1 << 20
ALL_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ZERO = np.uint64(0)
_PAGING_PERMISSIONS = np.uint64(e.PTE.mask("P", "R/W", "U/S", "XD"))
_EPT_PERMISSIONS = np.uint64(e.EPT_PTE.mask("R", "W", "X", "XU"))


class State(IntEnum):
    """What a row's entries are."""

    PAGE = 0
    MALFORMED = 1
    """Reserved bits, or for EPT a misconfiguration; the row's address range is unusable."""
    MISSING = 2
    """References to tables that the memory does not have; likewise unusable."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length, one row per run of ``count`` entries, ascending in ``start``."""

    start: Words
    """The first input address, as an offset into the translated space (not sign-extended)."""
    count: Words
    entry: Words
    """The run's first entry."""
    entry_address: Words
    all_of: Words
    """Permission bits set in every entry from the top down to and including this one."""
    any_of: Words
    """Permission bits set in at least one of them."""
    level: NDArray[np.uint8]
    state: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def take(self, which: NDArray[np.intp] | Bools | slice) -> "Rows":
        """Return the selected rows."""
        return Rows(*(getattr(self, one.name)[which] for one in fields(self)))


def join_rows(parts: list[Rows]) -> Rows:
    """Return the rows of all ``parts``, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.zeros(0, dtype=np.uint64)
        return Rows(
            none, none, none, none, none, none, none.astype(np.uint8), none.astype(np.uint8)
        )
    return Rows(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Rows)))


@dataclass(frozen=True, slots=True)
class _Tables:
    """Tables of one level, with what leads to them."""

    level: int
    address: Words
    start: Words
    all_of: Words
    any_of: Words

    def __len__(self) -> int:
        return len(self.address)

    def part(self, first: int, last: int) -> "_Tables":
        cut = slice(first, last)
        return _Tables(
            self.level, self.address[cut], self.start[cut], self.all_of[cut], self.any_of[cut]
        )


class Survey:
    """One pass over the tables below ``root`` (the register's value) of a format.

    ``truncated`` becomes True if ``max_tables`` was reached, as it is by tables that reference
    themselves; what was found until then stands.
    """

    def __init__(
        self,
        fmt: BoundFormat,
        memory: Memory,
        root: int,
        *,
        accessed_dirty: bool = False,
        max_tables: int = DEFAULT_MAX_TABLES,
    ) -> None:
        self.fmt = fmt
        self.root = root & fmt.root_mask
        self.max_tables = max_tables
        self.tables_read = 0
        self.truncated = False
        self._reader = reader_of(memory)
        self._permissions = _EPT_PERMISSIONS if fmt.is_ept else _PAGING_PERMISSIONS
        self._keep = [_kept_bits(fmt, one, accessed_dirty=accessed_dirty) for one in fmt.levels]

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in ascending input order, in blocks; memory stays bounded."""
        one = np.array([self.root], dtype=np.uint64)
        zero = np.zeros(1, dtype=np.uint64)
        yield from self._descend(_Tables(0, one, zero, one * 0 + self._permissions, zero))

    def _descend(self, tables: _Tables) -> Iterator[Rows]:
        level = self.fmt.levels[tables.level]
        count = level.index_mask + 1
        block = max(1, BLOCK_BYTES // (count * self.fmt.entry_size))
        last_level = tables.level == len(self.fmt.levels) - 1
        for first in range(0, len(tables), block):
            room = self.max_tables - self.tables_read
            part = tables.part(first, min(first + block, first + room))
            if not len(part):
                self.truncated = True
                return
            self.tables_read += len(part)
            entries, exists = self._reader.read_tables(part.address, count, self.fmt.entry_size)
            if last_level and exists.all():
                yield self._leaf_rows(part, entries)
            else:
                yield from self._mixed(part, entries, exists)

    # The last level: millions of entries, so as few operations on each as possible.

    def _leaf_rows(self, tables: _Tables, entries: Words) -> Rows:
        fmt, level = self.fmt, self.fmt.levels[tables.level]
        present, keep = np.uint64(fmt.present), self._keep[tables.level]
        step = np.uint64(1 << level.shift)
        flat = entries.reshape(-1)
        # Adding a page size changes address bits only, so equal differences mean equal flags.
        breaks = np.flatnonzero(flat[1:] - flat[:-1] != step)
        if len(breaks) * 16 > len(flat):
            # Many: accessed and dirty flags may differ from page to page.
            kept = flat & keep
            breaks = np.flatnonzero(kept[1:] - kept[:-1] != step)
        if len(breaks):
            left, right = flat[breaks], flat[breaks + 1]
            both_absent = (left | right) & present == _ZERO
            same = (right & keep) - (left & keep) == step
            same &= (left & present != _ZERO) & (right & present != _ZERO)
            breaks = breaks[~(both_absent | same)]
        breaks = _with(breaks, _table_breaks(tables, level))
        heads = np.concatenate((np.zeros(1, dtype=np.intp), breaks + 1))
        counts = np.diff(np.append(heads, len(flat))).astype(np.uint64)
        first = flat[heads]
        there = first & present != _ZERO
        if not there.all():
            heads, counts, first = heads[there], counts[there], first[there]
        return self._rows(tables, heads, counts, first, np.zeros(len(heads), dtype=np.bool_))

    def _rows(
        self, tables: _Tables, at: NDArray[np.intp], counts: Words, entry: Words, table: Bools
    ) -> Rows:
        """Make rows of the runs that begin at flat indices ``at`` of the block."""
        level = self.fmt.levels[tables.level]
        which = at // (level.index_mask + 1)
        index = (at & level.index_mask).astype(np.uint64)
        malformed = _malformed(self.fmt, level, entry, table)
        rows = Rows(
            start=tables.start[which] + (index << np.uint64(level.shift)),
            count=counts,
            entry=entry,
            entry_address=tables.address[which] + index * np.uint64(self.fmt.entry_size),
            all_of=tables.all_of[which] & (entry | np.uint64(level.neutral)),
            any_of=tables.any_of[which] | entry & self._permissions,
            level=np.full(len(at), tables.level, dtype=np.uint8),
            state=np.where(malformed, State.MALFORMED, State.PAGE).astype(np.uint8),
        )
        return _split_at_reserved(self.fmt, level, rows)

    # Upper levels, and blocks in which tables are missing: entry by entry.

    def _mixed(self, tables: _Tables, entries: Words, exists: Bools) -> Iterator[Rows]:
        fmt, level = self.fmt, self.fmt.levels[tables.level]
        missing = self._missing(tables, ~exists) if not exists.all() else None
        flat = entries.reshape(-1)
        at = np.flatnonzero(flat & np.uint64(fmt.present))
        entry = flat[at]
        is_table = ~_is_leaf(level, entry)
        rows = self._rows(tables, at, np.ones(len(at), dtype=np.uint64), entry, is_table)
        child = is_table & (rows.state == State.PAGE)
        if not child.any():
            yield from _merged_in(missing, [rows])
            return
        children = _Tables(
            tables.level + 1,
            rows.entry[child] & np.uint64(level.table_address),
            rows.start[child],
            rows.all_of[child],
            rows.any_of[child],
        )
        if child.all() and missing is None:
            yield from self._descend(children)
            return
        others = rows.take(~child)
        if missing is not None:
            others = _sorted(join_rows([others, missing]))
        yield from self._interleave(others, children)

    def _interleave(self, rows: Rows, children: _Tables) -> Iterator[Rows]:
        """Yield ``rows`` and what is below ``children`` in ascending order."""
        to_last = children.level == len(self.fmt.levels) - 1
        runs = _runs_of_children(rows, children, CHILDREN if to_last else 0)
        done = 0
        for first, last, before in runs:
            if self.truncated:
                return
            if to_last:
                upto = int(np.searchsorted(rows.start, children.start[last - 1]))
                below = list(self._descend(children.part(first, last)))
                yield _sorted(join_rows([rows.take(slice(done, upto)), *below]))
                done = upto
            else:
                if before > done:
                    yield rows.take(slice(done, before))
                    done = before
                yield from self._descend(children.part(first, last))
        if done < len(rows):
            yield rows.take(slice(done, len(rows)))

    def _missing(self, tables: _Tables, which: Bools) -> Rows:
        """Return one row for each table that the memory does not have."""
        number = int(which.sum())
        level = max(tables.level - 1, 0)
        return Rows(
            start=tables.start[which],
            count=np.ones(number, dtype=np.uint64),
            entry=tables.address[which],
            entry_address=tables.address[which],
            all_of=tables.all_of[which],
            any_of=tables.any_of[which],
            level=np.full(number, level, dtype=np.uint8),
            state=np.full(number, State.MISSING, dtype=np.uint8),
        )


def _kept_bits(fmt: BoundFormat, level: BoundLevel, *, accessed_dirty: bool) -> np.uint64:
    """Return the bits of a leaf that distinguish one mapping from another."""
    leaf = level.layout_leaf
    if leaf is None:
        return ALL_ONES
    dropped = leaf.ignored_mask & ~(fmt.present | level.leaf_reserved)
    if not accessed_dirty:
        dropped |= fmt.accessed | fmt.dirty
    if fmt.is_ept and not fmt.features.mode_based_execute:
        dropped |= e.EPT_PTE.mask("XU")
    return np.uint64(~dropped & 0xFFFF_FFFF_FFFF_FFFF)


def _with(breaks: NDArray[np.intp], more: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the sorted union of two sorted arrays of which ``more`` is short."""
    if not len(more):
        return breaks
    at = np.searchsorted(breaks, more)
    new = np.ones(len(more), dtype=np.bool_)
    inside = at < len(breaks)
    new[inside] = breaks[at[inside]] != more[inside]
    return np.insert(breaks, at[new], more[new])


def _table_breaks(tables: _Tables, level: BoundLevel) -> NDArray[np.intp]:
    """Return the flat indices after which a run must end because another table begins."""
    if len(tables) == 1:
        return np.zeros(0, dtype=np.intp)
    count = level.index_mask + 1
    span = np.uint64(count << level.shift)
    differ = tables.start[1:] - tables.start[:-1] != span
    differ |= tables.all_of[1:] != tables.all_of[:-1]
    differ |= tables.any_of[1:] != tables.any_of[:-1]
    return (np.flatnonzero(differ) + 1) * count - 1


def _is_leaf(level: BoundLevel, entry: Words) -> Bools:
    if level.leaf_mask == -1:
        return np.ones(len(entry), dtype=np.bool_)
    leaf: Bools = entry & np.uint64(level.leaf_mask) != _ZERO
    return leaf


def _malformed(fmt: BoundFormat, level: BoundLevel, entry: Words, table: Bools) -> Bools:
    reserved = np.where(table, np.uint64(level.table_reserved), np.uint64(level.leaf_reserved))
    bad: Bools = entry & reserved != _ZERO
    if fmt.bad_permissions:
        low = entry & np.uint64(7)
        bad |= np.uint64(fmt.bad_permissions) >> low & np.uint64(1) != _ZERO
        kind = entry >> np.uint64(3) & np.uint64(7)
        bad |= ~table & (np.uint64(fmt.bad_types) >> kind & np.uint64(1) != _ZERO)
    return bad


def _split_at_reserved(fmt: BoundFormat, level: BoundLevel, rows: Rows) -> Rows:
    """Cut runs in which the page's address grows beyond what the processor's address lines reach.

    Within a run only the address changes, so this is the only way it can become malformed.
    """
    beyond = np.uint64(level.leaf_reserved & level.leaf_address)
    if not beyond or not (rows.count > np.uint64(1)).any():
        return rows
    shift = np.uint64(level.shift)
    last = rows.entry + ((rows.count - np.uint64(1)) << shift)
    cut = np.flatnonzero((last ^ rows.entry) & beyond != _ZERO)
    if not len(cut):
        return rows
    limit = np.uint64(1 << fmt.features.maxphyaddr)
    head = rows.take(cut)
    good = (limit - (head.entry & np.uint64(level.leaf_address))) >> shift
    tail = Rows(
        start=head.start + (good << shift),
        count=head.count - good,
        entry=head.entry + (good << shift),
        entry_address=head.entry_address + good * np.uint64(fmt.entry_size),
        all_of=head.all_of,
        any_of=head.any_of,
        level=head.level,
        state=np.full(len(cut), State.MALFORMED, dtype=np.uint8),
    )
    counts = rows.count.copy()
    counts[cut] = good
    whole = Rows(
        rows.start,
        counts,
        rows.entry,
        rows.entry_address,
        rows.all_of,
        rows.any_of,
        rows.level,
        rows.state,
    )
    return _sorted(join_rows([whole, tail]))


def _sorted(rows: Rows) -> Rows:
    return rows.take(np.argsort(rows.start, kind="stable"))


def _merged_in(missing: Rows | None, blocks: list[Rows]) -> list[Rows]:
    return blocks if missing is None else [_sorted(join_rows([*blocks, missing]))]


def _runs_of_children(rows: Rows, children: _Tables, most: int) -> list[tuple[int, int, int]]:
    """Split children into runs ``(first, last + 1, rows before)``.

    With ``most`` given, runs simply have at most that many; otherwise no row lies inside a run.
    """
    number = len(children)
    if most:
        return [(at, min(at + most, number), 0) for at in range(0, number, most)]
    before = np.searchsorted(rows.start, children.start)
    breaks = np.flatnonzero(np.diff(before)) + 1
    bounds = [0, *breaks.tolist(), number]
    return [(first, last, int(before[first])) for first, last in pairwise(bounds)]
