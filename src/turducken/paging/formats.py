"""The paging formats as data.

Every format is a list of levels; a level says which address bits index its tables, which entry
layout a table reference and a page have, and which values of an entry the processor refuses.
Binding a format to a processor's features (`Format.bind`) turns that into the integers that the
walker uses.
"""

from dataclasses import dataclass
from functools import lru_cache

from turducken.bits import Layout
from turducken.paging import entries as e


@dataclass(frozen=True, slots=True)
class Features:
    """What of the processor's features and of the guest's set-up decides how entries are read."""

    maxphyaddr: int = 46
    nx: bool = True
    pse: bool = True
    pages_1gib: bool = True
    pages_2mib: bool = True
    execute_only: bool = True
    mode_based_execute: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a format: ``table`` and ``leaf`` are None where the entry has no such form."""

    name: str
    shift: int
    index_bits: int
    table: Layout | None
    leaf: Layout | None
    has_permissions: bool = True


@dataclass(frozen=True, slots=True)
class BoundLevel:
    """A level as the walker uses it: integers only, for one processor's features."""

    name: str
    shift: int
    index_mask: int
    leaf_mask: int
    """Bits that, set, make the entry a page; -1 where it always is, 0 where it never is."""
    table_reserved: int
    leaf_reserved: int
    table_address: int
    leaf_address: int
    pse36: bool
    neutral: int
    """Or-ed to an entry whose level has no permission bits, before permissions are intersected."""
    layout_table: Layout | None
    layout_leaf: Layout | None

    @property
    def step(self) -> "LevelStep":
        """The level's integers as one tuple, for the walker's loop."""
        return (
            self.shift,
            self.index_mask,
            self.leaf_mask,
            self.table_reserved,
            self.leaf_reserved,
            self.table_address,
            self.neutral,
        )


LevelStep = tuple[int, int, int, int, int, int, int]
"""``shift, index_mask, leaf_mask, table_reserved, leaf_reserved, table_address, neutral``."""


@dataclass(frozen=True, slots=True)
class BoundFormat:
    """A format for one processor's features: see `Format` and `BoundLevel`."""

    name: str
    entry_size: int
    levels: tuple[BoundLevel, ...]
    present: int
    accessed: int
    dirty: int
    bad_permissions: int
    """Bit n set: entries whose bits 2:0 are n are malformed."""
    bad_types: int
    """Bit n set: leaves whose bits 5:3 are n are malformed."""
    root_mask: int
    root_index_bits: int
    is_ept: bool
    features: Features
    plan: tuple[tuple[int, LevelStep], ...]
    """The levels as the walker's loop takes them: ``(number, step)``, top down."""

    @property
    def address_bits(self) -> int:
        """Number of input-address bits that the format translates."""
        return self.levels[0].shift + self.root_index_bits

    def entry_layout(self, number: int, entry: int) -> Layout:
        """Return the layout by which ``entry``, read at level ``number``, is to be decoded."""
        level = self.levels[number]
        layout = level.layout_leaf if entry & level.leaf_mask else level.layout_table
        return layout or level.layout_leaf or level.layout_table  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Format:
    """A paging format: levels top down, entry size in bytes, and the flags all levels share."""

    name: str
    entry_size: int
    levels: tuple[Level, ...]
    accessed: int
    dirty: int
    root_mask: int
    is_ept: bool = False

    @property
    def address_bits(self) -> int:
        """Number of input-address bits that the format translates."""
        return self.levels[0].shift + self.levels[0].index_bits

    def bind(self, features: Features) -> BoundFormat:
        """Return the format as a processor with these features reads it."""
        return _bind(self, features)


def _beyond(maxphyaddr: int) -> int:
    """Return bits 51:MAXPHYADDR, which every address field of a 64-bit entry reserves."""
    return ((1 << 52) - 1) & ~((1 << maxphyaddr) - 1)


def _bind_level(fmt: Format, level: Level, features: Features) -> BoundLevel:
    offered = {30: features.pages_1gib, 21: features.pages_2mib or not fmt.is_ept, 22: features.pse}
    leaf = level.leaf if level.table is None or offered.get(level.shift, True) else None
    wide = fmt.entry_size == 8
    extra = _beyond(features.maxphyaddr) if wide else 0
    if wide and not fmt.is_ept and not features.nx and level.has_permissions:
        extra |= e.PTE.mask("XD")
    table_reserved = leaf_reserved = extra
    if level.table is not None:
        table_reserved |= level.table.reserved_mask
        if wide and leaf is None and level.has_permissions:
            # An entry that cannot map a page reserves bit 7 (EPT: "must be 0").
            table_reserved |= 1 << 7
    if leaf is not None:
        leaf_reserved |= leaf.reserved_mask
        if level.shift == 22:
            # PSE-36: bits above MAXPHYADDR of the 40-bit address are reserved.
            leaf_reserved |= _beyond(features.maxphyaddr) >> 19 & leaf.mask("ADDRESS_HIGH")
    return BoundLevel(
        name=level.name,
        shift=level.shift,
        index_mask=(1 << level.index_bits) - 1,
        leaf_mask=0 if leaf is None else (-1 if level.table is None else 1 << 7),
        table_reserved=table_reserved,
        leaf_reserved=leaf_reserved,
        table_address=level.table.mask("ADDRESS") if level.table else 0,
        leaf_address=leaf.mask("ADDRESS") if leaf else 0,
        pse36=level.shift == 22,
        neutral=0 if level.has_permissions else e.PTE.mask("R/W", "U/S"),
        layout_table=level.table,
        layout_leaf=leaf,
    )


