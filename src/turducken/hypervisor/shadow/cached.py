"""The `cached` policy: one EPT02 for each EPT12 root, kept until L1's INVEPT drops it.

The manual lets a processor keep what it has read of EPT12 until software executes INVEPT; an EPT02
that is kept is nothing but a large TLB, so L1's obligations towards a processor are enough. The
least recently used EPT02 gives way when there are too many.
"""

from collections import OrderedDict

from turducken.address import Gpa1, Gpa2
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.frames import OutOfFramesError
from turducken.hypervisor.shadow.compose import Composition, Filled
from turducken.hypervisor.shadow.policy import Root12, ShadowParts, eptp02


class Shadow:
    """One EPT02 and the EPT12 that it stands for."""

    __slots__ = (
        "absent",
        "eptp",
        "is_unfollowed",
        "is_used",
        "is_whole",
        "root12",
        "table",
        "tables",
        "writable",
    )

    def __init__(self, table: EptTable, root12: Root12) -> None:
        self.table = table
        self.root12 = root12
        self.eptp = eptp02(table, root12)
        self.is_used = False
        """The table has had entries since it was last invalidated."""
        self.is_whole = False
        """EPT12 has been translated whole (`eager`)."""
        self.tables: set[Gpa1] = set()
        """Pages of EPT12 that entries were made from (`writeprotect`)."""
        self.writable: set[tuple[int, int]] = set()
        """Pages of L1's that it maps with write right, and their shifts (`writeprotect`)."""
        self.is_unfollowed = False
        """Some of ``tables`` cannot be watched (`writeprotect`)."""


class CachedShadow:
    """See the module's text."""

    name = "cached"

    def __init__(self, parts: ShadowParts) -> None:
        self._parts = parts
        self.statistics = parts.statistics
        self._shadows: OrderedDict[Root12, Shadow] = OrderedDict()
        self._current: Shadow | None = None

    # Entering

    def enter(self, root12: Root12) -> int:
        """Use the EPT02 that stands for this EPT12; make an empty one where there is none."""
        current = self._current
        if current is None or current.root12 != root12:
            current = self._shadows.get(root12) or self._make(root12)
            self._shadows.move_to_end(root12)
            self._current = current
        return current.eptp

    def _make(self, root12: Root12) -> Shadow:
        self._current = None
        table = self._new_table(root12)
        shadow = self._shadows[root12] = Shadow(table, root12)
        # The root's frame may have been another EPT02's: what is cached for it must be gone,
        # and is: `_give_up` invalidates.
        self.statistics.roots += 1
        return shadow

    def _new_table(self, root12: Root12) -> EptTable:
        mode_based = root12.view.features.mode_based_execute
        while True:
            try:
                return EptTable(self._parts.memory, self._parts.frames, mode_based=mode_based)
            except OutOfFramesError:
                if not self._shadows:
                    raise
                self._evict()

    # Filling

    def fill(self, gpa2: Gpa2, access: int) -> Composition:
        """Compose one leaf and put it into the current EPT02."""
        current = self._current
        assert current is not None
        root12 = current.root12
        found = self._parts.composer.compose(root12.view, root12.eptp, gpa2, access)
        if isinstance(found, Filled):
            self.put(current, found)
        return found

    def put(self, shadow: Shadow, found: Filled) -> None:
        """Write a composed leaf, making room where necessary."""
        while True:
            try:
                shadow.table.set(found.gpa2, found.shift, found.entry)
                break
            except OutOfFramesError:
                self._make_room(shadow)
        shadow.is_used = True
        self.statistics.fills += 1

    def _make_room(self, shadow: Shadow) -> None:
        """Give up the least recently used EPT02, or empty the one in use if it is alone."""
        for root12, one in self._shadows.items():
            if one is not shadow:
                self._give_up(root12)
                self.statistics.evictions += 1
                return
        if shadow.table.frames == 1:
            raise OutOfFramesError("no memory for a single EPT02")
        self._empty(shadow)

    def _evict(self) -> None:
        self._give_up(next(iter(self._shadows)))
        self.statistics.evictions += 1

    # Dropping

    def _give_up(self, root12: Root12) -> None:
        shadow = self._shadows.pop(root12)
        self.statistics.drops += 1
        if shadow is self._current:
            self._current = None
        shadow.table.destroy()
        # The frame may become another EPT02's root, so nothing may be left under its tag.
        self._parts.invept(shadow.eptp)

    def _empty(self, shadow: Shadow) -> None:
        shadow.is_whole = False
        if not shadow.is_used:
            return
        shadow.table.clear()
        shadow.is_used = False
        self._parts.invept(shadow.eptp)
        self.statistics.drops += 1

    def leave(self) -> None:
        """Everything is kept."""

    def invept(self, ep4ta: int | None) -> None:
        """Empty the EPT02s that stand for this EPT12: there may be several, read differently."""
        for shadow in list(self._shadows.values()):
            if ep4ta is None or shadow.root12.ep4ta == ep4ta:
                self._empty(shadow)

    def ept01_changed(self) -> None:
        """Empty all."""
        for shadow in self._shadows.values():
            self._empty(shadow)

    def writing_withheld(self, pages: frozenset[Gpa1]) -> None:
        """Nothing is watched."""

    def tables_changed(self, pages: frozenset[Gpa1]) -> None:
        """Nothing is watched."""

    # For tools and statistics

    def table_of(self, root12: Root12) -> EptTable | None:
        """Return the EPT02 for this EPT12, if there is one."""
        shadow = self._shadows.get(root12)
        return shadow.table if shadow else None
