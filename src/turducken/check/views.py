"""What a processor would hold that drops nothing early, with the entries that it came from.

A view is such a processor: the machine's own (`View` itself), and where our hypervisor runs an L1,
also the one that L1 believes it has (`turducken.check.virtual`), whose EPT is EPT12. Every use of a
translation is looked up here, so what the machine's TLB policy keeps has no influence.
"""

from turducken.address import PAGE_SHIFT
from turducken.check.changes import Source
from turducken.check.records import GUEST, Now, Past, Record, Regime, Traced
from turducken.check.structures import cached_start, remember_structures, sources_through
from turducken.check.watch import EntryWatch
from turducken.memory import TableMemory
from turducken.mmu.mmu import EptSetup
from turducken.mmu.rights import EPT_RIGHTS
from turducken.mmu.tlb import GLOBAL, LinearTag, Tlb
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import Start, Stop, Walk, walk

_G, _P = e.PTE.mask("G"), e.PTE.mask("P")
_PAT, _LARGE_PAT = e.PTE.mask("PAT"), e.PDE_2MIB.mask("PAT")


class View:
    """One processor's translations. ``memory`` is where its tables are, by its own addresses."""

    def __init__(self, watch: EntryWatch, memory: TableMemory) -> None:
        self.tlb = Tlb(_nothing)
        self.regime: Regime | None = None
        self.uses_ept: set[int] = set()
        """EP4TAs that were in force since INVEPT last acted on them."""
        self.uses_vpid: set[int] = set()
        """VPIDs that were in force since INVVPID last acted on them."""
        self._watch = watch
        self._memory = memory
        self._past: dict[tuple[object, ...], Past] = {}
        self._past_version = 0

    def place(self, address: int) -> int | None:
        """Return the host-physical address of one of this view's own."""
        return address

    # Looking up

    def find(self, address: int) -> Record | None:
        """Return what is cached for a linear address (guest-physical, while paging is off)."""
        regime = self.regime
        if regime is None:
            return None
        if regime.paging is None:
            return None if regime.ept is None else self._find_physical(regime.ept.ep4ta, address)
        tag = regime.tag
        tlb = self.tlb
        found = tlb.linear_space(tag).find(address)
        if found is None:
            found = tlb.linear_space(LinearTag(tag.vpid, GLOBAL, tag.ep4ta)).find(address)
        return found  # type: ignore[return-value]

    def _find_physical(self, ep4ta: int, gpa: int) -> Record | None:
        return self.tlb.guest_physical_space(ep4ta).find(gpa)  # type: ignore[return-value]

    def drop(self, address: int, record: Record) -> None:
        """Forget a translation that has been reported."""
        regime = self.regime
        assert regime is not None
        if regime.paging is None:
            assert regime.ept is not None
            spaces = [self.tlb.guest_physical_space(regime.ept.ep4ta)]
        else:
            tags = (regime.tag, regime.tag._replace(pcid=GLOBAL))
            spaces = [self.tlb.linear_space(one) for one in tags]
        for space in spaces:
            space.remove(record.shift, address >> record.shift, record)

    # Caching

    def record(self, address: int) -> Record | None:
        """Walk as the processor does, from what is cached, and cache the result."""
        regime = self.regime
        if regime is None:
            return None
        if regime.paging is None:
            return None if regime.ept is None else self._outer(regime, regime.ept, address)
        return self._again(regime, address) or self._walk(regime, address)

    def invalidated_ept(self) -> None:
        """What was made of guest-physical mappings cannot be had again without a walk."""
        self._past.clear()

    def _again(self, regime: Regime, address: int) -> Record | None:
        """Cache what a walk gave before, if no entry has been written since."""
        if self._past_version != self._watch.version:
            self._past_version = self._watch.version
            self._past.clear()
            return None
        past = self._past.get(self._key(regime, address))
        if past is None:
            return None
        space = self.tlb.linear_space(past.tag)
        space.add(address, past.record)
        above = self.tlb.linear_space(regime.tag)
        for key, start in past.structures:
            above.add_structure(key, address, start)
        return past.record

    @staticmethod
    def _key(regime: Regime, address: int) -> tuple[object, ...]:
        ept = regime.ept
        flags = ept is not None and ept.accessed_dirty
        return regime.tag, regime.root_for(address), flags, regime.has_globals, address >> 12

    def _walk(self, regime: Regime, address: int) -> Record | None:
        assert regime.paging is not None
        tables = _Tables(self, regime)
        space = self.tlb.linear_space(regime.tag)
        start = cached_start(space, regime.paging, address) or _begin(regime, address)
        found = walk(regime.paging, tables, regime.root, address, start)
        if found.stop is not Stop.PAGE:
            return None
        own = self._sources(found, start, GUEST, regime.paging, tables.places, flags=False)
        record = Record(
            found.page, found.shift, found.all_of, found.any_of, _leaf(found), True, found.page
        )
        sources = [*own, *tables.sources]
        if regime.ept is not None and not self._extend(regime, address, record, sources):
            return None
        record.sources = tuple(dict.fromkeys(sources))
        record.root = regime.root_for(address)
        is_global = found.leaf & _G and regime.has_globals
        tag = regime.tag._replace(pcid=GLOBAL) if is_global else regime.tag
        self.tlb.linear_space(tag).add(address, record)
        above = sources_through(own, found, tuple(tables.sources))
        structures = remember_structures(space, regime.paging, found, start, address, above)
        if record.is_current:
            self._past[self._key(regime, address)] = Past(record, tag, structures)
        return record

    def _extend(self, regime: Regime, address: int, record: Record, sources: list[Source]) -> bool:
        """Let EPT translate the page too."""
        assert regime.ept is not None
        shift = record.shift
        gpa = record.page + (address & (1 << shift) - 1)
        outer = self._outer(regime, regime.ept, gpa)
        if outer is None:
            return False
        record.whole_shift = shift
        record.shift = min(shift, outer.shift)
        mask = (1 << record.shift) - 1
        record.gpa = gpa & ~mask
        record.page = (outer.page | gpa & (1 << outer.shift) - 1) & ~mask
        record.ept_all_of, record.ept_leaf = outer.ept_all_of, outer.ept_leaf
        record.flags = outer.flags
        sources[:0] = outer.sources
        return True

    def _outer(self, regime: Regime, ept: EptSetup, gpa: int) -> Record | None:
        """Return the guest-physical mapping for ``gpa``, made now where there is none."""
        space = self.tlb.guest_physical_space(ept.ep4ta)
        known = space.find(gpa)
        if known is not None:
            return known  # type: ignore[return-value]
        if gpa >> ept.format.address_bits:
            return None
        start = cached_start(space, ept.format, gpa)
        found = walk(ept.format, self._memory, ept.ep4ta, gpa, start)
        if found.stop is not Stop.PAGE:
            return None
        own = self._sources(
            found, start, regime.ept_stage, ept.format, None, flags=ept.accessed_dirty
        )
        page, rights = gpa >> found.shift << found.shift, found.all_of & EPT_RIGHTS
        record = Record(found.page, found.shift, 7, 0, 0, True, page, rights, found.leaf)
        record.sources = tuple(own)
        record.flags = ept.accessed_dirty
        space.add(gpa, record)
        remember_structures(space, ept.format, found, start, gpa, sources_through(own, found, ()))
        return record

    def _sources(
        self,
        found: Walk,
        start: Start | None,
        stage: str,
        fmt: BoundFormat,
        places: list[int] | None,
        *,
        flags: bool,
    ) -> list[Source]:
        """Return the entries of a walk, those of the cached ``start`` first."""
        sources = list(start.sources) if isinstance(start, Traced) else []
        own = [one for one in sources if one.stage == stage]
        parent = own[-1] if own else None
        for number, step in enumerate(found.steps):
            place = self.place(step.address) if places is None else places[number]
            assert place is not None  # an entry was read there
            parent = self._watch.source(
                place, step.entry, stage, fmt, step.level, parent=parent, flags=flags
            )
            sources.append(parent)
        return sources

    # The tables as they are

    def now(self, address: int) -> Now | None:
        """Translate by what is in memory at this moment; None where nothing is mapped."""
        regime = self.regime
        assert regime is not None
        gpa, all_of, any_of, leaf = address, e.PTE.mask("R/W", "U/S"), 0, 0
        if regime.paging is not None:
            if regime.pdptes is not None and not regime.root_for(address) & _P:
                return None
            tables = _FreshTables(self, regime)
            start = _begin(regime, address)
            found = walk(regime.paging, tables, regime.root, address, start)
            if found.stop is not Stop.PAGE:
                return None
            gpa, all_of, any_of, leaf = (
                found.output(address),
                found.all_of,
                found.any_of,
                _leaf(found),
            )
        gpa &= -4096
        if regime.ept is None:
            return Now(gpa, gpa, all_of, any_of, leaf, EPT_RIGHTS, 0)
        outer = self.outer_now(regime.ept, gpa)
        if outer is None:
            return None
        page = outer.output(gpa) & -4096
        return Now(page, gpa, all_of, any_of, leaf, outer.all_of & EPT_RIGHTS, outer.leaf)

    def outer_now(self, ept: EptSetup, gpa: int) -> Walk | None:
        """Walk the EPT as it is."""
        if gpa >> ept.format.address_bits:
            return None
        found = walk(ept.format, self._memory, ept.ep4ta, gpa)
        return found if found.stop is Stop.PAGE else None


