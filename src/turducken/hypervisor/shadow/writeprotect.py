"""The `writeprotect` policy: EPT12's pages are read-only for L1, and changes are followed at once.

Before anything is translated through a page of EPT12, L1's write access to it is withheld on every
processor (`turducken.hypervisor.table_watch`). A write then exits; every EPT02 that was made
through the page is emptied, and L1 gets its write access back until the page is used again. Nothing
waits for INVEPT, which has nothing left to do.

Some pages cannot be watched: those that L2 itself writes, which could never get on, or that the
processor writes without EPT01 (the virtual-APIC page). What was made through them is dropped at the
next exit to L1, as `lazy` does.
"""

from turducken.address import Gpa1, Gpa2
from turducken.hypervisor.shadow.cached import CachedShadow, Shadow
from turducken.hypervisor.shadow.compose import Composition, Filled, Unwatched
from turducken.hypervisor.shadow.policy import ShadowParts
from turducken.paging import entries as e
from turducken.paging.walker import Stop

_W = e.EPT_PTE.mask("W")


class WriteProtectShadow(CachedShadow):
    """See the module's text."""

    name = "writeprotect"

    def __init__(self, parts: ShadowParts) -> None:
        super().__init__(parts)
        self._watched = parts.watched

    def fill(self, gpa2: Gpa2, access: int) -> Composition:
        """Compose one leaf, once the pages that it comes from are watched."""
        current = self._current
        assert current is not None
        root12 = current.root12
        watched = self._watched
        if gpa2 >> 48 == 0 and not watched.is_exhausted:
            found12 = self._parts.composer.walk12(root12.view, root12.eptp, gpa2)
            if found12.stop is Stop.PAGE:
                tables = {Gpa1(step.address & -4096) for step in found12.steps}
                if (
                    not tables <= watched.pages
                    and not tables <= watched.pages | watched.unwatchable
                ):
                    return Unwatched(frozenset(tables - watched.unwatchable))
        found = self._parts.composer.compose(root12.view, root12.eptp, gpa2, access)
        if isinstance(found, Filled):
            self._note(current, found)
            self.put(current, found)
        return found

    def _note(self, shadow: Shadow, found: Filled) -> None:
        shadow.tables.update(found.tables)
        if found.entry & _W:
            shadow.writable.add((found.gpa1, found.shift))
        if not self._watched.pages.issuperset(found.tables):
            shadow.is_unfollowed = True

    def leave(self) -> None:
        """Keep what was made of watched pages only."""
        for shadow in self._shadows.values():
            if shadow.is_unfollowed:
                self._empty(shadow)

    def invept(self, ep4ta: int | None) -> None:
        """All changes have been followed already, but those made through an alias of a page."""
        if self._watched.has_aliases:
            super().invept(ep4ta)

    def writing_withheld(self, pages: frozenset[Gpa1]) -> None:
        """Empty every EPT02 that maps one of the pages with write right."""
        places = {(page & -(1 << shift), shift) for page in pages for shift in (12, 21, 30)}
        for shadow in self._shadows.values():
            if not shadow.writable.isdisjoint(places):
                self._empty(shadow)

    def tables_changed(self, pages: frozenset[Gpa1]) -> None:
        """Empty every EPT02 that was made through one of the pages."""
        for shadow in self._shadows.values():
            if not shadow.tables.isdisjoint(pages):
                self._empty(shadow)

    def _empty(self, shadow: Shadow) -> None:
        super()._empty(shadow)
        shadow.tables.clear()
        shadow.writable.clear()
        shadow.is_unfollowed = False
