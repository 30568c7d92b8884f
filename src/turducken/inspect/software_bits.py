"""Entries whose high bits mean something under controls that a table itself does not show.

Sub-page write permissions (SPP) and hypervisor-managed linear-address translation (HLAT) give a
meaning to bits that are ignored otherwise: SDM 3C, "Sub-Page Write Permissions for EPT"; SDM 3A,
"HLAT Paging".
"""

from typing import TYPE_CHECKING

import numpy as np

from turducken.paging import entries as e
from turducken.paging.readers import Words, reader_of

if TYPE_CHECKING:
    from turducken.inspect.check import Checker

_AT_ONCE = 256
_SPP = np.uint64(1 << 61)
_RESTART = np.uint64(1 << 11)
_NONE = np.uint64(0)
_WRITE = np.uint64(e.EPT_PTE.mask("W"))


class SoftwareBits:
    """Looks through a stage's tables; findings go to its checker's report."""

    def __init__(self, checker: "Checker") -> None:
        self._checker = checker

    def check_sub_pages(self) -> None:
        """Note the pages of an EPT for which a sub-page table decides about writes."""
        if not self._checker.stage.fmt.is_ept:
            return
        last = len(self._checker.stage.fmt.levels) - 1
        count, first = self._count(last, _SPP, forbidden=_WRITE)
        self._note("sub-page-writes", count, first, "pages that cannot be written as a whole")

    def check_restarts(self) -> None:
        """Note the entries at which HLAT paging is given up for ordinary paging."""
        if self._checker.stage.fmt.is_ept or self._checker.stage.fmt.entry_size != 8:
            return
        total, first = 0, None
        for level in range(len(self._checker.stage.fmt.levels)):
            count, where = self._count(level, _RESTART)
            total, first = total + count, where if first is None else first
        self._note("hlat-restart", total, first, "entries restart the walk with CR3's tables")

    def _note(self, rule: str, count: int, first: int | None, what: str) -> None:
        if count:
            self._checker.add(rule, f"{count} {what}", entry_address=first)

    def _count(
        self, level: int, wanted: np.uint64, forbidden: np.uint64 = _NONE
    ) -> tuple[int, int | None]:
        """Return how many present entries of a level have such bits, and where the first lies."""
        checker = self._checker
        fmt = checker.stage.fmt
        tables: Words = checker.inventory.tables[level]
        reader = reader_of(checker.memory)
        count, first = 0, None
        for begin in range(0, len(tables), _AT_ONCE):
            block = tables[begin : begin + _AT_ONCE]
            number = fmt.levels[level].index_mask + 1
            entries, _ = reader.read_tables(block, number, fmt.entry_size)
            hit = (entries & np.uint64(fmt.present) != 0) & (entries & wanted != 0)
            hit &= entries & forbidden == 0
            count += int(hit.sum())
            if first is None and hit.any():
                row, column = (int(one[0]) for one in np.nonzero(hit))
                first = int(block[row]) + column * fmt.entry_size
        return count, first
