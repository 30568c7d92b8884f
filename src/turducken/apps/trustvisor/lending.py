"""Which pages of L1's memory are lent to PALs, and what that makes of them in EPT01.

A page of a PAL's own is taken away from every guest. A page of shared code stays readable and
executable for all, several PALs among them, but nobody can write it.
"""

from collections.abc import Iterable

from turducken.address import PAGE_SIZE, Gpa1
from turducken.apps.trustvisor.abi import SectionKind
from turducken.apps.trustvisor.pal import LentPage, Pal
from turducken.hypervisor.memory_control import Change, Protect, Restore, Unmap

_READ_EXECUTE = 5


class Lending:
    """All lent pages."""

    def __init__(self) -> None:
        self._own: dict[Gpa1, Pal] = {}
        self._shared: dict[Gpa1, int] = {}

    def owner_of(self, gpa1: int) -> Pal | None:
        """Return the PAL whose own the page of an address is."""
        return self._own.get(Gpa1(gpa1 & -PAGE_SIZE))

    def accepts(self, pages: Iterable[LentPage]) -> bool:
        """Tell whether these pages can be lent: none twice, and none that is lent otherwise."""
        seen = set()
        for one in pages:
            is_shared = one.kind is SectionKind.SHARED_CODE
            if one.gpa1 in seen or one.gpa1 in self._own:
                return False
            if one.gpa1 in self._shared and not is_shared:
                return False
            seen.add(one.gpa1)
        return True

    def lend(self, pal: Pal) -> list[Change]:
        """Note the pages of a PAL; return what must change in EPT01."""
        changes: list[Change] = []
        for one in pal.pages:
            if one.kind is SectionKind.SHARED_CODE:
                users = self._shared.get(one.gpa1, 0)
                self._shared[one.gpa1] = users + 1
                if not users:
                    changes.append(Protect(one.gpa1, PAGE_SIZE, _READ_EXECUTE))
            else:
                self._own[one.gpa1] = pal
                changes.append(Unmap(one.gpa1, PAGE_SIZE))
        return changes

    def give_back(self, pal: Pal) -> list[Change]:
        """Forget the pages of a PAL; return what must change in EPT01."""
        changes: list[Change] = []
        for one in pal.pages:
            if one.kind is not SectionKind.SHARED_CODE:
                del self._own[one.gpa1]
            else:
                self._shared[one.gpa1] -= 1
                if self._shared[one.gpa1]:
                    continue
                del self._shared[one.gpa1]
            changes.append(Restore(one.gpa1, PAGE_SIZE))
        return changes

    def is_shared(self, gpa1: int) -> bool:
        """Tell whether the page of an address is lent as shared code."""
        return Gpa1(gpa1 & -PAGE_SIZE) in self._shared
