"""What a processor may keep cached: three kinds of mappings, their tags, and what must go.

SDM 3C, "Caching Translation Information": linear mappings are tagged with VPID and PCID, combined
mappings with VPID, PCID and EP4TA, guest-physical mappings with EP4TA alone. Each kind has pages
and entries of the paging-structure caches. A `Space` holds the mappings with one tag.

Every method named after an operation drops exactly what the manual says that the operation must
drop. What may be dropped beyond that is the policy's choice (`turducken.mmu.policy`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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


class StructureKey(NamedTuple):
    """One paging-structure cache: the entries of ``format`` that reference tables of ``level``.

    An entry serves the addresses that agree with it above ``shift``.
    """

    format: str
    level: int
    shift: int


@dataclass(slots=True)
class Mapping:
    """A cached translation of one page.

    ``page`` is a host-physical page of ``1 << shift`` bytes. ``all_of`` and ``any_of`` are the
    guest's entries intersected and united, ``leaf`` the guest's last entry. With EPT, ``gpa`` is
    the guest-physical page, ``ept_all_of`` the EPT entries intersected, ``ept_leaf`` the last one.
    ``is_dirty`` tells that no flag needs to be set before a write. ``whole_shift`` is the size of
    the page in the guest's tables, of which a combined mapping may be a part.
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
    whole_shift: int = 0


class SpaceWatcher(Protocol):
    """Learns of what a `Space` no longer holds."""

    def cleared(self) -> None:
        """Everything was dropped."""

    def dropped(self, shift: int, page: int) -> None:
        """A page of ``1 << shift`` bytes was dropped, by its number."""


class Space:
    """The mappings with one tag: pages by size and number, structure entries by cache and number.

    A space that holds anything is listed in ``live`` under its ``tag`` (of the kind that the caller
    uses there). ``changes`` grows whenever `find` may find something else. ``watchers`` are told of
    every page that is dropped; each has a name of its maker's choice.
    """

    __slots__ = ("_live", "_parts", "_tag", "changes", "pages", "structures", "watchers")

    def __init__(self, tag: object, live: "dict[Any, Space]") -> None:
        self.pages: dict[int, dict[int, Mapping]] = {}
        self.structures: dict[StructureKey, dict[int, Start]] = {}
        self._parts: dict[int, dict[int, set[tuple[int, int]]]] = {}
        self._tag = tag
        self._live = live
        self.changes = 0
        self.watchers: dict[object, SpaceWatcher] = {}

    def find(self, address: int) -> Mapping | None:
        """Return the mapping of the page that holds ``address``, smallest page first."""
        for shift, pages in self.pages.items():
            mapping = pages.get(address >> shift)
            if mapping is not None:
                return mapping
        return None

    def add(self, address: int, mapping: Mapping) -> None:
        """Remember ``mapping`` for the page that holds ``address``."""
        shift, whole = mapping.shift, mapping.whole_shift
        pages = self.pages.get(shift)
        if pages is None:
            pages = self.pages[shift] = {}
            # The order of sizes must not depend on the order of events.
            self.pages = dict(sorted(self.pages.items()))
        pages[address >> shift] = mapping
        self.changes += 1
        if whole > shift:
            parts = self._parts.setdefault(whole, {}).setdefault(address >> whole, set())
            parts.add((shift, address >> shift))
        self._live[self._tag] = self

    def add_structure(self, key: StructureKey, address: int, start: Start) -> None:
        """Remember where the walk for ``address`` and its neighbours goes on below an entry."""
        self.structures.setdefault(key, {})[address >> key.shift] = start
        self._live[self._tag] = self

    def remove(self, shift: int, number: int, mapping: Mapping) -> bool:
        """Drop ``mapping`` if it is still what is cached for the page; return whether it was."""
        pages = self.pages.get(shift, {})
        if pages.get(number) is not mapping:
            return False
        del pages[number]
        self.changes += 1
        self._tell(shift, number)
        return True

    def _tell(self, shift: int, number: int) -> None:
        for watcher in self.watchers.values():
            watcher.dropped(shift, number)

    def forget(self, address: int, *, whole: bool = True) -> int:
        """Drop the mappings, of any size, of pages that hold ``address``; return how many.

        With ``whole``, the other parts of a large page of the guest's tables go too: "INVLPG and
        page faults ... invalidate all TLB entries corresponding to the translation specified by the
        paging structures" (SDM 3A, "Operations that Invalidate TLBs and Paging-Structure Caches").
        """
        dropped = 0
        self.changes += 1
        for shift, pages in self.pages.items():
            if pages.pop(address >> shift, None) is not None:
                dropped += 1
                self._tell(shift, address >> shift)
        if whole and self._parts:
            for shift, pieces in self._parts.items():
                for size, number in pieces.pop(address >> shift, ()):
                    if self.pages[size].pop(number, None) is not None:
                        dropped += 1
                        self._tell(size, number)
        return dropped

    def forget_structures(self, address: int | None = None) -> None:
        """Drop the paging-structure-cache entries used for ``address``; all without one."""
        if address is None:
            self.structures.clear()
            return
        for key, entries in self.structures.items():
            entries.pop(address >> key.shift, None)

    def clear(self) -> int:
        """Drop everything; return how many page mappings there were."""
        dropped = len(self)
        self.changes += 1
        self.pages.clear()
        self.structures.clear()
        self._parts.clear()
        self._live.pop(self._tag, None)
        for watcher in self.watchers.values():
            watcher.cleared()
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


