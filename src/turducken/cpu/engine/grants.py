"""What the engine has been told of translations, for as long as it holds.

The engine's own TLB forgets when it likes, and holds little: two pages a multiple of a MiB apart
may drive each other out. It knows one translation context, too. What it has been told once is
answered again here, natively, so that its memory has no influence on the run.

An answer is about one page, or about a whole aligned 2 MiB of RAM for data. It belongs to a
`GrantTable`, which forgets what is dropped from the part of the TLB that the answer came from. Two
tables are in force at a time: that of the context, and that of global pages.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from unicorn import unicorn_const

from turducken.address import PAGE_OFFSET_MASK, PAGE_SHIFT
from turducken.cpu.engine import library
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.registers import Registers
from turducken.cpu.engine.state import EFLAGS, H_CPL, HFLAGS, State
from turducken.native import U32, U64, Record, Ref

LARGE_SHIFT = 21
_LARGE_MASK = (1 << LARGE_SHIFT) - 1
_LARGE_KEY = ~_LARGE_MASK | PAGE_OFFSET_MASK
_PAGE_IN_LARGE = _LARGE_MASK & ~PAGE_OFFSET_MASK
_PAGES, _PAGES_SHIFT, _LARGE = 4096, 12, 256
_MODES = 8
"""What a key has besides the page: CPL and RFLAGS.AC."""

_AC_TO_BIT_2 = 16
_FIRST_KIND = unicorn_const.UC_MEM_READ
READ, WRITE, EXECUTE = (
    unicorn_const.UC_PROT_READ,
    unicorn_const.UC_PROT_WRITE,
    unicorn_const.UC_PROT_EXEC,
)


class Entry(Record):
    """A page or large page, known by its key and the number of the table that it belongs to."""

    key: U64
    owner: U64
    target: U64
    rights: U64


class Answer(Record):
    """Where the engine takes an answer from."""

    target: U64
    rights: U32


class GrantData(Record):
    """What `fill` works on: the numbers of the tables in force, and some of what they hold."""

    local: U64
    common: U64
    registers: Ref[Registers]
    ask: Annotated[Callable[[int, int, int, int, int], bool], library.FILL_HOOK]
    pages: Annotated[Sequence[Entry], _PAGES]
    large: Annotated[Sequence[Entry], _LARGE]


@HOT.compiled
def page_slot(page: U64) -> U64:
    """Return where a page's entry is."""
    return (page >> PAGE_SHIFT ^ page >> PAGE_SHIFT + _PAGES_SHIFT) & _PAGES - 1


@HOT.compiled
def key_of(registers: Registers, page: U64) -> U64:
    """Return a page joined with what else answers are told apart by."""
    return page | registers.hflags & H_CPL | registers.eflags >> _AC_TO_BIT_2 & 4


@HOT.compiled
def is_in_force(data: GrantData, entry: Entry, key: U64) -> bool:
    """Tell whether an entry is about ``key``, here and now."""
    return entry.key == key and entry.owner in (data.local, data.common)


@HOT.exported
def fill(engine: U64, page: U64, access: U32, result: Answer, data: GrantData) -> bool:
    """Answer a miss of the engine's TLB: its fill hook."""
    key = key_of(data.registers, page)
    needed = 1 << access - _FIRST_KIND
    entry = data.pages[page_slot(page)]
    is_known = is_in_force(data, entry, key)
    if is_known and entry.rights & needed:
        result.target = entry.target
        result.rights = entry.rights
        return True
    large = data.large[page >> LARGE_SHIFT & _LARGE - 1]
    if large.rights & needed and is_in_force(data, large, key & ~_PAGE_IN_LARGE):
        target = large.target + (page & _LARGE_MASK)
        rights = large.rights
        if is_known and entry.target == target:
            rights |= entry.rights
        result.target = target
        result.rights = rights
        return True
    return data.ask(engine, page, access, result.address, data.address)


@HOT.compiled
def granted(data: GrantData, key: U64, needed: U64) -> U64:
    """Return the host-physical page that may be accessed so, or all ones if that is not known."""
    entry = data.pages[page_slot(key & ~PAGE_OFFSET_MASK)]
    if entry.rights & needed and is_in_force(data, entry, key):
        return entry.target
    large = data.large[key >> LARGE_SHIFT & _LARGE - 1]
    if large.rights & needed and is_in_force(data, large, key & ~_PAGE_IN_LARGE):
        return large.target + (key & _PAGE_IN_LARGE)
    return UNKNOWN


UNKNOWN = (1 << 64) - 1
"""No page."""

_NOBODY, _NO_TABLE = 0, UNKNOWN
"""The owner of an entry that is not valid; what stands for a table where nothing is answered."""

Grant = tuple[int, int]
"""A host-physical page, and rights to it."""


class GrantTable:
    """Answers that came from one part of the TLB; told when something is dropped there."""

    def __init__(self, grants: "Grants") -> None:
        self._grants = grants
        self.number = grants.new_number()
        self.pages: dict[int, Grant] = {}
        self.large: dict[int, Grant] = {}

    def cleared(self) -> None:
        """Forget everything."""
        if self.pages or self.large:
            self.pages.clear()
            self.large.clear()
            self._grants.renumber(self)

    def withdraw(self, page: int) -> None:
        """Forget a linear page."""
        for mode in range(_MODES):
            self.pages.pop(page | mode, None)
        self._grants.forget_page(self, page)

    def dropped(self, shift: int, page: int) -> None:
        """Forget a page of ``1 << shift`` bytes, by its number."""
        if shift == PAGE_SHIFT:
            for begin in _canonical(page << PAGE_SHIFT):
                found = [self.pages.pop(begin | mode, None) for mode in range(_MODES)]
                if any(found):
                    self._grants.forget_page(self, begin)
        else:
            self.cleared()


