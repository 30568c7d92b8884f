"""One processor's memory-management unit: from a linear address to host RAM, or to a fault.

Without EPT, one walk; with EPT, every address that the guest's tables name is itself translated
(SDM 3C, "EPT Overview"). What was found is cached in the TLB model, and the TLB model is asked
first.
"""

from typing import NamedTuple

from turducken.memory import PhysicalMemory
from turducken.mmu.faults import (
    ApicAccess,
    EptMisconfiguration,
    EptViolation,
    Fault,
    PageFault,
    PmlFull,
)
from turducken.mmu.policy import TlbPolicy
from turducken.mmu.rights import (
    EPT_NEEDED,
    ERROR_PK,
    FETCH,
    READ,
    WRITE,
    AccessMode,
    error_code,
    is_allowed,
)
from turducken.mmu.tlb import GLOBAL, NO_EPT, LinearTag, Mapping, Tlb
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import Start, Stop, Walk, walk

_D, _G = e.PTE.mask("D"), e.PTE.mask("G")
_A = e.PTE.mask("A")
_EPT_A, _EPT_D = e.EPT_A, e.EPT_D

QUALIFICATION_LINEAR_VALID = 1 << 7
QUALIFICATION_FINAL_ACCESS = 1 << 8


class EptSetup(NamedTuple):
    """The second stage in force: the bound EPT format, and the EPTP taken apart."""

    format: BoundFormat
    ep4ta: int
    accessed_dirty: bool


