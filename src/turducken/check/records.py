"""What a view remembers: translations, and the entries that they were made of."""

from dataclasses import dataclass
from typing import NamedTuple

from turducken.check.changes import Source
from turducken.mmu.mmu import EptSetup
from turducken.mmu.tlb import LinearTag, Mapping, StructureKey
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import Start

GUEST = "guest"
"""The stage of a guest's own page tables (and of a hypervisor's, for itself)."""


@dataclass(slots=True)
class Record(Mapping):
    """A cached translation, and the entries that it was made of.

    ``root`` is what the walk began with; ``flags``: EPT's accessed and dirty flags were in use;
    ``epoch`` is when it was last judged (`EntryWatch.epoch`).
    """

    sources: tuple[Source, ...] = ()
    root: int = 0
    flags: bool = False
    epoch: int = -1
    composed_epoch: int = -1
    composed_kinds: int = 0
    below: tuple[Source, ...] = ()
    """Entries of EPT01 behind a translation by EPT12."""

    @property
    def is_current(self) -> bool:
        """Tell whether all its entries are as they were."""
        return all(one.change is None for one in self.sources)


class Traced(Start):
    """A paging-structure-cache entry with the entries that it came from."""

    sources: tuple[Source, ...]


class Regime(NamedTuple):
    """What translates at present: the registers as the walk needs them.

    ``pdptes`` are PAE's; ``ept_stage`` names the EPT in force.
    """

    paging: BoundFormat | None
    root: int
    pdptes: tuple[int, ...] | None
    tag: LinearTag
    ept: EptSetup | None
    ept_stage: str
    has_globals: bool

    def root_for(self, address: int) -> int:
        """Return what decides where a walk for ``address`` begins."""
        if self.pdptes is not None:
            return self.pdptes[address >> 30 & 3]
        return self.root & self.paging.root_mask if self.paging is not None else 0


class Now(NamedTuple):
    """What the tables say at this moment: ``page`` and ``gpa`` are those of 4 KiB."""

    page: int
    gpa: int
    all_of: int
    any_of: int
    leaf: int
    ept_all_of: int
    ept_leaf: int


class Past(NamedTuple):
    """What a walk gave: a record, the tag that it is cached under, and the entries above."""

    record: Record
    tag: LinearTag
    structures: list[tuple[StructureKey, Start]]
