"""One processor's memory-management unit: from a linear address to host RAM, or to a fault.

Without EPT, one walk; with EPT, every address that the guest's tables name is itself translated
(SDM 3C, "EPT Overview"). What was found is cached in the TLB model, which is asked first.
"""

from typing import NamedTuple

from turducken.memory import PhysicalMemory
from turducken.mmu.context import Context
from turducken.mmu.faults import (
    ApicAccess,
    EptMisconfiguration,
    EptViolation,
    Fault,
    PageFault,
    PmlFull,
)
from turducken.mmu.policy import TlbPolicy
from turducken.mmu.rewalk import Origin, Rewalks
from turducken.mmu.rights import (
    EPT_NEEDED,
    EPT_RIGHTS,
    EPT_USER_FETCH,
    FETCH,
    READ,
    WRITE,
    AccessMode,
    is_allowed,
    not_present_error,
    rights_error,
)
from turducken.mmu.tlb import NO_EPT, LinearTag, Mapping, Space, StructureKey, Tlb
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat, ept_format
from turducken.paging.walker import ALL_ONES, Start, Stop, Walk, walk

_D, _G = e.PTE.mask("D"), e.PTE.mask("G")
_RW, _US, _XD = e.PTE.mask("R/W"), e.PTE.mask("U/S"), e.PTE.mask("XD")
_EPT_A, _EPT_D = e.EPT_A, e.EPT_D
_SUPPRESS_VE = e.EPT_PTE.mask("SVE")
_BOTH = EPT_NEEDED[READ] | EPT_NEEDED[WRITE]

QUALIFICATION_LINEAR_VALID = 1 << 7
QUALIFICATION_FINAL_ACCESS = 1 << 8
_QUALIFICATION_USER_FETCH = 1 << 6
_ADVANCED_SHIFT = 9
_PML_ENTRIES = 512

USER_PAGE, WRITABLE_PAGE, XD_PAGE = 1, 2, 4
"""What paging says of a linear address, as the advanced information for EPT violations has it."""

_UNPAGED = USER_PAGE | WRITABLE_PAGE
"""With CR0.PG = 0: "every linear address is a user-mode linear address", read/write, executable."""


class EptSetup(NamedTuple):
    """The second stage in force: the bound EPT format, and the EPTP taken apart.

    ``advanced_information``: EPT violations tell what paging says of the linear address.
    """

    format: BoundFormat
    ep4ta: int
    accessed_dirty: bool
    advanced_information: bool = False

    def with_eptp(self, eptp: int) -> "EptSetup":
        """Return the same set-up with another EPTP."""
        bound = ept_format(eptp).bind(self.format.features)
        return self._replace(
            format=bound, ep4ta=eptp & e.EP4TA_MASK, accessed_dirty=bool(eptp & e.EPTP_AD)
        )


class Access(NamedTuple):
    """One access to translate.

    ``user``: at CPL 3 and not implicit; ``ac``: RFLAGS.AC, where it counts.
    """

    address: int
    kind: int
    user: bool = False
    ac: bool = False


class PhysicalAccess(NamedTuple):
    """One access to guest-physical ``gpa``, on behalf of ``linear`` (None: a load of PDPTEs).

    ``is_final`` is false for an access to a guest paging structure; ``page`` tells what paging says
    of the linear address (`USER_PAGE`, `WRITABLE_PAGE`, `XD_PAGE`) where it is true.
    """

    gpa: int
    kind: int
    linear: int | None
    is_final: bool
    page: int = _UNPAGED


class PageModificationLog:
    """PML: SDM 3C, "Page-Modification Logging". ``index`` counts down from 511."""

    def __init__(self, address: int, index: int) -> None:
        self.address = address
        self.index = index


