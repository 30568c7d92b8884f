"""The `eager` policy: as `cached`, but EPT12 is translated whole before L2 runs under it.

L2 then meets violations only where EPT12 has changed since (from not present, or to more rights,
which needs no INVEPT), or where translating ahead would be seen: the accessed flag of an entry is
set by use, so with accessed and dirty flags entries that are not marked accessed are left out.
"""

import struct

from turducken.address import PAGE_SIZE, Gpa1, Gpa2
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.shadow.cached import CachedShadow, Shadow
from turducken.hypervisor.shadow.compose import Filled, Leaf12
from turducken.hypervisor.shadow.policy import Root12
from turducken.paging import entries as e
from turducken.paging.walker import ALL_ONES

MOST_TABLES = 4096
MOST_LEAVES = 1 << 16
"""Beyond this much of EPT12 the rest is left to violations: tables may reference themselves."""

_TABLE = struct.Struct("<512Q")
_REACHED = 48
"""Bits of an address that EPT02 translates."""


class _Work:
    """One translation: what it reads, and how much of it is left to do."""

    def __init__(self, shadow: Shadow) -> None:
        view = shadow.root12.view
        self.shadow = shadow
        self.format = view.format
        self.tables = MOST_TABLES
        self.leaves = MOST_LEAVES
        self._needed = e.EPT_A if view.accessed_dirty else 0

    def is_used(self, entry: int) -> bool:
        """Tell whether an entry is present, sound, and marked accessed where that counts."""
        if not entry & self.format.present or entry & self._needed != self._needed:
            return False
        return not self.format.bad_permissions >> (entry & 7) & 1

    def has_type(self, leaf: int) -> bool:
        """Tell whether a leaf's memory type is one."""
        return not self.format.bad_types >> (leaf >> 3 & 7) & 1


class EagerShadow(CachedShadow):
    """See the module's text."""

    name = "eager"

    def enter(self, root12: Root12) -> int:
        """Use the EPT02 for this EPT12, translated whole."""
        eptp = super().enter(root12)
        shadow = self._current
        assert shadow is not None
        if not shadow.is_whole:
            shadow.is_whole = True
            self._translate(shadow)
        return eptp

    def _translate(self, shadow: Shadow) -> None:
        work = _Work(shadow)
        try:
            self._translate_table(work, shadow.root12.ep4ta, Gpa2(0), 0, ALL_ONES)
        except OutOfFramesError:
            return  # what does not fit is left to violations, which make room

    def _translate_table(
        self, work: _Work, table: int, base: Gpa2, level: int, all_of: int
    ) -> None:
        work.tables -= 1
        if work.tables < 0:
            return
        bound = work.format.levels[level]
        entries = _TABLE.unpack(self._parts.composer.memory.read(table, PAGE_SIZE))
        for index, entry in enumerate(entries):
            if not work.is_used(entry):
                continue
            gpa2 = Gpa2(base | index << bound.shift)
            if gpa2 >> _REACHED:
                return  # only EPT12 has five levels, and no physical address is so wide
            if entry & bound.leaf_mask:
                if not entry & bound.leaf_reserved and work.has_type(entry):
                    page = Gpa1(entry & bound.leaf_address)
                    leaf = Leaf12(page, bound.shift, entry, all_of & entry, ())
                    self._translate_leaf(work, gpa2, leaf)
            elif not entry & bound.table_reserved:
                below = entry & bound.table_address
                self._translate_table(work, below, gpa2, level + 1, all_of & entry)

    def _translate_leaf(self, work: _Work, gpa2: Gpa2, leaf: Leaf12) -> None:
        """Compose EPT12's leaf in as many parts as EPT01 makes of it."""
        shadow, done, size = work.shadow, 0, 1 << leaf.shift
        compose = self._parts.composer.compose_leaf
        while done < size and work.leaves > 0:
            work.leaves -= 1
            part = leaf._replace(gpa1=Gpa1(leaf.gpa1 + done)) if done else leaf
            found = compose(shadow.root12.view, Gpa2(gpa2 + done), part)
            if isinstance(found, Filled):
                shadow.table.set(found.gpa2, found.shift, found.entry)
                shadow.is_used = True
                self.statistics.fills += 1
                done += 1 << found.shift
            else:
                done += PAGE_SIZE
