"""An EPT that L0 owns and writes: EPT01s and EPT02s are both made of this.

The table lies in frames of L0's private memory in the architectural format. Where each table of it
is, L0 remembers in dictionaries, so that an entry is found without a walk.
"""

from collections.abc import Iterator
from typing import NamedTuple

from turducken.address import PAGE_SIZE, Hpa
from turducken.hypervisor.frames import FrameSource
from turducken.memory import PhysicalMemory
from turducken.paging import entries as e

SHIFTS = (39, 30, 21, 12)
"""The levels, top down, by the binary logarithm of what one entry covers."""

LEAF = e.EPT_PDE_2MIB.mask("LEAF")
PRESENT = e.EPT_PERMISSIONS
USER_EXECUTE = e.EPT_PTE.mask("XU")

_INDEX_BITS = 9
_ADDRESS = e.EPT_PTE.mask("ADDRESS")


_Replica = dict[tuple[int, int], int]
"""Tables of the two upper levels, by the shift and the prefix of what they cover."""


class Entry(NamedTuple):
    """The lowest entry that exists for an address: how much it covers, where it is, its value."""

    shift: int
    address: Hpa
    value: int

    @property
    def is_present(self) -> bool:
        """Tell whether the entry maps a page."""
        return bool(self.value & PRESENT)


def page_of(entry: int, shift: int) -> int:
    """Return the base address of the page that a leaf maps."""
    return entry & _ADDRESS & -(1 << shift)


def leaf_for(entry: int, shift: int) -> int:
    """Return ``entry`` with bit 7 as a leaf of ``1 << shift`` bytes needs it."""
    return entry & ~LEAF if shift == 12 else entry | LEAF


