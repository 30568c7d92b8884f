"""The `lazy` policy: EPT02 is empty at each L2 entry and filled by violations.

The notes' first plan. L1 may change EPT12 as it likes while it runs: nothing is kept that could be
out of date. The price is a violation for every page that L2 touches after every exit.
"""

from turducken.address import Gpa1, Gpa2
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.shadow.compose import Composition, Filled
from turducken.hypervisor.shadow.policy import Root12, ShadowParts, eptp02


class LazyShadow:
    """See the module's text."""

    name = "lazy"

    def __init__(self, parts: ShadowParts) -> None:
        self._parts = parts
        self.statistics = parts.statistics
        self._tables: dict[bool, EptTable] = {}
        self._table: EptTable | None = None
        self._root12: Root12 | None = None
        self._eptp = 0
        self._is_used = False

    def enter(self, root12: Root12) -> int:
        """Use the empty table."""
        if root12 != self._root12:
            if self._is_used:
                self._drop()  # VMFUNC changes from one to the other without an exit to L1
            self._table = self._table_for(root12)
            self._root12 = root12
            self._eptp = eptp02(self._table, root12)
        return self._eptp

    def _table_for(self, root12: Root12) -> EptTable:
        mode_based = root12.view.features.mode_based_execute
        table = self._tables.get(mode_based)
        if table is None:
            table = EptTable(self._parts.memory, self._parts.frames, mode_based=mode_based)
            self._tables[mode_based] = table
            self.statistics.roots += 1
        return table

    def fill(self, gpa2: Gpa2, access: int) -> Composition:
        """Compose one leaf."""
        table, root12 = self._table, self._root12
        assert table is not None
        assert root12 is not None
        found = self._parts.composer.compose(root12.view, root12.eptp, gpa2, access)
        if isinstance(found, Filled):
            try:
                table.set(found.gpa2, found.shift, found.entry)
            except OutOfFramesError:
                self._drop()
                table.set(found.gpa2, found.shift, found.entry)
            self._is_used = True
            self.statistics.fills += 1
        return found

    def leave(self) -> None:
        """Empty the table."""
        if self._is_used:
            self._drop()

    def _drop(self) -> None:
        assert self._table is not None
        self._table.clear()
        self._parts.invept(self._eptp)
        self._is_used = False
        self.statistics.drops += 1

    def invept(self, ep4ta: int | None) -> None:
        """Nothing is kept while L1 runs."""

    def ept01_changed(self) -> None:
        """Empty the table, which L2 may be using."""
        if self._is_used:
            self._drop()

    def writing_withheld(self, pages: frozenset[Gpa1]) -> None:
        """Nothing is watched."""

    def tables_changed(self, pages: frozenset[Gpa1]) -> None:
        """Nothing is watched."""

    def table_of(self, root12: Root12) -> EptTable | None:
        """Return the table if it stands for this EPT12."""
        return self._table if root12 == self._root12 else None