class Grants:
    """One engine's. ``hook`` and ``data`` are for it to register; ``ask`` is asked for the rest.

    ``source`` is the table that the next answer belongs to; ``by_context`` remembers, for whoever
    calls `use`, what goes with what.
    """

    def __init__(self, state: State, ask: Any, *, native: bool) -> None:
        self._registers = state.words
        self.words = GrantData()
        self.words.registers = Registers.at(state.address)
        self.words.ask = ask
        self.hook = HOT.hook(fill, native=native)
        self.data = self.words.address
        self.by_context: dict[object, tuple[GrantTable, GrantTable]] = {}
        self._numbers = 0
        self._tables: list[GrantTable] = []
        self.local = self.common = self.source = self.new_table()
        self.use(self.local, self.common)

    def new_table(self) -> GrantTable:
        """Return an empty table."""
        table = GrantTable(self)
        self._tables.append(table)
        return table

    def new_number(self) -> int:
        """Return a number that no table has had."""
        self._numbers += 1
        return self._numbers

    def renumber(self, table: GrantTable) -> None:
        """Let nothing that a table had be found any more."""
        table.number = self.new_number()
        self.use(self.local, self.common)

    def use(self, local: GrantTable, common: GrantTable) -> bool:
        """Answer from these two tables from now on; return whether they are others than before."""
        is_new = local is not self.local or common is not self.common
        self.local = self.source = local
        self.common = common
        self.words.local, self.words.common = local.number, common.number
        return is_new

    def suspend(self) -> None:
        """Answer nothing until `resume`."""
        self.words.local = self.words.common = _NO_TABLE

    def resume(self) -> None:
        """Answer again."""
        self.use(self.local, self.common)

    def forget(self) -> None:
        """Forget everything, in every table."""
        for table in self._tables:
            table.cleared()

    def forget_page(self, table: GrantTable, page: int) -> None:
        """Let a page of a table be found no more."""
        entry = self.words.pages[page_slot(page)]
        if entry.owner == table.number and entry.key & ~PAGE_OFFSET_MASK == page:
            entry.owner = _NOBODY

    def key(self, page: int) -> int:
        """Return the linear ``page`` joined with what else answers are told apart by."""
        words = self._registers
        return page | words[HFLAGS] & H_CPL | words[EFLAGS] >> _AC_TO_BIT_2 & 4

    def find(self, key: int, needed: int) -> Grant | None:
        """Return what has been granted of a page, if that includes ``needed``."""
        known = None
        for table in (self.local, self.common):
            found = table.pages.get(key)
            if found is not None:
                if found[1] & needed:
                    self._remember_page(key, table, found)
                    return found
                known = found
        for table in (self.local, self.common):
            large = table.large.get(key & _LARGE_KEY)
            if large is not None and large[1] & needed:
                self._remember_large(key & _LARGE_KEY, table, large)
                target = large[0] + (key & _PAGE_IN_LARGE)
                return target, large[1] | _rights_to(known, target)
        return None

    def add(self, key: int, target: int, rights: int) -> int:
        """Grant ``rights`` to a page; return them with those granted before."""
        table = self.source
        rights |= _rights_to(table.pages.get(key), target)
        table.pages[key] = grant = target, rights
        self._remember_page(key, table, grant)
        large = table.large.get(key & _LARGE_KEY)
        if large is not None and large[0] + (key & _PAGE_IN_LARGE) == target:
            rights |= large[1]
        return rights

    def add_large(self, key: int, target: int, rights: int) -> None:
        """Grant ``rights`` (no fetches) to the aligned 2 MiB that hold the page and ``target``."""
        table = self.source
        key &= _LARGE_KEY
        base = target & ~_LARGE_MASK
        grant = base, rights | _rights_to(table.large.get(key), base)
        table.large[key] = grant
        self._remember_large(key, table, grant)

    def _remember_page(self, key: int, table: GrantTable, grant: Grant) -> None:
        _set_entry(self.words.pages[page_slot(key)], key, table, grant)

    def _remember_large(self, key: int, table: GrantTable, grant: Grant) -> None:
        _set_entry(self.words.large[key >> LARGE_SHIFT & _LARGE - 1], key, table, grant)


def _set_entry(entry: Entry, key: int, table: GrantTable, grant: Grant) -> None:
    entry.key, entry.owner = key & (1 << 64) - 1, table.number
    entry.target, entry.rights = grant


def _canonical(address: int) -> tuple[int, ...]:
    """Return the linear addresses that the TLB may know as ``address``, which it cuts."""
    upper = [(1 << 64) - (1 << width) for width in (48, 57) if address >> width - 1 & 1]
    return (address, *(address | one for one in upper))


def _rights_to(grant: Grant | None, target: int) -> int:
    return grant[1] if grant is not None and grant[0] == target else 0