class Mmu:
    """Translates for one processor; `configure` follows the registers.

    ``paging`` is the bound format of linear-address translation, None while CR0.PG = 0. Tables are
    read from and flags written to host-physical ``memory``.
    """

    def __init__(self, memory: PhysicalMemory, tlb: Tlb, policy: TlbPolicy) -> None:
        self.memory = memory
        self.tlb = tlb
        self.policy = policy
        self.root = 0
        self.pdptes: tuple[int, ...] = (0, 0, 0, 0)
        self.pml: PageModificationLog | None = None
        self.apic_access_page: int | None = None
        self._has_globals = False
        self._rewalks_by_tag: dict[LinearTag, Rewalks] | None = (
            None if policy.acts_when_added else {}
        )
        self.use(self.context(paging=None, mode=AccessMode(), vpid=0, pcid=0, ept=None), 0)

    def context(
        self,
        *,
        paging: BoundFormat | None,
        mode: AccessMode,
        vpid: int,
        pcid: int,
        ept: EptSetup | None,
    ) -> Context:
        """Prepare what translates under these registers and controls, for `use`."""
        tag = LinearTag(vpid, pcid, ept.ep4ta if ept else NO_EPT)
        rewalks = None
        if self._rewalks_by_tag is not None:
            rewalks = self._rewalks_by_tag.get(tag)
            if rewalks is None:
                rewalks = self._rewalks_by_tag[tag] = Rewalks(self.memory.words)
        return Context(self.tlb, paging, mode, tag, ept, rewalks)

    def use(self, context: Context, root: int) -> None:
        """Translate by ``context``, with CR3 = ``root``, from now on."""
        self.root = root
        self.paging, self.mode, self.ept = context.paging, context.mode, context.ept
        self.is_pae, self.tag = context.is_pae, context.tag
        self.address_mask = context.address_mask
        self.has_32bit_addresses = context.has_32bit_addresses
        self._space, self._global_space = context.space, context.global_space
        self._rewalks = context.rewalks
        if context.physical_space is not None:
            self._physical_space = context.physical_space

    def configure(
        self,
        *,
        paging: BoundFormat | None,
        root: int,
        mode: AccessMode,
        vpid: int,
        pcid: int,
        ept: EptSetup | None,
    ) -> None:
        """Follow the registers: what translates from now on, and under which tags."""
        self.use(self.context(paging=paging, mode=mode, vpid=vpid, pcid=pcid, ept=ept), root)

    @property
    def answers_for_whole_pages(self) -> bool:
        """Tell whether what `translate` finds for one access holds for others to the same page."""
        return self.apic_access_page is None

    keeps_answers = True
    """What `translate` has found may be used again, unasked, for as long as the TLB holds it."""

    def is_global(self, address: int, mapping: Mapping) -> bool:
        """Tell whether what `translate` found for ``address`` is there for every PCID."""
        if not mapping.leaf & _G or self.paging is None:
            return False
        return self._space.find(address & self.address_mask) is not mapping

    def enable_globals(self, *, enabled: bool) -> None:
        """Follow CR4.PGE."""
        self._has_globals = enabled

    # A linear address

    def translate(self, access: Access) -> Mapping | Fault:
        """Translate one access; return the mapping to use or the fault to take.

        On success all accessed and dirty flags that the access needs are set; on a fault what the
        manual makes the fault invalidate is gone from the TLB.
        """
        if self.paging is None:
            return self._translate_unpaged(access)
        address = access.address & self.address_mask
        mapping = self._space.find(address) or self._global_space.find(address)
        if mapping is not None:
            _, kind, user, ac = access
            all_of, any_of, leaf = mapping.all_of, mapping.any_of, mapping.leaf
            fault: Fault | None = None
            if not is_allowed(self.mode, all_of, any_of, leaf, kind, user=user, ac=ac):
                fault = self._rights_fault(all_of, leaf, access)
            elif kind != WRITE or mapping.is_dirty:
                fault = self._refuse(mapping, access)
            else:
                mapping = None  # a dirty flag has to be set in memory
            if mapping is not None:
                self.tlb.statistics.hits += 1
                if fault is None:
                    return mapping
                self._invalidate_for(fault)
                return fault
        self.tlb.statistics.misses += 1
        found = self._walk(access, address)
        if not isinstance(found, Mapping):
            self._invalidate_for(found)
        return found

    def _invalidate_for(self, fault: Fault) -> None:
        if isinstance(fault, PageFault):
            self.tlb.page_fault(self.tag, fault.address & self.address_mask)
        elif isinstance(fault, EptViolation):
            # Combined mappings go where the address "was the translation of a linear address".
            is_final = fault.qualification & QUALIFICATION_FINAL_ACCESS
            linear = fault.address if is_final and self.paging is not None else None
            if linear is not None:
                linear &= self.address_mask
            self.tlb.ept_violation(self.tag, fault.gpa, linear)

    def _translate_unpaged(self, access: Access) -> Mapping | Fault:
        """CR0.PG = 0: linear is guest-physical; "no combined mappings are created or used"."""
        address = access.address & 0xFFFF_FFFF
        if self.ept is None:
            page = address & ~0xFFF
            return Mapping(page, 12, 7, 0, 0, is_dirty=True, gpa=page)
        found = self._outer(PhysicalAccess(address, access.kind, access.address, is_final=True))
        if isinstance(found, Mapping):
            return self._check_apic_page(found, access) or found
        self._invalidate_for(found)
        return found

    def _check_apic_page(self, mapping: Mapping, access: Access) -> ApicAccess | None:
        if self.apic_access_page is None:
            return None
        offset = access.address & ((1 << mapping.shift) - 1)
        if (mapping.page + offset) & ~0xFFF != self.apic_access_page:
            return None
        return ApicAccess(access.address, offset & 0xFFF, access.kind)

    def _refuse(self, mapping: Mapping, access: Access) -> Fault | None:
        """Return the fault of using ``mapping`` for what ordinary paging allows, or None."""
        if self.ept is not None:
            page = _page_kind(mapping.all_of, mapping.any_of)
            if not mapping.ept_all_of & self._final_need(access.kind, page):
                gpa = mapping.gpa + (access.address & ((1 << mapping.shift) - 1))
                final = PhysicalAccess(gpa, access.kind, access.address, True, page)
                return self._violation(final, mapping.ept_all_of, mapping.ept_leaf)
        if self.apic_access_page is not None:
            return self._check_apic_page(mapping, access)
        return None

    def _rights_fault(self, all_of: int, leaf: int, access: Access) -> PageFault:
        code = rights_error(self.mode, all_of, leaf, access.kind, user=access.user)
        return PageFault(access.address, code)

    def _walk(self, access: Access, address: int) -> Mapping | Fault:
        fmt = self.paging
        assert fmt is not None
        tables = self.memory if self.ept is None else _GuestTables(self, access.address)
        start = _cached_start(self._space, fmt, address)
        if start is None and self.is_pae:
            # SDM 3A, "PAE Paging": the PDPTEs are registers, loaded by MOV to CR.
            pdpte = self.pdptes[address >> 30 & 3]
            if not pdpte & 1:
                return self._no_translation(access, reserved=False)
            start = Start(1, pdpte & fmt.levels[0].table_address)
        origin = self._origin(fmt, start)
        known = self._walk_again(access, address, origin)
        if known is not None:
            return known
        found = walk(fmt, tables, self.root, address, start)
        if found.stop is Stop.NO_MEMORY:
            assert isinstance(tables, _GuestTables)
            assert tables.fault is not None
            return tables.fault
        if found.stop is not Stop.PAGE:
            return self._no_translation(access, reserved=found.stop is Stop.MALFORMED)
        _, kind, user, ac = access
        all_of, any_of, leaf = found.all_of, found.any_of, found.leaf
        if not is_allowed(self.mode, all_of, any_of, leaf, kind, user=user, ac=ac):
            return self._rights_fault(all_of, leaf, access)
        fault = self._set_flags(fmt, found, access)
        if fault is not None:
            return fault
        mapping = self._map_page(found, access, address)
        if isinstance(mapping, Mapping):
            structures = self._remember(fmt, found, start, address, mapping)
            if found.leaf == leaf:  # a walk that sets flags is not made a second time
                self._remember_walk(found, origin, address, mapping, structures)
            return self._check_apic_page(mapping, access) or mapping
        return mapping

    def _origin(self, fmt: BoundFormat, start: Start | None) -> Origin:
        if self.ept is None:
            return Origin(fmt, self.root, start)
        return Origin(fmt, self.root, start, self.ept, self._physical_space.changes)

    def _walk_again(self, access: Access, address: int, origin: Origin) -> Mapping | None:
        """Do what `_walk` does, if it has done it for this page and would do the same now."""
        if self._rewalks is None:
            return None
        known = self._rewalks.find(address >> 12, origin)
        if known is None:
            return None
        mapping = known.mapping
        _, kind, user, ac = access
        all_of, any_of, leaf = mapping.all_of, mapping.any_of, mapping.leaf
        if (
            not is_allowed(self.mode, all_of, any_of, leaf, kind, user=user, ac=ac)
            or (kind == WRITE and not mapping.is_dirty)
            or self._refuse(mapping, access) is not None
        ):
            return None
        space = self._global_space if leaf & _G and self._has_globals else self._space
        space.add(address, mapping)
        for key, below in known.structures:
            self._space.add_structure(key, address, below)
        return mapping

    def _remember_walk(
        self,
        found: Walk,
        origin: Origin,
        address: int,
        mapping: Mapping,
        structures: tuple[tuple[StructureKey, Start], ...],
    ) -> None:
        page, outer_changes = address >> 12, 0 if self.ept is None else self._physical_space.changes
        if self._rewalks is None or not self._rewalks.is_repeated(page, outer_changes):
            return
        places = []
        for step in found.steps:
            place = step.address
            if self.ept is not None:
                outer = self._physical_space.find(place)
                if outer is None:
                    return
                place = outer.page | place & ((1 << outer.shift) - 1)
            offset = self.memory.offset_of(place)
            if offset is None or self.memory.load(place, origin.format.entry_size) != step.entry:
                return
            places.append(offset >> 3)
        origin = origin._replace(outer=outer_changes)
        self._rewalks.remember(page, origin, places, mapping, structures)

    def _no_translation(self, access: Access, *, reserved: bool) -> PageFault:
        code = not_present_error(self.mode, access.kind, user=access.user, reserved=reserved)
        return PageFault(access.address, code)

    def _set_flags(self, fmt: BoundFormat, found: Walk, access: Access) -> Fault | None:
        """Set accessed flags on the path, and the leaf's dirty flag for a write.

        SDM 3A, "Accessed and Dirty Flags": entries that are used get them. A walk that ends in a
        fault has used none.
        """
        last = len(found.steps) - 1
        for number, step in enumerate(found.steps):
            wanted = 0 if fmt.levels[step.level].neutral else fmt.accessed
            if number == last and access.kind == WRITE:
                wanted |= fmt.dirty
            if step.entry & wanted == wanted:
                continue
            fault = self._store_entry(step.address, fmt.entry_size, step.entry | wanted, access)
            if fault is not None:
                return fault
            if number == last:
                found.steps[last] = step._replace(entry=step.entry | wanted)
        return None

    def _store_entry(self, address: int, size: int, entry: int, access: Access) -> Fault | None:
        if self.ept is not None:
            target = self._outer(PhysicalAccess(address, WRITE, access.address, is_final=False))
            if not isinstance(target, Mapping):
                return target
            address = target.page | address & ((1 << target.shift) - 1)
        self.memory.store(address, size, entry)
        return None

    def _map_page(self, found: Walk, access: Access, address: int) -> Mapping | Fault:
        """Translate the page that the guest's tables name, and make the mapping."""
        shift, leaf = found.shift, found.leaf
        all_of, any_of = found.all_of, found.any_of
        mapping = Mapping(found.page, shift, all_of, any_of, leaf, bool(leaf & _D), found.page)
        if self.ept is None:
            return mapping
        gpa = found.page + (address & ((1 << shift) - 1))
        page = _page_kind(all_of, any_of)
        outer = self._outer(PhysicalAccess(gpa, access.kind, access.address, True, page))
        if not isinstance(outer, Mapping):
            return outer
        mapping.whole_shift = shift
        mapping.shift = shift = min(shift, outer.shift)
        mask = (1 << shift) - 1
        mapping.gpa = gpa & ~mask
        mapping.page = (outer.page | gpa & ((1 << outer.shift) - 1)) & ~mask
        mapping.ept_all_of, mapping.ept_leaf = outer.ept_all_of, outer.ept_leaf
        mapping.is_dirty = mapping.is_dirty and outer.is_dirty
        return mapping

    def _remember(
        self, fmt: BoundFormat, found: Walk, start: Start | None, address: int, mapping: Mapping
    ) -> tuple[tuple[StructureKey, Start], ...]:
        """Cache the mapping, and the entries above the leaf; return those."""
        space = self._global_space if mapping.leaf & _G and self._has_globals else self._space
        space.add(address, mapping)
        structures = _remember_structures(self._space, fmt, found, start, address)
        self.policy.added(self.tlb, space, address, mapping)
        return structures

    # A guest-physical address

    def guest_physical(
        self, gpa: int, kind: int, linear: int | None, *, is_final: bool
    ) -> Mapping | Fault:
        """Translate a guest-physical address through the EPT in force.

        ``is_final`` is false for an access to a guest paging structure on behalf of ``linear``, or
        for a load of PDPTEs (``linear`` is None). The result's ``page`` is host-physical; its
        ``ept_all_of`` holds the permissions.
        """
        found = self._outer(PhysicalAccess(gpa, kind, linear, is_final))
        if not isinstance(found, Mapping):
            self._invalidate_for(found)
        return found

    def _outer(self, access: PhysicalAccess) -> Mapping | Fault:
        ept = self.ept
        assert ept is not None
        gpa, kind, linear, is_final, page = access
        # "accesses to guest paging-structure entries are treated as writes" with A/D flags on; not
        # so "loads of the PDPTE registers ... by the MOV to CR instruction".
        needed = self._final_need(kind, page)
        if ept.accessed_dirty and not is_final and linear is not None:
            needed = _BOTH
        mapping = self._physical_space.find(gpa)
        if mapping is not None:
            if mapping.ept_all_of & needed != needed:
                return self._violation(access, mapping.ept_all_of, mapping.ept_leaf)
            if mapping.is_dirty or not needed & EPT_NEEDED[WRITE]:
                return self._outside_apic_page(mapping, access)
        found = self._ept_walk(ept, access, needed)
        return self._outside_apic_page(found, access) if isinstance(found, Mapping) else found

    def _outside_apic_page(self, mapping: Mapping, access: PhysicalAccess) -> Mapping | ApicAccess:
        """SDM 3C, "Guest-Physical Accesses to the APIC-Access Page": those of the page walk."""
        if self.apic_access_page is None or access.is_final:
            return mapping
        place = mapping.page + (access.gpa & ((1 << mapping.shift) - 1))
        if place & ~0xFFF != self.apic_access_page:
            return mapping
        return ApicAccess(access.linear or 0, place & 0xFFF, access.kind, is_physical=True)

    def _final_need(self, kind: int, page: int) -> int:
        """Return the EPT permission that an access needs."""
        ept = self.ept
        assert ept is not None
        if kind == FETCH and page & USER_PAGE and ept.format.features.mode_based_execute:
            return EPT_USER_FETCH
        return EPT_NEEDED[kind]

    def _ept_walk(self, ept: EptSetup, access: PhysicalAccess, needed: int) -> Mapping | Fault:
        fmt, space, gpa = ept.format, self._physical_space, access.gpa
        if gpa >> fmt.address_bits:
            # "If any of these bits (51:48) is not 0 ... an EPT violation occurs."
            return self._violation(access, 0, 0)
        start = _cached_start(space, fmt, gpa)
        found = walk(fmt, self.memory, ept.ep4ta, gpa, start)
        if found.stop is Stop.MALFORMED:
            return EptMisconfiguration(gpa, access.linear, access.is_final)
        if found.stop is Stop.NOT_PRESENT:
            return self._violation(access, 0, found.leaf)
        if found.all_of & needed != needed:
            return self._violation(access, found.all_of, found.leaf)
        leaf, is_dirty = found.leaf, True
        if ept.accessed_dirty:
            full = self._set_ept_flags(found, gpa, dirty=bool(needed & EPT_NEEDED[WRITE]))
            if full is not None:
                return full
            leaf = found.leaf
            is_dirty = bool(leaf & _EPT_D)
        page, rights = gpa >> found.shift << found.shift, found.all_of & EPT_RIGHTS
        mapping = Mapping(found.page, found.shift, 7, 0, 0, is_dirty, page, rights, leaf)
        space.add(gpa, mapping)
        _remember_structures(space, fmt, found, start, gpa)
        self.policy.added(self.tlb, space, gpa, mapping)
        return mapping

    def _set_ept_flags(self, found: Walk, gpa: int, *, dirty: bool) -> PmlFull | None:
        """SDM 3C, "Accessed and Dirty Flags for EPT" and "Page-Modification Logging".

        With a full log, no flag is set; a dirty flag that is set is logged.
        """
        last, log = len(found.steps) - 1, self.pml
        for number, step in enumerate(found.steps):
            wanted = _EPT_A | (_EPT_D if dirty and number == last else 0)
            if step.entry & wanted == wanted:
                continue
            if log is not None and not 0 <= log.index < _PML_ENTRIES:
                return PmlFull(gpa)
            self.memory.store(step.address, 8, step.entry | wanted)
            if number == last:
                found.steps[last] = step._replace(entry=step.entry | wanted)
                if log is not None and wanted & ~step.entry & _EPT_D:
                    self.memory.store(log.address + 8 * log.index, 8, gpa & ~0xFFF)
                    log.index = (log.index - 1) & 0xFFFF
        return None

    def _violation(self, access: PhysicalAccess, all_of: int, entry: int) -> EptViolation:
        """SDM 3C, "Exit Qualification for EPT Violations"; ``entry`` decides about #VE."""
        suppresses = bool(entry & _SUPPRESS_VE)
        gpa, kind, linear, is_final, page = access
        ept = self.ept
        assert ept is not None
        qualification = 1 << kind | (all_of & e.EPT_PERMISSIONS) << 3
        if ept.format.features.mode_based_execute and all_of & EPT_USER_FETCH:
            qualification |= _QUALIFICATION_USER_FETCH
        if linear is None:
            return EptViolation(gpa, None, qualification, suppresses)
        qualification |= QUALIFICATION_LINEAR_VALID
        if is_final:
            qualification |= QUALIFICATION_FINAL_ACCESS
            if ept.advanced_information:
                qualification |= page << _ADVANCED_SHIFT
        elif ept.accessed_dirty or kind == WRITE:
            # With A/D flags "the processor sets both bit 0 and bit 1"; without them, an update of
            # the guest's flags is a read-modify-write, for which bit 0 is the processor's choice.
            qualification |= 1 << READ | 1 << WRITE
        return EptViolation(gpa, linear, qualification, suppresses)