class EptTable:
    """An EPT with its root in ``root``; guest-physical addresses have 48 bits.

    Entries that reference tables grant all rights, so that a leaf alone decides; with
    ``mode_based`` user-mode execution is one of them.
    """

    def __init__(
        self, memory: PhysicalMemory, frames: FrameSource, *, mode_based: bool = False
    ) -> None:
        self._table_bits = PRESENT | (USER_EXECUTE if mode_based else 0)
        self._memory = memory
        self._frames = frames
        self.root: Hpa = frames.allocate()
        self._top: dict[int, int] = {0: self.root}
        # For each level the tables whose entries cover 1 << shift bytes, by what they cover.
        self._tables: dict[int, dict[int, int]] = {39: self._top, 30: {}, 21: {}, 12: {}}
        self._replicas: list[_Replica] = []

    @property
    def frames(self) -> int:
        """Number of frames that the table occupies."""
        own = sum(len(one) for one in self._tables.values())
        return own + sum(len(one) for one in self._replicas)

    def replicate(self) -> Hpa:
        """Return another root for the same mappings: a copy of the two upper levels.

        The levels below are shared; the copies follow every later change.
        """
        replica: _Replica = {}
        self._replicas.append(replica)
        replica[39, 0] = self._frames.allocate()
        for prefix, table in self._tables[30].items():
            self._replicate_table(replica, prefix, table)
        return Hpa(replica[39, 0])

    def _replicate_table(self, replica: "_Replica", prefix: int, table: int) -> None:
        copy = replica[30, prefix] = self._frames.allocate()
        self._memory.write(copy, self._memory.read(table, PAGE_SIZE))
        self._memory.store(replica[39, 0] + 8 * prefix, 8, copy | self._table_bits)

    def _store(self, shift: int, gpa: int, value: int) -> None:
        """Write the entry of a level that exists, in the replicas too."""
        prefix, place = gpa >> shift + _INDEX_BITS, (gpa >> shift & 511) * 8
        self._memory.store(self._tables[shift][prefix] + place, 8, value)
        if shift >= 30:
            for replica in self._replicas:
                self._memory.store(replica[shift, prefix] + place, 8, value)

    def get(self, gpa: int) -> Entry:
        """Return the lowest entry for ``gpa``."""
        for shift in (12, 21, 30, 39):
            table = self._tables[shift].get(gpa >> shift + _INDEX_BITS)
            if table is not None:
                where = table + (gpa >> shift & 511) * 8
                return Entry(shift, Hpa(where), self._memory.load(where, 8))
        raise AssertionError("every 48-bit address has an entry in the root")

    def path(self, gpa: int) -> list[Entry]:
        """Return every entry for ``gpa``, from the root down."""
        steps = []
        for shift in SHIFTS:
            table = self._tables[shift].get(gpa >> shift + _INDEX_BITS)
            if table is None:
                break
            where = table + (gpa >> shift & 511) * 8
            steps.append(Entry(shift, Hpa(where), self._memory.load(where, 8)))
        return steps

    def set(self, gpa: int, shift: int, value: int) -> None:
        """Write the entry that covers the ``1 << shift`` bytes around ``gpa``.

        A larger leaf on the way is split into equal smaller ones first; a table in the entry's
        place is given up. ``value`` is a leaf of that size, or not present.
        """
        table = self._tables[shift].get(gpa >> shift + _INDEX_BITS)
        if table is None:
            table = self._make_table(gpa, shift)
        if shift > 12 and gpa >> shift in self._tables[shift - _INDEX_BITS]:
            self._store(shift, gpa, 0)
            self._drop_table(gpa >> shift, shift - _INDEX_BITS)
        if self._replicas:
            self._store(shift, gpa, value)
        else:
            self._memory.store(table + (gpa >> shift & 511) * 8, 8, value)

    def split(self, gpa: int, shift: int) -> None:
        """Make sure that ``gpa`` has an entry of ``1 << shift`` bytes, equal to what it had."""
        if gpa >> shift + _INDEX_BITS not in self._tables[shift]:
            self._make_table(gpa, shift)

    def leaves(self) -> Iterator[tuple[int, Entry]]:
        """Yield ``(guest-physical address, entry)`` of all entries that are not zero, by size."""
        load = self._memory.load
        for shift in SHIFTS[1:]:
            below = self._tables[shift - _INDEX_BITS] if shift > 12 else {}
            for prefix, table in list(self._tables[shift].items()):
                for index in range(512):
                    number = prefix << _INDEX_BITS | index
                    value = load(table + 8 * index, 8)
                    if value and number not in below:
                        yield number << shift, Entry(shift, Hpa(table + 8 * index), value)

    def clear(self) -> None:
        """Give up everything but the root, which becomes empty; replicas are given up too."""
        for prefix in self._tables[30]:
            self._memory.store(self.root + 8 * prefix, 8, 0)
        for replica in self._replicas:
            for table in replica.values():
                self._frames.free(table)
        self._replicas.clear()
        for shift in SHIFTS[1:]:
            tables = self._tables[shift]
            for table in tables.values():
                self._frames.free(table)
            tables.clear()

    def destroy(self) -> None:
        """Give up everything, the root too."""
        self.clear()
        self._frames.free(self.root)

    def _make_table(self, gpa: int, shift: int) -> int:
        above = shift + _INDEX_BITS
        parent = self._tables[above].get(gpa >> above + _INDEX_BITS)
        if parent is None:
            parent = self._make_table(gpa, above)
        where = parent + (gpa >> above & 511) * 8
        old = self._memory.load(where, 8)
        table = self._frames.allocate()
        if old:
            self._fill_from(table, old, shift)
        # Linked only when it is complete: the processor may walk at any moment.
        if shift == 30:
            self._memory.store(where, 8, table | self._table_bits)
            for replica in self._replicas:
                self._replicate_table(replica, gpa >> above, table)
        else:
            self._store(above, gpa, table | self._table_bits)
        self._tables[shift][gpa >> above] = table
        return table

    def _fill_from(self, table: int, old: int, shift: int) -> None:
        """Fill a new table with the parts of the larger leaf (or mark) ``old``."""
        step = 1 << shift if old & PRESENT else 0
        value = leaf_for(old, shift) if step else old
        for index in range(512):
            self._memory.store(table + 8 * index, 8, value + index * step)

    def _drop_table(self, prefix: int, shift: int) -> None:
        table = self._tables[shift].pop(prefix)
        if shift > 12:
            below = self._tables[shift - _INDEX_BITS]
            for number in range(prefix << _INDEX_BITS, (prefix + 1) << _INDEX_BITS):
                if number in below:
                    self._drop_table(number, shift - _INDEX_BITS)
        self._frames.free(table)
