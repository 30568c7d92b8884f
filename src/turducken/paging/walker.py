"""The walker: from a root and an address to the page, through any format, in any memory.

It reads; it neither judges access rights nor writes accessed and dirty flags: what an access may do
is decided by its caller from the walk (`turducken.paging.rights`).
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from turducken.memory.protocol import TableMemory
from turducken.paging.formats import BoundFormat, BoundLevel

ALL_ONES = -1
_step = tuple.__new__  # half the time of calling the class; the walk is the TLB's refill


class Stop(Enum):
    """Why a walk ended."""

    PAGE = "page"
    NOT_PRESENT = "not present"
    MALFORMED = "malformed"
    """Reserved bits, or for EPT a misconfiguration."""
    NO_MEMORY = "no memory"
    """The memory has no such entry (a hole; in a nested walk, a fault of the outer stage)."""


class Step(NamedTuple):
    """One entry that a walk read: the level's number (0 is the top), its address and value."""

    level: int
    address: int
    entry: int


class Start(NamedTuple):
    """Where a walk begins: a table at ``table``, indexed by ``level``, and what lies above it."""

    level: int
    table: int
    all_of: int = ALL_ONES
    any_of: int = 0


@dataclass(slots=True)
class Walk:
    """The outcome of a walk.

    ``page`` is the page's base address, ``shift`` the binary logarithm of its size (`Stop.PAGE`);
    ``all_of`` holds the bits set in every entry, ``any_of`` those set in at least one.
    """

    stop: Stop
    steps: list[Step]
    page: int = 0
    shift: int = 0
    all_of: int = ALL_ONES
    any_of: int = 0

    @property
    def leaf(self) -> int:
        """The last entry read: the one that maps the page, or where the walk ended."""
        return self.steps[-1].entry

    def output(self, address: int) -> int:
        """Return where ``address`` leads (`Stop.PAGE` only)."""
        return self.page | address & (1 << self.shift) - 1


def walk(
    fmt: BoundFormat,
    memory: TableMemory,
    root: int,
    address: int,
    start: Start | None = None,
) -> Walk:
    """Walk from ``root`` (the register's value: address bits are taken from it) for ``address``.

    With ``start``, begin in the middle, as a processor does that has the upper entries cached.
    The address kinds are the stage's: ``address`` is its input, tables and page its output.

    SDM 3A, "Hierarchical Paging Structures"; SDM 3C, "EPT Translation Mechanism".
    """
    plan = fmt.plan
    if start is None:
        table, all_of, any_of = root & fmt.root_mask, ALL_ONES, 0
    else:
        first, table, all_of, any_of = start
        plan = plan[first:]
    size, present, bad_permissions = fmt.entry_size, fmt.present, fmt.bad_permissions
    load = memory.load
    steps: list[Step] = []
    append = steps.append
    for number, step in plan:
        shift, index_mask, leaf_mask, table_reserved, leaf_reserved, table_address, neutral = step
        entry_address = table + (address >> shift & index_mask) * size
        entry = load(entry_address, size)
        if entry is None:
            append(Step(number, entry_address, 0))
            return Walk(Stop.NO_MEMORY, steps, 0, shift, all_of, any_of)
        append(_step(Step, (number, entry_address, entry)))
        if not entry & present:
            # The permission bits of an entry that is not present count as clear.
            return Walk(Stop.NOT_PRESENT, steps, 0, shift, 0, any_of)
        # SDM 3C, "EPT Misconfigurations": these permissions are refused at every level.
        if bad_permissions >> (entry & 7) & 1:
            return Walk(Stop.MALFORMED, steps, 0, shift, all_of & entry, any_of | entry)
        if entry & leaf_mask:
            if entry & leaf_reserved or fmt.bad_types >> (entry >> 3 & 7) & 1:
                return Walk(Stop.MALFORMED, steps, 0, shift, all_of & entry, any_of | entry)
            page = leaf_page(fmt.levels[number], entry)
            return Walk(Stop.PAGE, steps, page, shift, all_of & (entry | neutral), any_of | entry)
        if entry & table_reserved:
            return Walk(Stop.MALFORMED, steps, 0, shift, all_of & entry, any_of | entry)
        all_of &= entry | neutral
        any_of |= entry
        table = entry & table_address
    raise AssertionError("the last level of a format always maps a page")


def leaf_page(level: BoundLevel, entry: int) -> int:
    """Return the base address of the page that a leaf maps."""
    page = entry & level.leaf_address
    if level.pse36:
        page |= (entry >> 13 & 0xFF) << 32
    return page
