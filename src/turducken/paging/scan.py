"""Every entry of a table, one after another: the plain way, for trees of entries and inside gdb.

Needs no NumPy. For merged ranges of large tables use `turducken.paging.ranges`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from turducken.memory.protocol import TableMemory
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import ALL_ONES, Stop, leaf_page


@dataclass(frozen=True, slots=True)
class ScannedEntry:
    """One present entry, or (`Stop.NO_MEMORY`) one that the memory does not have.

    ``start`` is the first input address it concerns, as an offset into the translated space.
    ``stop`` is None for an entry that references a table, whose entries follow.
    """

    level: int
    start: int
    address: int
    entry: int
    stop: Stop | None
    page: int = 0
    all_of: int = ALL_ONES
    any_of: int = 0


def scan(fmt: BoundFormat, memory: TableMemory, root: int) -> Iterator[ScannedEntry]:
    """Yield the present entries of all tables below ``root``, depth first, in input order.

    Tables that reference themselves make this very long: stop when you have seen enough.
    """
    yield from _scan(fmt, memory, 0, (root & fmt.root_mask, 0, ALL_ONES, 0))


def _scan(
    fmt: BoundFormat, memory: TableMemory, number: int, above: tuple[int, int, int, int]
) -> Iterator[ScannedEntry]:
    table, base, above_all, above_any = above
    level = fmt.levels[number]
    for index in range(level.index_mask + 1):
        address = table + index * fmt.entry_size
        entry = memory.load(address, fmt.entry_size)
        start = base + (index << level.shift)
        if entry is None:
            yield ScannedEntry(number, start, address, 0, Stop.NO_MEMORY)
            return
        if not entry & fmt.present:
            continue
        all_of, any_of = above_all & (entry | level.neutral), above_any | entry
        is_leaf = bool(entry & level.leaf_mask)
        bad = fmt.bad_permissions >> (entry & 7) & 1
        bad |= entry & (level.leaf_reserved if is_leaf else level.table_reserved)
        bad |= is_leaf and fmt.bad_types >> (entry >> 3 & 7) & 1
        if bad:
            yield ScannedEntry(number, start, address, entry, Stop.MALFORMED)
        elif is_leaf:
            page = leaf_page(level, entry)
            yield ScannedEntry(number, start, address, entry, Stop.PAGE, page, all_of, any_of)
        else:
            yield ScannedEntry(number, start, address, entry, None)
            below = entry & level.table_address, start, all_of, any_of
            yield from _scan(fmt, memory, number + 1, below)


def linear_address(fmt: BoundFormat, start: int) -> int:
    """Return an offset into the translated space as a canonical address (EPT's: as it is)."""
    bits = fmt.address_bits
    if fmt.is_ept or bits < 48 or not start >> bits - 1:
        return start
    return start | (1 << 64) - (1 << bits)