def _page_kind(all_of: int, any_of: int) -> int:
    """Return what the guest's entries say of a linear address."""
    kind = USER_PAGE if all_of & _US else 0
    kind |= WRITABLE_PAGE if all_of & _RW else 0
    return kind | (XD_PAGE if any_of & _XD else 0)


_KEYS: dict[str, tuple[StructureKey, ...]] = {}


def _structure_keys(fmt: BoundFormat) -> tuple[StructureKey, ...]:
    """Return the paging-structure caches of a format by the level of the tables they lead to."""
    keys = _KEYS.get(fmt.name)
    if keys is None:
        above = [level.shift for level in fmt.levels]
        keys = tuple(
            StructureKey(fmt.name, level, above[level - 1]) for level in range(1, len(above))
        )
        _KEYS[fmt.name] = keys
    return keys


def _cached_start(space: Space, fmt: BoundFormat, address: int) -> Start | None:
    """Return the deepest paging-structure-cache entry for ``address``."""
    structures = space.structures
    if structures:
        for key in reversed(_structure_keys(fmt)):
            entries = structures.get(key)
            start = entries.get(address >> key.shift) if entries else None
            if start is not None:
                return start
    return None


def _remember_structures(
    space: Space, fmt: BoundFormat, found: Walk, start: Start | None, address: int
) -> tuple[tuple[StructureKey, Start], ...]:
    """Cache every entry that a successful walk read above the leaf; return them."""
    all_of, any_of = (ALL_ONES, 0) if start is None else (start.all_of, start.any_of)
    keys = _structure_keys(fmt)
    structures = []
    for step in found.steps[:-1]:
        level = fmt.levels[step.level]
        all_of &= step.entry | level.neutral
        any_of |= step.entry
        below = Start(step.level + 1, step.entry & level.table_address, all_of, any_of)
        space.add_structure(keys[step.level], address, below)
        structures.append((keys[step.level], below))
    return tuple(structures)


class _GuestTables:
    """The guest's paging structures as the walker sees them: each load goes through the EPT."""

    def __init__(self, mmu: Mmu, linear: int) -> None:
        self._mmu = mmu
        self._linear = linear
        self.fault: Fault | None = None

    def load(self, address: int, size: int) -> int | None:
        """Return the entry at guest-physical ``address``, or None after a fault (see ``fault``)."""
        found = self._mmu._outer(PhysicalAccess(address, READ, self._linear, is_final=False))
        if not isinstance(found, Mapping):
            self.fault = found
            return None
        return self._mmu.memory.load(found.page | address & ((1 << found.shift) - 1), size)

    def store(self, address: int, size: int, value: int) -> None:
        """Entries are written by `Mmu`, which knows on whose behalf."""
        raise AssertionError("the walker only reads")