class _Tables:
    """The guest's tables, through the guest-physical mappings that are cached."""

    def __init__(self, view: View, regime: Regime) -> None:
        self._view = view
        self._regime = regime
        self.sources: list[Source] = []
        self.places: list[int] = []

    def load(self, address: int, size: int) -> int | None:
        ept = self._regime.ept
        view = self._view
        if ept is not None:
            outer = view._outer(self._regime, ept, address)
            if outer is None:
                return None
            self.sources += outer.sources
            address = outer.page | address & (1 << outer.shift) - 1
        place = view.place(address)
        if place is None:
            return None
        self.places.append(place)
        return view._memory.load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        raise AssertionError("the walker only reads")


class _FreshTables:
    """The guest's tables, through the EPT as it is."""

    def __init__(self, view: View, regime: Regime) -> None:
        self._view = view
        self._regime = regime

    def load(self, address: int, size: int) -> int | None:
        ept = self._regime.ept
        if ept is not None:
            outer = self._view.outer_now(ept, address)
            if outer is None:
                return None
            address = outer.output(address)
        return self._view._memory.load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        raise AssertionError("the walker only reads")


def _nothing() -> None:
    """Nobody stands in front of a view."""


def _leaf(found: Walk) -> int:
    """Return the leaf with its PAT bit where a 4-KiB page has it, so that sizes compare."""
    leaf = found.leaf
    if found.shift == PAGE_SHIFT:
        return leaf
    return leaf & ~_PAT | (_PAT if leaf & _LARGE_PAT else 0)


def _begin(regime: Regime, address: int) -> Start | None:
    """SDM 3A, "PAE Paging": the PDPTEs are registers."""
    if regime.pdptes is None or regime.paging is None:
        return None
    pdpte = regime.pdptes[address >> 30 & 3]
    return Start(1, pdpte & regime.paging.levels[0].table_address)