_LinearTags = Callable[[LinearTag], bool]


class Tlb:
    """One processor's cached translations.

    ``on_drop`` is called whenever a page mapping was dropped, so that whoever stands in front of
    this model (the engine's own TLB) forgets it too.
    """

    def __init__(self, on_drop: Callable[[], None]) -> None:
        self._linear: dict[LinearTag, Space] = {}
        self._guest_physical: dict[int, Space] = {}
        self._live: dict[int, dict[LinearTag, Space]] = {}
        self._live_physical: dict[int, Space] = {}
        self._on_drop = on_drop
        self.statistics = TlbStatistics()

    def linear_space(self, tag: LinearTag) -> Space:
        """Return the space of linear or combined mappings with ``tag``."""
        space = self._linear.get(tag)
        if space is None:
            live = self._live.setdefault(tag.vpid, {})
            space = self._linear[tag] = Space(tag, live)
        return space

    def guest_physical_space(self, ep4ta: int) -> Space:
        """Return the space of guest-physical mappings of ``ep4ta``."""
        space = self._guest_physical.get(ep4ta)
        if space is None:
            space = self._guest_physical[ep4ta] = Space(ep4ta, self._live_physical)
        return space

    def spaces(self) -> Iterator[tuple[LinearTag | int, Space]]:
        """Iterate over every tag that has mappings (`LinearTag` or EP4TA) and its space."""
        for live in self._live.values():
            yield from live.items()
        yield from self._live_physical.items()

    def invlpg(self, vpid: int, pcid: int, address: int) -> None:
        """INVLPG: one address, for the current PCID and for global pages.

        Also "all entries in all paging-structure caches associated with the current PCID,
        regardless of the linear addresses to which they correspond".
        """
        dropped = 0
        for tag, space in self._of_vpid(vpid):
            if tag.pcid in (pcid, GLOBAL):
                dropped += space.forget(address)
                space.forget_structures()
        self._count("INVLPG", dropped)

    def invpcid_address(self, vpid: int, pcid: int, address: int) -> None:
        """INVPCID type 0: one address and PCID, except global translations."""
        self._count("INVPCID", self._drop_address(vpid, address, lambda t: t.pcid == pcid))

    def flush_pcid(self, vpid: int, pcid: int, cause: str = "MOV CR3") -> None:
        """MOV to CR3, INVPCID type 1: one PCID's linear and combined mappings, except globals."""
        self._count(cause, self._drop(vpid, lambda t: t.pcid == pcid))

    def flush_pcid_and_globals(self, vpid: int, pcid: int, cause: str) -> None:
        """MOV to CR4 that sets SMEP: "all TLB entries ... for the current PCID"."""
        self._count(cause, self._drop(vpid, lambda t: t.pcid in (pcid, GLOBAL)))

    def flush_non_global(self, vpid: int, cause: str = "INVPCID") -> None:
        """INVPCID type 3: all PCIDs' linear and combined mappings, except globals."""
        self._count(cause, self._drop(vpid, lambda t: t.pcid != GLOBAL))

    def flush_vpid(self, vpid: int, cause: str) -> None:
        """Drop all linear and combined mappings of one VPID, globals included.

        INVVPID type 1; INVPCID type 2; MOV to CR0 or CR4 that flushes; a VMX transition without
        VPID (for VPID 0000H).
        """
        self._count(cause, self._drop(vpid, lambda _: True))

    def invvpid_address(self, vpid: int, address: int) -> None:
        """INVVPID type 0: one VPID, one address, all PCIDs, globals included."""
        self._count("INVVPID", self._drop_address(vpid, address, lambda _: True))

    def invvpid_all(self) -> None:
        """INVVPID type 2: linear and combined mappings of every VPID but 0000H."""
        vpids = [vpid for vpid in self._live if vpid]
        self._count("INVVPID", sum(self._drop(vpid, lambda _: True) for vpid in vpids))

    def invvpid_retaining_globals(self, vpid: int) -> None:
        """INVVPID type 3: one VPID's linear and combined mappings, except globals."""
        self._count("INVVPID", self._drop(vpid, lambda t: t.pcid != GLOBAL))

    def invept_single(self, ep4ta: int) -> None:
        """INVEPT type 1: guest-physical and combined mappings of ``ep4ta``, every VPID and PCID."""
        space = self._live_physical.get(ep4ta)
        dropped = space.clear() if space is not None else 0
        dropped += sum(self._drop(vpid, lambda t: t.ep4ta == ep4ta) for vpid in self._live)
        self._count("INVEPT", dropped)

    def invept_all(self) -> None:
        """INVEPT type 2: guest-physical and combined mappings of every EP4TA."""
        dropped = sum(space.clear() for space in list(self._live_physical.values()))
        dropped += sum(self._drop(vpid, lambda t: t.ep4ta != NO_EPT) for vpid in self._live)
        self._count("INVEPT", dropped)

    def page_fault(self, tag: LinearTag, address: int) -> None:
        """SDM 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": a page fault.

        Drops what could be used to translate ``address`` with the current VPID and PCID, so that a
        fault caused by a stale entry is not repeated. Like INVLPG it does so for linear mappings
        and for combined mappings of all EP4TAs.
        """
        pcids = (tag.pcid, GLOBAL)
        self._settle(self._drop_address(tag.vpid, address, lambda t: t.pcid in pcids))

    def ept_violation(self, tag: LinearTag, gpa: int, address: int | None) -> None:
        """SDM 3C, "Operations that Invalidate Cached Mappings": an EPT violation.

        Drops guest-physical mappings for ``gpa`` in the current EP4TA. Where ``gpa`` is the
        translation of the linear ``address``, drops combined mappings for it in the current VPID,
        PCID and EP4TA too.
        """
        space = self.guest_physical_space(tag.ep4ta)
        dropped = space.forget(gpa)
        space.forget_structures(gpa)
        if address is not None:
            for pcid in (tag.pcid, GLOBAL):
                combined = self._linear.get(tag._replace(pcid=pcid))
                if combined is not None:
                    dropped += combined.forget(address, whole=False)
                    combined.forget_structures(address)
        self._settle(dropped)

    def forget_everything(self) -> None:
        """Drop all mappings, as a processor may at any time."""
        self._settle(sum(space.clear() for _, space in list(self.spaces())))

    def forget_spaces(self, goes: Callable[[], bool]) -> None:
        """Drop each tag's mappings for which ``goes`` says so, in the order the tags appeared."""
        self._settle(sum(space.clear() for _, space in list(self.spaces()) if goes()))

    def _of_vpid(self, vpid: int) -> list[tuple[LinearTag, Space]]:
        return list(self._live.get(vpid, {}).items())

    def _drop(self, vpid: int, goes: _LinearTags) -> int:
        return sum(space.clear() for tag, space in self._of_vpid(vpid) if goes(tag))

    def _drop_address(self, vpid: int, address: int, goes: _LinearTags) -> int:
        """Drop what "would be used to translate the linear address"."""
        dropped = 0
        for tag, space in self._of_vpid(vpid):
            if goes(tag):
                dropped += space.forget(address)
                space.forget_structures(address)
        return dropped

    def _count(self, cause: str, dropped: int) -> None:
        counts = self.statistics.invalidations
        counts[cause] = counts.get(cause, 0) + 1
        self._settle(dropped)

    def _settle(self, dropped: int) -> None:
        if dropped:
            self.statistics.dropped += dropped
            self._on_drop()
