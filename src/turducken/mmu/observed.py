"""An MMU whose accesses somebody may look at: for the sanitizer."""

from typing import Protocol

from turducken.mmu.faults import Fault
from turducken.mmu.mmu import Access, Mmu
from turducken.mmu.tlb import Mapping


class AccessObserver(Protocol):
    """Looks at every linear access for which the MMU is asked, before and after."""

    def before(self, access: Access) -> None:
        """An access is about to be translated."""

    def after(self, access: Access, found: Mapping | Fault) -> None:
        """An access has been translated, or refused."""


class ObservedMmu(Mmu):
    """As `Mmu`; ``observer`` is told of linear accesses."""

    observer: AccessObserver | None = None

    answers_for_whole_pages = False
    keeps_answers = False

    def translate(self, access: Access) -> Mapping | Fault:
        """See `Mmu.translate`."""
        observer = self.observer
        if observer is None:
            return super().translate(access)
        observer.before(access)
        found = super().translate(access)
        observer.after(access, found)
        return found
