"""What a processor may keep cached: three kinds of mappings, their tags, and what must go.

SDM 3C, "Caching Translation Information": linear mappings are tagged with VPID and PCID, combined
mappings with VPID, PCID and EP4TA, guest-physical mappings with EP4TA alone. Each kind has pages
and entries of the paging-structure caches. A `Space` holds the mappings with one tag.

Every method named after an operation drops exactly what the manual says that the operation must
drop. What may be dropped beyond that is the policy's choice (`turducken.mmu.policy`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from turducken.paging.walker import Start

GLOBAL = -1
"""Stands for the PCID in the tag of mappings from global pages, which match any PCID."""

NO_EPT = -1
"""Stands for the EP4TA in the tag of linear mappings."""


class LinearTag(NamedTuple):
    """The tag of linear (``ep4ta`` is `NO_EPT`) and combined mappings."""

    vpid: int
    pcid: int
    ep4ta: int


@dataclass(slots=True)
class Mapping:
    """A cached translation of one page.

    ``page`` is a host-physical page of ``1 << shift`` bytes. ``all_of`` and ``any_of`` are the
    guest's entries intersected and united, ``leaf`` the guest's last entry. With EPT, ``gpa`` is
    the guest-physical page, ``ept_all_of`` the EPT entries intersected and ``ept_leaf`` the last
    one. ``is_dirty`` tells that no flag needs to be set before a write.
    """

    page: int
    shift: int
    all_of: int
    any_of: int
    leaf: int
    is_dirty: bool
    gpa: int = 0
    ept_all_of: int = 7
    ept_leaf: int = 0


@dataclass(slots=True)
class Space:
    """The mappings with one tag: pages by size and number, structures by level and number."""

    pages: dict[int, dict[int, Mapping]] = field(default_factory=dict)
    structures: dict[tuple[int, int], Start] = field(default_factory=dict)

    def find(self, address: int) -> Mapping | None:
        """Return the mapping of the page that holds ``address``, smallest page first."""
        for shift, pages in self.pages.items():
            mapping = pages.get(address >> shift)
            if mapping is not None:
                return mapping
        return None

    def add(self, address: int, mapping: Mapping) -> None:
        """Remember ``mapping`` for the page that holds ``address``."""
        pages = self.pages.get(mapping.shift)
        if pages is None:
            pages = self.pages[mapping.shift] = {}
            # The order of sizes must not depend on the order of events.
            self.pages = dict(sorted(self.pages.items()))
        pages[address >> mapping.shift] = mapping

    def forget(self, address: int) -> int:
        """Drop the mappings, of any size, of pages that hold ``address``; return how many."""
        dropped = 0
        for shift, pages in self.pages.items():
            if pages.pop(address >> shift, None) is not None:
                dropped += 1
        return dropped

    def forget_structures(self) -> None:
        """Drop all entries of the paging-structure caches."""
        self.structures.clear()

    def clear(self) -> int:
        """Drop everything; return how many page mappings there were."""
        dropped = len(self)
        self.pages.clear()
        self.structures.clear()
        return dropped

    def __len__(self) -> int:
        return sum(len(pages) for pages in self.pages.values())


@dataclass(slots=True)
class TlbStatistics:
    """What happened to one processor's TLB so far."""

    hits: int = 0
    misses: int = 0
    invalidations: dict[str, int] = field(default_factory=dict)
    dropped: int = 0


