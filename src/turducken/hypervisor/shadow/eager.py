"""The `eager` policy: as `cached`, but EPT12 is translated whole before L2 runs under it.

L2 then meets violations only where EPT12 has changed since (from not present, or to more rights,
which needs no INVEPT), or where translating ahead would be seen: the accessed flag of an entry is
set by use, so with accessed and dirty flags entries that are not marked accessed are left out.
"""

import struct

from turducken.address import PAGE_SIZE, Gpa2
from turducken.hypervisor.ept_table import LEAF
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.shadow.cached import CachedShadow, Shadow
from turducken.hypervisor.shadow.compose import Filled
from turducken.hypervisor.shadow.policy import Root12
from turducken.paging import entries as e

MOST_TABLES = 4096
MOST_LEAVES = 1 << 16
"""Beyond this much of EPT12 the rest is left to violations: tables may reference themselves."""

_TABLE = struct.Struct("<512Q")
_ADDRESS = e.EPT_PML4E.mask("ADDRESS")
_SHIFTS = (39, 30, 21, 12)


class _Budget:
    def __init__(self) -> None:
        self.tables = MOST_TABLES
        self.leaves = MOST_LEAVES


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
        root = shadow.root12.ep4ta
        try:
            self._translate_table(shadow, root, Gpa2(0), 0, _Budget())
        except OutOfFramesError:
            return  # what does not fit is left to violations, which make room

    def _translate_table(
        self, shadow: Shadow, table: int, base: Gpa2, level: int, budget: _Budget
    ) -> None:
        budget.tables -= 1
        if budget.tables < 0:
            return
        fmt = shadow.root12.view.format
        needed = e.EPT_A if shadow.root12.view.accessed_dirty else 0
        shift = _SHIFTS[level]
        entries = _TABLE.unpack(self._parts.composer.memory.read(table, PAGE_SIZE))
        for index, entry in enumerate(entries):
            if not entry & fmt.present or entry & needed != needed:
                continue
            gpa2 = Gpa2(base | index << shift)
            if level == 3 or entry & LEAF:
                self._translate_leaf(shadow, gpa2, shift, budget)
            else:
                self._translate_table(shadow, entry & _ADDRESS, gpa2, level + 1, budget)

    def _translate_leaf(self, shadow: Shadow, gpa2: Gpa2, shift: int, budget: _Budget) -> None:
        """Compose EPT12's leaf in as many parts as EPT01 makes of it."""
        end = gpa2 + (1 << shift)
        root12 = shadow.root12
        while gpa2 < end and budget.leaves > 0:
            budget.leaves -= 1
            found = self._parts.composer.compose(root12.view, root12.eptp, gpa2, 0)
            if isinstance(found, Filled):
                shadow.table.set(found.gpa2, found.shift, found.entry)
                shadow.is_used = True
                self.statistics.fills += 1
                gpa2 = Gpa2(found.gpa2 + (1 << found.shift))
            else:
                gpa2 = Gpa2(gpa2 + PAGE_SIZE)
