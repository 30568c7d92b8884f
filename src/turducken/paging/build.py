"""A new table from ranges, whole: vectorised, for millions of leaves.

`turducken.paging.table` changes tables in place; this module makes a table out of a `RangeTable`,
such as a composition of two stages, level by level from the leaves up.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from turducken.address import PAGE_SIZE
from turducken.arch.memory_types import PAT_RESET
from turducken.memory import Memory
from turducken.paging.encode import leaf_address, leaf_flags, table_entry
from turducken.paging.formats import BoundFormat
from turducken.paging.ranges import RangeTable
from turducken.paging.readers import Words
from turducken.paging.table import Allocate

ENTRIES_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Runs of input that one level's leaves map, or that are still to be cut."""

    start: Words
    size: Words
    target: Words
    attributes: NDArray[np.uint32]

    def take(self, which: NDArray[np.bool_]) -> "_Pieces":
        return _Pieces(
            self.start[which], self.size[which], self.target[which], self.attributes[which]
        )


def build(
    fmt: BoundFormat,
    memory: Memory,
    ranges: RangeTable,
    allocate: Allocate,
    *,
    max_shift: int = 63,
    pat: int = PAT_RESET,
) -> int:
    """Write tables that map exactly ``ranges``, with the largest leaves, and return their root.

    ``allocate`` is called once for each table. Raises `CannotEncodeError` if the format cannot
    express a range, ValueError if one is not made of whole pages.
    """
    pieces = _pieces(fmt, ranges)
    leaves: dict[int, _Pieces] = {}
    for number, level in enumerate(fmt.levels):
        if level.leaf_mask and (level.shift <= max_shift or number == len(fmt.levels) - 1):
            leaves[number], pieces = _cut(pieces, level.shift)
    start, address = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64)
    for number in reversed(range(1, len(fmt.levels))):
        start, address = _write_level(
            fmt, memory, number, (leaves.get(number), start, address, pat), allocate
        )
    root = allocate()
    memory.write(root, bytes(PAGE_SIZE))
    _fill(fmt, memory, 0, root, (leaves.get(0), start, address, pat))
    return root


def _pieces(fmt: BoundFormat, ranges: RangeTable) -> _Pieces:
    all_bits = ranges.start | ranges.size | ranges.target
    if (all_bits & np.uint64(PAGE_SIZE - 1)).any():
        raise ValueError("a range is not made of whole 4 KiB pages")
    space = np.uint64((1 << fmt.address_bits) - 1)
    if (fmt.is_ept or fmt.address_bits < 48) and (ranges.last & ~space).any():
        raise ValueError(f"a range lies outside the {fmt.address_bits}-bit input space")
    return _Pieces(ranges.start & space, ranges.size, ranges.target, ranges.attributes)


def _cut(pieces: _Pieces, shift: int) -> tuple[_Pieces, _Pieces]:
    """Return what pages of ``1 << shift`` bytes can map, and what is left."""
    low = np.uint64((1 << shift) - 1)
    end = pieces.start + pieces.size
    first, last = (pieces.start + low) & ~low, end & ~low
    can = ((pieces.start ^ pieces.target) & low == 0) & (first < last)
    whole = pieces.take(can)
    moved = first[can] - whole.start
    mapped = _Pieces(first[can], last[can] - first[can], whole.target + moved, whole.attributes)
    head = _Pieces(whole.start, moved, whole.target, whole.attributes)
    done = last[can] - whole.start
    tail = _Pieces(last[can], end[can] - last[can], whole.target + done, whole.attributes)
    rest = [pieces.take(~can), head.take(head.size > 0), tail.take(tail.size > 0)]
    joined = _Pieces(
        np.concatenate([one.start for one in rest]),
        np.concatenate([one.size for one in rest]),
        np.concatenate([one.target for one in rest]),
        np.concatenate([one.attributes for one in rest]),
    )
    return mapped, joined


_Content = tuple[_Pieces | None, Words, Words, int]
"""What tables of a level hold: leaves, starts and addresses of tables below, the PAT."""