@lru_cache(maxsize=64)
def _bind(fmt: Format, features: Features) -> BoundFormat:
    # SDM 3C, "EPT Misconfigurations": write without read; execute alone where not supported;
    # memory types 2, 3 and 7 in an entry that maps a page.
    bad_permissions = (1 << 2 | 1 << 6) | (0 if features.execute_only else 1 << 4)
    if features.mode_based_execute and not features.execute_only:
        # Present through XU alone: executable but not readable.
        bad_permissions |= 1 << 0
    present = 1
    if fmt.is_ept:
        present = e.EPT_PERMISSIONS | (1 << 10 if features.mode_based_execute else 0)
    levels = tuple(_bind_level(fmt, level, features) for level in fmt.levels)
    return BoundFormat(
        name=fmt.name,
        entry_size=fmt.entry_size,
        levels=levels,
        present=present,
        accessed=fmt.accessed,
        dirty=fmt.dirty,
        bad_permissions=bad_permissions if fmt.is_ept else 0,
        bad_types=(1 << 2 | 1 << 3 | 1 << 7) if fmt.is_ept else 0,
        root_mask=fmt.root_mask,
        root_index_bits=fmt.levels[0].index_bits,
        is_ept=fmt.is_ept,
        features=features,
        plan=tuple((number, level.step) for number, level in enumerate(levels)),
    )


_A, _D = e.PTE.mask("A"), e.PTE.mask("D")
_ROOT = e.PML4E.mask("ADDRESS")
_LOWER_THREE = (
    Level("PDPTE", 30, 9, e.PDPTE, e.PDPTE_1GIB),
    Level("PDE", 21, 9, e.PDE, e.PDE_2MIB),
    Level("PTE", 12, 9, None, e.PTE),
)

PAGING_32 = Format(
    "32-bit",
    4,
    (Level("PDE", 22, 10, e.PDE32, e.PDE32_4MIB), Level("PTE", 12, 10, None, e.PTE32)),
    accessed=_A,
    dirty=_D,
    root_mask=0xFFFF_F000,
)
PAGING_PAE = Format(
    "PAE",
    8,
    (
        Level("PDPTE", 30, 2, e.PAE_PDPTE, None, has_permissions=False),
        Level("PDE", 21, 9, e.PAE_PDE, e.PAE_PDE_2MIB),
        Level("PTE", 12, 9, None, e.PAE_PTE),
    ),
    accessed=_A,
    dirty=_D,
    root_mask=0xFFFF_FFE0,
)
PAGING_4LEVEL = Format(
    "4-level",
    8,
    (Level("PML4E", 39, 9, e.PML4E, None), *_LOWER_THREE),
    accessed=_A,
    dirty=_D,
    root_mask=_ROOT,
)
PAGING_5LEVEL = Format(
    "5-level",
    8,
    (Level("PML5E", 48, 9, e.PML5E, None), *PAGING_4LEVEL.levels),
    accessed=_A,
    dirty=_D,
    root_mask=_ROOT,
)
EPT = Format(
    "EPT",
    8,
    (
        Level("EPT PML4E", 39, 9, e.EPT_PML4E, None),
        Level("EPT PDPTE", 30, 9, e.EPT_PDPTE, e.EPT_PDPTE_1GIB),
        Level("EPT PDE", 21, 9, e.EPT_PDE, e.EPT_PDE_2MIB),
        Level("EPT PTE", 12, 9, None, e.EPT_PTE),
    ),
    accessed=e.EPT_A,
    dirty=e.EPT_D,
    root_mask=e.EP4TA_MASK,
    is_ept=True,
)

EPT_5LEVEL = Format(
    "EPT 5-level",
    8,
    (Level("EPT PML5E", 48, 9, e.EPT_PML5E, None), *EPT.levels),
    accessed=e.EPT_A,
    dirty=e.EPT_D,
    root_mask=e.EP4TA_MASK,
    is_ept=True,
)

_FIVE_LEVELS = 4
"""EPTP's page-walk length, minus 1."""


def ept_format(eptp: int) -> Format:
    """Return the format of the EPT that an EPTP names."""
    return EPT_5LEVEL if e.EPTP["WALK"].get(eptp) == _FIVE_LEVELS else EPT


FORMATS = {
    one.name: one for one in (PAGING_32, PAGING_PAE, PAGING_4LEVEL, PAGING_5LEVEL, EPT, EPT_5LEVEL)
}
