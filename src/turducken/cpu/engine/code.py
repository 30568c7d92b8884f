"""Pages that the engine has translated code from, and stores to them through other addresses.

The engine notices a store to translated code by the linear address that it fetched the code from.
Through any other address it notices at most the first store. So where a page with code is about to
be stored to through one, its code is forgotten before; and where code is translated from such a
page, what is known of stores is, so that the next one is asked for again.
"""

from turducken.address import PAGE_SIZE
from turducken.cpu.engine import library
from turducken.cpu.engine.grants import LARGE_SHIFT, GrantTable

_MANY = -1
"""Instead of a linear page: there are several."""
_SOMEWHERE = 1 << 62
"""A linear page that no guest can use."""


class TranslatedCode:
    """One engine's; pages are given by linear and by host-physical address (``target``).

    While ``asked`` is set, the engine is to be answered with this page whatever it fetches.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._code: dict[int, int] = {}
        self._code_large: dict[int, int] = {}
        self._stores: dict[int, set[tuple[GrantTable, int]]] = {}
        self._stores_large: dict[int, set[tuple[GrantTable, int]]] = {}
        self.asked: int | None = None

    def translate(self, page: int, target: int) -> bool:
        """Learn that code was translated from a page; return whether stores went there otherwise.

        Then they will be asked for again, once the engine's own TLB is flushed.
        """
        if self._code.setdefault(target, page) != page:
            self._code[target] = _MANY
        begin, region = page >> LARGE_SHIFT, target >> LARGE_SHIFT
        if (page ^ target) & (1 << LARGE_SHIFT) - 1:
            begin = _MANY  # the region is not mapped as a whole
        if self._code_large.setdefault(region, begin) != begin:
            self._code_large[region] = _MANY
        others = [one for one in self._stores.get(target, ()) if one[1] != page]
        for one in others:
            table, place = one
            table.withdraw(place)
            self._stores[target].discard(one)
        regions = [one for one in self._stores_large.get(region, ()) if one[1] != begin]
        for one in regions:
            one[0].cleared()
            self._stores_large[region].discard(one)
        return bool(others or regions)

    def store(self, table: GrantTable, page: int, target: int) -> None:
        """Learn that stores to a page are granted; its code goes, if it came another way."""
        if self._code.get(target, page) != page:
            self._forget_code(target)
        self._stores.setdefault(target, set()).add((table, page))

    def store_large(self, table: GrantTable, page: int, target: int) -> bool:
        """Learn that the 2 MiB around a page are; return False: its pages must be asked for."""
        begin, region = page >> LARGE_SHIFT, target >> LARGE_SHIFT
        if self._code_large.get(region, begin) != begin:
            return False
        self._stores_large.setdefault(region, set()).add((table, begin))
        return True

    def forget(self) -> None:
        """All translated code is gone."""
        self._code.clear()
        self._code_large.clear()

    def _forget_code(self, target: int) -> None:
        """Drop what has been translated from one page of RAM.

        The engine finds it by an address that it fetches from: one that leads there for the moment.
        """
        self.asked = target
        library.remove_code(self._handle, _SOMEWHERE, _SOMEWHERE + PAGE_SIZE)
        self.asked = None
        library.flush_tlb(self._handle)
        del self._code[target]
