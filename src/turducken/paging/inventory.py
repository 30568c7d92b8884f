"""The tables themselves: which there are, who references them, whether they form a tree.

Each table is looked at once for each level it is used at, so that tables which reference themselves
or each other cost no more than others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turducken.memory import Memory
from turducken.paging.formats import BoundFormat
from turducken.paging.readers import TableReader, Words, distinct, reader_of

AT_ONCE = 256
MAX_LOOPS = 64
MAX_SHARED = 256


@dataclass(frozen=True, slots=True)
class Reference:
    """A table, and an entry that references it (in the table's own output space, both)."""

    level: int
    """The level the table is used at; 0 is the top."""
    table: int
    entry_address: int
    count: int = 1
    """How many entries reference the table at this level."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The tables below a root; those of which the memory lacks a part are among them."""

    tables: tuple[Words, ...]
    """For each level, the addresses of its tables, ascending."""
    shared: tuple[Reference, ...]
    """Tables with more than one reference at a level, `MAX_SHARED` at most."""
    loops: tuple[Reference, ...]
    """Entries that lead from below a table back to it, `MAX_LOOPS` at most."""
    truncated: bool

    @property
    def count(self) -> int:
        """Number of tables, each counted once for every level it is used at."""
        return sum(len(level) for level in self.tables)

    @property
    def all_tables(self) -> Words:
        """Every table's address once, ascending."""
        return distinct(np.concatenate(self.tables))


@dataclass(frozen=True, slots=True)
class _Edges:
    """References from tables of one level to tables of the next."""

    parent: Words
    child: Words
    entry_address: Words


def take_inventory(
    fmt: BoundFormat, memory: Memory, root: int, *, max_tables: int = 1 << 22
) -> Inventory:
    """List all tables below ``root`` (the register's value), in the stage's output space."""
    reader = reader_of(memory)
    tables = [np.array([root & fmt.root_mask], dtype=np.uint64)]
    edges: list[_Edges] = []
    total, truncated = 1, False
    for number in range(len(fmt.levels) - 1):
        edges.append(_references(fmt, reader, number, tables[-1]))
        children = distinct(edges[-1].child)
        if total + len(children) > max_tables:
            children, truncated = children[: max_tables - total], True
        total += len(children)
        tables.append(children)
    return Inventory(tuple(tables), tuple(_shared(edges)), tuple(_loops(tables, edges)), truncated)


def _references(fmt: BoundFormat, reader: TableReader, number: int, tables: Words) -> _Edges:
    """Return the well-formed references in tables of level ``number``."""
    level = fmt.levels[number]
    count = level.index_mask + 1
    parts = []
    for first in range(0, len(tables), AT_ONCE):
        block = tables[first : first + AT_ONCE]
        entries, _ = reader.read_tables(block, count, fmt.entry_size)
        flat = entries.reshape(-1)
        good = flat & np.uint64(fmt.present) != 0
        good &= flat & np.uint64(level.table_reserved) == 0
        if level.leaf_mask:
            good &= flat & np.uint64(level.leaf_mask) == 0
        good &= np.uint64(fmt.bad_permissions) >> (flat & np.uint64(7)) & np.uint64(1) == 0
        at = np.flatnonzero(good)
        parent = block[at // count]
        index = (at & level.index_mask).astype(np.uint64)
        child = flat[at] & np.uint64(level.table_address)
        parts.append((parent, child, parent + index * np.uint64(fmt.entry_size)))
    none = np.zeros(0, dtype=np.uint64)
    columns = [np.concatenate([none, *(part[column] for part in parts)]) for column in range(3)]
    return _Edges(*columns)


def _shared(edges: Sequence[_Edges]) -> list[Reference]:
    result: list[Reference] = []
    for level, one in enumerate(edges, 1):
        if len(distinct(one.child)) == len(one.child):
            continue
        child, first, counts = np.unique(one.child, return_index=True, return_counts=True)
        for index in np.flatnonzero(counts > 1)[: MAX_SHARED - len(result)].tolist():
            where = int(one.entry_address[first[index]])
            result.append(Reference(level, int(child[index]), where, int(counts[index])))
    return result


def _loops(tables: Sequence[Words], edges: Sequence[_Edges]) -> list[Reference]:
    result: list[Reference] = []
    for upper in range(len(tables)):
        for lower in range(upper + 1, len(tables)):
            for table in _common(tables[upper], tables[lower]):
                result += _loop(edges, table, upper, lower)
                if len(result) >= MAX_LOOPS:
                    return result[:MAX_LOOPS]
    return result


def _common(a: Words, b: Words) -> list[int]:
    """Return what two ascending arrays have in common."""
    short, long = (a, b) if len(a) < len(b) else (b, a)
    if not len(short):
        return []
    at = np.minimum(np.searchsorted(long, short), len(long) - 1)
    common: list[int] = short[long[at] == short].tolist()
    return common


def _loop(edges: Sequence[_Edges], table: int, upper: int, lower: int) -> list[Reference]:
    """Return the entry that leads from below ``table`` back to it, if there is one."""
    reached = np.array([table], dtype=np.uint64)
    for number in range(upper, lower - 1):
        one = edges[number]
        reached = np.unique(one.child[np.isin(one.parent, reached)])
    last = edges[lower - 1]
    back = np.flatnonzero(np.isin(last.parent, reached) & (last.child == np.uint64(table)))
    if not len(back):
        return []
    return [Reference(lower, table, int(last.entry_address[back[0]]), len(back))]
