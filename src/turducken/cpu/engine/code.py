"""Pages that the engine has translated code from, and stores to them in other ways.

The engine notices a store to translated code by the linear address that it fetched the code from,
in the same translation context. Through any other address, or from another context (a hypervisor
that stores to its guest's code), it notices at most the first store. So where a page with code is
about to be stored to in another way, its code is forgotten before; and where code is translated
from such a page, what is known of stores is, so that the next one is asked for again.
"""

from turducken.address import PAGE_SIZE
from turducken.cpu.engine import library
from turducken.cpu.engine.grants import LARGE_SHIFT, GrantTable

_SOMEWHERE = 1 << 62
"""A linear page that no guest can use."""

Way = tuple[int, GrantTable]
"""How RAM is reached: by a linear page, in a context (its table of grants)."""


class TranslatedCode:
    """One engine's; pages are given by linear and by host-physical address (``target``).

    ``context`` is the table of grants of the translation context that is in force. While ``asked``
    is set, the engine is to be answered with this page whatever it fetches.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._code: dict[int, Way | None] = {}  # None: in several ways
        self._code_large: set[int] = set()
        self._stores: dict[int, set[tuple[GrantTable, Way]]] = {}
        self._stores_large: dict[int, set[GrantTable]] = {}
        self.asked: int | None = None

    def translate(self, page: int, target: int, context: GrantTable) -> bool:
        """Learn that code was translated from a page; return whether stores went there otherwise.

        Then they will be asked for again, once the engine's own TLB is flushed.
        """
        way: Way = page, context
        if self._code.setdefault(target, way) != way:
            self._code[target] = None
        others = [one for one in self._stores.get(target, ()) if one[1] != way]
        for one in others:
            table, (place, _) = one
            table.withdraw(place)
            self._stores[target].discard(one)
        region = target >> LARGE_SHIFT
        self._code_large.add(region)
        regions = self._stores_large.pop(region, ())
        for table in regions:
            table.cleared()
        return bool(others or regions)

    def store(self, table: GrantTable, page: int, target: int, context: GrantTable) -> None:
        """Learn that ``table`` grants stores to a page; its code goes, if it came another way."""
        way: Way = page, context
        if self._code.get(target, way) != way:
            self._forget_code(target)
        self._stores.setdefault(target, set()).add((table, way))

    def store_large(self, table: GrantTable, target: int) -> bool:
        """Learn that it grants the 2 MiB around; False, with code there: ask for its pages."""
        region = target >> LARGE_SHIFT
        if region in self._code_large:
            return False
        self._stores_large.setdefault(region, set()).add(table)
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