class Access(NamedTuple):
    """One access. ``user``: CPL 3 and not implicit; ``ac``: RFLAGS.AC where it counts."""

    address: int
    kind: int
    user: bool = False
    ac: bool = False


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
        self.mode = AccessMode()
        self.paging: BoundFormat | None = None
        self.ept: EptSetup | None = None
        self.root = 0
        self.pdptes: tuple[int, ...] = (0, 0, 0, 0)
        self.is_pae = False
        self.pml: PageModificationLog | None = None
        self.apic_access_page: int | None = None
        self.address_mask = (1 << 48) - 1
        self._set_tag(LinearTag(0, 0, NO_EPT))

    def _set_tag(self, tag: LinearTag) -> None:
        self.tag = tag
        self._space = self.tlb.linear_space(tag)
        self._global_space = self.tlb.linear_space(tag._replace(pcid=GLOBAL))
        if tag.ep4ta != NO_EPT:
            self._physical_space = self.tlb.guest_physical_space(tag.ep4ta)

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
        self.paging, self.root, self.mode, self.ept = paging, root, mode, ept
        self.is_pae = paging is not None and paging.name == "PAE"
        self.address_mask = (1 << (paging.address_bits if paging else 48)) - 1
        self._set_tag(LinearTag(vpid, pcid, ept.ep4ta if ept else NO_EPT))

    def translate(self, access: Access) -> Mapping | Fault:
        """Translate one access; return the mapping to use or the fault to take.

        On success all accessed and dirty flags that the access needs are set; on a fault what the
        manual makes the fault invalidate is gone from the TLB.
        """
        if self.paging is None:
            return self._translate_unpaged(access)
        address = access.address & self.address_mask
        mapping = self._space.find(address) or self._global_space.find(address)
        if mapping is not None and (access.kind != WRITE or mapping.is_dirty):
            self.tlb.statistics.hits += 1
            fault = self._refuse(mapping, access)
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
            self.tlb.ept_violation(self.tag, fault.gpa, fault.address)

    def _translate_unpaged(self, access: Access) -> Mapping | Fault:
        """CR0.PG = 0: linear is guest-physical; "no combined mappings are used"."""
        address = access.address & 0xFFFF_FFFF
        if self.ept is None:
            page = address & ~0xFFF
            return Mapping(page, 12, 7, 0, 0, is_dirty=True, gpa=page)
        found = self.guest_physical(address, access.kind, access.address, is_final=True)
        if isinstance(found, EptViolation):
            self._invalidate_for(found)
        elif isinstance(found, Mapping):
            return self._check_apic_page(found, access) or found
        return found

    def _check_apic_page(self, mapping: Mapping, access: Access) -> ApicAccess | None:
        if self.apic_access_page is None:
            return None
        offset = access.address & ((1 << mapping.shift) - 1)
        if (mapping.page + offset) & ~0xFFF != self.apic_access_page:
            return None
        return ApicAccess(access.address, offset & 0xFFF, access.kind)

    def _refuse(self, mapping: Mapping, access: Access) -> Fault | None:
        """Return the fault that ``access`` takes if it uses ``mapping``, or None if it may."""
        mode = self.mode
        if not is_allowed(
            mode,
            mapping.all_of,
            mapping.any_of,
            mapping.leaf,
            access.kind,
            user=access.user,
            ac=access.ac,
        ):
            return self._rights_fault(mapping.all_of, mapping.any_of, mapping.leaf, access)
        if not mapping.ept_all_of & EPT_NEEDED[access.kind]:
            gpa = mapping.gpa + (access.address & ((1 << mapping.shift) - 1))
            return self._violation(
                gpa, access.kind, mapping.ept_all_of, access.address, is_final=True
            )
        if self.apic_access_page is not None:
            return self._check_apic_page(mapping, access)
        return None

    def _rights_fault(self, all_of: int, any_of: int, leaf: int, access: Access) -> PageFault:
        mode, kind = self.mode, access.kind
        code = error_code(mode, kind, user=access.user, present=True, reserved=False)
        if mode.pke and kind != FETCH:
            without_key = AccessMode(mode.wp, mode.smep, mode.smap, mode.nx)
            if is_allowed(without_key, all_of, any_of, leaf, kind, user=access.user, ac=access.ac):
                code |= ERROR_PK
        return PageFault(access.address, code)

    def _walk(self, access: Access, address: int) -> Mapping | Fault:
        fmt = self.paging
        assert fmt is not None
        tables = self.memory if self.ept is None else _GuestTables(self, access.address)
        start = self._cached_start(fmt, address)
        if start is None and self.is_pae:
            # SDM 3A, "PAE Paging": the PDPTEs are registers, loaded by MOV to CR.
            pdpte = self.pdptes[address >> 30 & 3]
            if not pdpte & 1:
                return self._not_present(access, reserved=False)
            start = Start(1, pdpte & fmt.levels[0].table_address)
        found = walk(fmt, tables, self.root, address, start)
        if found.stop is Stop.NO_MEMORY:
            assert isinstance(tables, _GuestTables)
            assert tables.fault is not None
            return tables.fault
        if found.stop is not Stop.PAGE:
            return self._not_present(access, reserved=found.stop is Stop.MALFORMED)
        if not is_allowed(
            self.mode,
            found.all_of,
            found.any_of,
            found.leaf,
            access.kind,
            user=access.user,
            ac=access.ac,
        ):
            return self._rights_fault(found.all_of, found.any_of, found.leaf, access)
        fault = self._set_flags(fmt, found, access)
        if fault is not None:
            return fault
        return self._finish(fmt, found, access, address)

    def _not_present(self, access: Access, *, reserved: bool) -> PageFault:
        code = error_code(
            self.mode, access.kind, user=access.user, present=reserved, reserved=reserved
        )
        return PageFault(access.address, code)

    def _cached_start(self, fmt: BoundFormat, address: int) -> Start | None:
        """Return the deepest usable paging-structure-cache entry for ``address``."""
        structures = self._space.structures
        if not structures:
            return None
        for level in range(len(fmt.levels) - 1, 0, -1):
            start = structures.get((level, address >> fmt.levels[level - 1].shift))
            if start is not None:
                return start
        return None

    def _set_flags(self, fmt: BoundFormat, found: Walk, access: Access) -> Fault | None:
        """Set accessed flags on the path, and the leaf's dirty flag for a write."""
        last = len(found.steps) - 1
        for number, step in enumerate(found.steps):
            wanted = 0 if fmt.levels[step.level].neutral != 0 else fmt.accessed
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
            target = self.guest_physical(address, WRITE, access.address, is_final=False)
            if not isinstance(target, Mapping):
                return target
            address = target.page | address & ((1 << target.shift) - 1)
        self.memory.store(address, size, entry)
        return None

    def _finish(
        self, fmt: BoundFormat, found: Walk, access: Access, address: int
    ) -> Mapping | Fault:
        """Translate the page the guest's tables name, make the mapping and cache it."""
        shift, leaf = found.shift, found.steps[-1].entry
        offset = address & ((1 << shift) - 1)
        is_dirty = bool(leaf & _D)
        mapping = Mapping(found.page, shift, found.all_of, found.any_of, leaf, is_dirty, found.page)
        if self.ept is not None:
            outer = self.guest_physical(
                found.page + offset, access.kind, access.address, is_final=True
            )
            if not isinstance(outer, Mapping):
                return outer
            shift = min(shift, outer.shift)
            mask = (1 << shift) - 1
            mapping.shift = shift
            mapping.gpa = (found.page + offset) & ~mask
            mapping.page = (outer.page | (found.page + offset) & ((1 << outer.shift) - 1)) & ~mask
            mapping.ept_all_of, mapping.ept_leaf = outer.ept_all_of, outer.ept_leaf
            mapping.is_dirty = is_dirty and outer.is_dirty
        space = self._global_space if leaf & _G and self._has_globals else self._space
        self._remember_structures(fmt, found, address)
        space.add(address, mapping)
        self.policy.added(self.tlb, space, address, mapping)
        if self.apic_access_page is not None:
            return self._check_apic_page(mapping, access) or mapping
        return mapping

    _has_globals = False

    def enable_globals(self, *, enabled: bool) -> None:
        """Follow CR4.PGE."""
        self._has_globals = enabled

    def _remember_structures(self, fmt: BoundFormat, found: Walk, address: int) -> None:
        all_of, any_of = -1, 0
        structures = self._space.structures
        first = found.steps[0].level
        if first > (1 if self.is_pae else 0):
            return  # the walk began in the cache: what is above is there already
        for step in found.steps[:-1]:
            level = fmt.levels[step.level]
            all_of &= step.entry | level.neutral
            any_of |= step.entry
            key = (step.level + 1, address >> level.shift)
            structures[key] = Start(
                step.level + 1, step.entry & level.table_address, all_of, any_of
            )

    def guest_physical(
        self, gpa: int, kind: int, linear: int | None, *, is_final: bool
    ) -> Mapping | Fault:
        """Translate a guest-physical address through the EPT in force.

        ``is_final`` is false for an access to a guest paging structure on behalf of ``linear``. The
        result's ``page`` is host-physical; its ``ept_all_of`` holds the permissions.
        """
        ept = self.ept
        assert ept is not None
        space = self._physical_space
        # "accesses to guest paging-structure entries are treated as writes" with A/D flags on.
        as_write = kind == WRITE or (ept.accessed_dirty and not is_final and linear is not None)
        mapping = space.find(gpa)
        if mapping is None or (as_write and not mapping.is_dirty):
            found = self._ept_walk(ept, gpa, kind, linear, as_write=as_write, is_final=is_final)
            if not isinstance(found, Mapping):
                return found
            mapping = found
        needed = EPT_NEEDED[kind] | (2 if as_write else 0)
        if mapping.ept_all_of & needed != needed:
            return self._violation(gpa, kind, mapping.ept_all_of, linear, is_final=is_final)
        return mapping

    def _ept_walk(
        self,
        ept: EptSetup,
        gpa: int,
        kind: int,
        linear: int | None,
        *,
        as_write: bool,
        is_final: bool,
    ) -> Mapping | Fault:
        fmt = ept.format
        if gpa >> 48:
            # "If any of these bits (63:48) is set, ... causes an EPT violation."
            return self._violation(gpa, kind, 0, linear, is_final=is_final)
        space = self._physical_space
        start = None
        for level in range(3, 0, -1):
            start = space.structures.get((level, gpa >> fmt.levels[level - 1].shift))
            if start is not None:
                break
        found = walk(fmt, self.memory, ept.ep4ta, gpa, start)
        if found.stop is Stop.MALFORMED:
            return EptMisconfiguration(gpa, linear, is_final)
        if found.stop is Stop.NOT_PRESENT:
            return self._violation(gpa, kind, 0, linear, is_final=is_final)
        all_of = found.all_of
        needed = EPT_NEEDED[kind] | (2 if as_write else 0)
        if all_of & needed != needed:
            return self._violation(gpa, kind, all_of, linear, is_final=is_final)
        leaf = found.leaf
        if ept.accessed_dirty:
            full = self._log_write(gpa) if as_write and not leaf & _EPT_D else None
            if full is not None:
                return full
            leaf = self._set_ept_flags(found, dirty=as_write)
        mapping = Mapping(
            found.page,
            found.shift,
            7,
            0,
            0,
            is_dirty=not ept.accessed_dirty or bool(leaf & _EPT_D),
            gpa=gpa >> found.shift << found.shift,
            ept_all_of=all_of & 7,
            ept_leaf=leaf,
        )
        space.add(gpa, mapping)
        self._remember_ept_structures(fmt, found, gpa)
        self.policy.added(self.tlb, space, gpa, mapping)
        return mapping

    def _remember_ept_structures(self, fmt: BoundFormat, found: Walk, gpa: int) -> None:
        if found.steps[0].level:
            return
        all_of = -1
        for step in found.steps[:-1]:
            level = fmt.levels[step.level]
            all_of &= step.entry
            self._physical_space.structures[(step.level + 1, gpa >> level.shift)] = Start(
                step.level + 1, step.entry & level.table_address, all_of, 0
            )

    def _set_ept_flags(self, found: Walk, *, dirty: bool) -> int:
        """SDM 3C, "Accessed and Dirty Flags for EPT": set them; return the leaf as it is now."""
        last = len(found.steps) - 1
        leaf = found.leaf
        for number, step in enumerate(found.steps):
            wanted = _EPT_A | (_EPT_D if dirty and number == last else 0)
            if step.entry & wanted != wanted:
                self.memory.store(step.address, 8, step.entry | wanted)
                if number == last:
                    leaf = step.entry | wanted
        return leaf

    def _log_write(self, gpa: int) -> PmlFull | None:
        """SDM 3C, "Page-Modification Logging": before a dirty flag is set, log the page."""
        log = self.pml
        if log is None:
            return None
        if not 0 <= log.index <= 511:
            return PmlFull(gpa)
        self.memory.store(log.address + 8 * log.index, 8, gpa & ~0xFFF)
        log.index = (log.index - 1) & 0xFFFF
        return None

    def _violation(
        self, gpa: int, kind: int, all_of: int, linear: int | None, *, is_final: bool
    ) -> EptViolation:
        """SDM 3C, "Exit Qualification for EPT Violations"."""
        qualification = 1 << kind | (all_of & 7) << 3
        if linear is None:
            return EptViolation(gpa, None, qualification)
        if not is_final and self.ept is not None and self.ept.accessed_dirty:
            qualification |= 1 << READ | 1 << WRITE
        qualification |= QUALIFICATION_LINEAR_VALID
        if is_final:
            qualification |= QUALIFICATION_FINAL_ACCESS
        return EptViolation(gpa, linear, qualification)


class _GuestTables:
    """The guest's paging structures as the walker sees them: each load goes through the EPT."""

    def __init__(self, mmu: Mmu, linear: int) -> None:
        self._mmu = mmu
        self._linear = linear
        self.fault: Fault | None = None

    def load(self, address: int, size: int) -> int | None:
        """Return the entry at guest-physical ``address``, or None after a fault (see ``fault``)."""
        found = self._mmu.guest_physical(address, READ, self._linear, is_final=False)
        if not isinstance(found, Mapping):
            self.fault = found
            return None
        return self._mmu.memory.load(found.page | address & ((1 << found.shift) - 1), size)

    def store(self, address: int, size: int, value: int) -> None:
        """Entries are written by `Mmu`, which knows on whose behalf."""
        raise AssertionError("the walker only reads")