def _write_level(
    fmt: BoundFormat, memory: Memory, number: int, content: _Content, allocate: Allocate
) -> tuple[Words, Words]:
    """Write all tables of a level; return the input address where each starts, and its address."""
    leaves, start, _, _ = content
    level = fmt.levels[number]
    span = level.shift + (level.index_mask + 1).bit_length() - 1
    keys = [start >> np.uint64(span)]
    if leaves is not None:
        first, last = (
            leaves.start >> np.uint64(span),
            (leaves.start + leaves.size - np.uint64(1)) >> np.uint64(span),
        )
        keys.append(_spread(first, last))
    tables = np.unique(np.concatenate(keys))
    address = np.array([allocate() for _ in range(len(tables))], dtype=np.uint64)
    at_once = max(1, ENTRIES_AT_ONCE // (level.index_mask + 1))
    for low in range(0, len(tables), at_once):
        part = slice(low, low + at_once)
        _write_tables(fmt, memory, number, (tables[part], address[part]), content)
    return tables << np.uint64(span), address


def _spread(first: Words, last: Words) -> Words:
    """Return every number from each ``first`` to its ``last``."""
    counts = (last - first + np.uint64(1)).astype(np.intp)
    before = np.cumsum(counts) - counts
    offset = np.arange(int(counts.sum()), dtype=np.uint64) - np.repeat(before, counts).astype(
        np.uint64
    )
    return np.repeat(first, counts) + offset


def _write_tables(
    fmt: BoundFormat,
    memory: Memory,
    number: int,
    tables: tuple[Words, Words],
    content: _Content,
) -> None:
    keys, address = tables
    level = fmt.levels[number]
    count = level.index_mask + 1
    span = np.uint64(level.shift + count.bit_length() - 1)
    entries = np.zeros(len(keys) * count, dtype=np.uint64)
    low, high = keys[0] << span, ((keys[-1] + np.uint64(1)) << span) - np.uint64(1)
    for at, value in _contents(fmt, number, content, (low, high)):
        table = np.searchsorted(keys, at >> span)
        index = at >> np.uint64(level.shift) & np.uint64(level.index_mask)
        entries[table * count + index.astype(np.intp)] = value
    _store(memory, fmt, address, entries.reshape(-1, count))


def _fill(fmt: BoundFormat, memory: Memory, number: int, table: int, content: _Content) -> None:
    """Write the top table."""
    level = fmt.levels[number]
    entries = np.zeros(level.index_mask + 1, dtype=np.uint64)
    everything = np.uint64(0), np.uint64((1 << fmt.address_bits) - 1)
    for at, value in _contents(fmt, number, content, everything):
        entries[(at >> np.uint64(level.shift)).astype(np.intp)] = value
    _store(memory, fmt, np.array([table], dtype=np.uint64), entries.reshape(1, -1))


def _contents(
    fmt: BoundFormat, number: int, content: _Content, window: tuple[np.uint64, np.uint64]
) -> list[tuple[Words, Words]]:
    """Return input addresses and entry values of a level within a window of input addresses."""
    leaves, start, address, pat = content
    low, high = window
    inside = (start >= low) & (start <= high)
    result = []
    if inside.any():
        base = np.uint64(table_entry(fmt, number, 0))
        # Checks the highest address; the others are no harder to encode.
        table_entry(fmt, number, int(address[inside].max()))
        result.append((start[inside], address[inside] | base))
    if leaves is not None:
        near = leaves.take(
            (leaves.start <= high) & (leaves.start + leaves.size - np.uint64(1) >= low)
        )
        if len(near.start):
            result.append(_leaf_entries(fmt, number, near, (low, high), pat))
    return result


def _leaf_entries(
    fmt: BoundFormat, number: int, leaves: _Pieces, window: tuple[np.uint64, np.uint64], pat: int
) -> tuple[Words, Words]:
    level = fmt.levels[number]
    shift = np.uint64(level.shift)
    first = np.maximum(leaves.start, window[0])
    last = np.minimum(leaves.start + leaves.size - np.uint64(1), window[1])
    pages = _spread(first >> shift, last >> shift)
    counts = ((last >> shift) - (first >> shift) + np.uint64(1)).astype(np.intp)
    which = np.repeat(np.arange(len(counts)), counts)
    at = pages << shift
    target = at - leaves.start[which] + leaves.target[which]
    leaf_address(fmt, number, int(target.max()))
    if level.pse36:
        low = target & np.uint64(level.leaf_address)
        target = low | (target >> np.uint64(32) & np.uint64(0xFF)) << np.uint64(13)
    distinct, inverse = np.unique(leaves.attributes, return_inverse=True)
    words = [leaf_flags(fmt, number, int(one), pat) for one in distinct.tolist()]
    flags = np.array(words, dtype=np.uint64)[inverse]
    return at, target | flags[which]


def _store(memory: Memory, fmt: BoundFormat, address: Words, tables: Words) -> None:
    """Write tables, as many at once as lie one after another."""
    kind = np.dtype("<u8") if fmt.entry_size == 8 else np.dtype("<u4")
    data = tables.astype(kind)
    length = data.shape[1] * fmt.entry_size
    breaks = np.flatnonzero(np.diff(address) != np.uint64(length)) + 1
    bounds = [0, *breaks.tolist(), len(address)]
    for first, last in pairwise(bounds):
        memory.write(int(address[first]), data[first:last].tobytes())