class Tlb:
    """One processor's cached translations.

    ``on_drop`` is called whenever something was dropped, so that whoever stands in front of this
    model (the engine's own TLB) forgets it too.
    """

    def __init__(self, on_drop: Callable[[], None]) -> None:
        self._linear: dict[LinearTag, Space] = {}
        self._guest_physical: dict[int, Space] = {}
        self._on_drop = on_drop
        self.statistics = TlbStatistics()

    def linear_space(self, tag: LinearTag) -> Space:
        """Return the space of linear or combined mappings with ``tag``."""
        space = self._linear.get(tag)
        if space is None:
            space = self._linear[tag] = Space()
        return space

    def guest_physical_space(self, ep4ta: int) -> Space:
        """Return the space of guest-physical mappings of ``ep4ta``."""
        space = self._guest_physical.get(ep4ta)
        if space is None:
            space = self._guest_physical[ep4ta] = Space()
        return space

    def spaces(self) -> Iterator[tuple[LinearTag | int, Space]]:
        """Iterate over every tag (`LinearTag`, or an EP4TA alone) and its space."""
        yield from self._linear.items()
        yield from self._guest_physical.items()

    def invlpg(self, vpid: int, pcid: int, address: int) -> None:
        """INVLPG (and INVPCID by address without globals: `invpcid_address`).

        Drops linear and combined mappings of the current VPID for ``address``, for the current PCID
        and for global pages, all EP4TAs; and all paging-structure-cache entries of that PCID.
        """
        self._drop_address("INVLPG", address, lambda t: t.vpid == vpid and t.pcid in (pcid, GLOBAL))

    def invpcid_address(self, vpid: int, pcid: int, address: int) -> None:
        """INVPCID type 0: as `invlpg`, except global translations."""
        self._drop_address("INVPCID", address, lambda t: t.vpid == vpid and t.pcid == pcid)

    def flush_pcid(self, vpid: int, pcid: int, cause: str = "MOV CR3") -> None:
        """MOV to CR3, INVPCID type 1: one PCID's linear and combined mappings, except globals."""
        self._drop_linear(cause, lambda t: t.vpid == vpid and t.pcid == pcid)

    def flush_non_global(self, vpid: int, cause: str = "INVPCID") -> None:
        """INVPCID type 3: all PCIDs' linear and combined mappings, except globals."""
        self._drop_linear(cause, lambda t: t.vpid == vpid and t.pcid != GLOBAL)

    def flush_vpid(self, vpid: int, cause: str) -> None:
        """Drop all linear and combined mappings of one VPID, globals included.

        INVVPID type 1; INVPCID type 2; MOV to CR0 or CR4 that flushes; a VMX transition without
        VPID (for VPID 0000H).
        """
        self._drop_linear(cause, lambda t: t.vpid == vpid)

    def invvpid_address(self, vpid: int, address: int) -> None:
        """INVVPID type 0: one VPID, one address, all PCIDs, globals included."""
        self._drop_address("INVVPID", address, lambda t: t.vpid == vpid)

    def invvpid_all(self) -> None:
        """INVVPID type 2: linear and combined mappings of every VPID but 0000H."""
        self._drop_linear("INVVPID", lambda t: t.vpid != 0)

    def invvpid_retaining_globals(self, vpid: int) -> None:
        """INVVPID type 3: one VPID's linear and combined mappings, except globals."""
        self._drop_linear("INVVPID", lambda t: t.vpid == vpid and t.pcid != GLOBAL)

    def invept_single(self, ep4ta: int) -> None:
        """INVEPT type 1: guest-physical and combined mappings of ``ep4ta``, every VPID and PCID."""
        self._count("INVEPT", self.guest_physical_space(ep4ta).clear())
        self._drop_linear("INVEPT", lambda t: t.ep4ta == ep4ta, count=False)

    def invept_all(self) -> None:
        """INVEPT type 2: guest-physical and combined mappings of every EP4TA."""
        self._count("INVEPT", sum(space.clear() for space in self._guest_physical.values()))
        self._drop_linear("INVEPT", lambda t: t.ep4ta != NO_EPT, count=False)

    def page_fault(self, tag: LinearTag, address: int) -> None:
        """SDM 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": a page fault.

        Drops what would be used to translate ``address`` with the current tag, so that a fault
        caused by a stale entry is not repeated.
        """
        dropped = 0
        for pcid in (tag.pcid, GLOBAL):
            space = self._linear.get(tag._replace(pcid=pcid))
            if space is not None:
                dropped += space.forget(address)
                space.forget_structures()
        self._settle(dropped)

    def ept_violation(self, tag: LinearTag, gpa: int, address: int | None) -> None:
        """SDM 3C, "Operations that Invalidate Cached Mappings": an EPT violation.

        Drops guest-physical mappings for ``gpa`` in the current EP4TA, and, if a linear ``address``
        was being translated, combined mappings for it in the current VPID, PCID and EP4TA.
        """
        space = self.guest_physical_space(tag.ep4ta)
        self._settle(space.forget(gpa))
        space.forget_structures()
        if address is not None:
            self.page_fault(tag, address)

    def forget_everything(self) -> None:
        """Drop all mappings, as a processor may at any time."""
        dropped = sum(space.clear() for _, space in self.spaces())
        self._settle(dropped)

    def forget_spaces(self, goes: Callable[[], bool]) -> None:
        """Drop each tag's mappings for which ``goes`` says so, in the order the tags appeared."""
        self._settle(sum(space.clear() for _, space in self.spaces() if goes()))

    def _drop_linear(
        self, cause: str, goes: Callable[[LinearTag], bool], *, count: bool = True
    ) -> None:
        dropped = sum(space.clear() for tag, space in self._linear.items() if goes(tag))
        if count:
            self._count(cause, dropped)
        else:
            self._settle(dropped)

    def _drop_address(self, cause: str, address: int, goes: Callable[[LinearTag], bool]) -> None:
        dropped = 0
        for tag, space in self._linear.items():
            if goes(tag):
                dropped += space.forget(address)
                space.forget_structures()
        self._count(cause, dropped)

    def _count(self, cause: str, dropped: int) -> None:
        counts = self.statistics.invalidations
        counts[cause] = counts.get(cause, 0) + 1
        self._settle(dropped)

    def _settle(self, dropped: int) -> None:
        if dropped:
            self.statistics.dropped += dropped
        self._on_drop()
