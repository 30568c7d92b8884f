"""Writing control registers and IA32_EFER: what is checked, what changes with them.

SDM 3A, "Control Registers"; SDM 2B, "MOV - Move to/from Control Registers". Functions return None,
or what the instruction causes instead; nothing has changed in that case.
"""

from dataclasses import astuple
from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR3, CR4, EFER
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.engine.grants import GrantTable
from turducken.cpu.events import Event, exception
from turducken.mmu.context import Context
from turducken.mmu.faults import Fault
from turducken.mmu.mmu import EptSetup
from turducken.mmu.rights import AccessMode
from turducken.mmu.tlb import Mapping, Space
from turducken.paging import formats

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PE, _WP, _NW, _CD, _PG, _ET = (CR0.mask(one) for one in ("PE", "WP", "NW", "CD", "PG", "ET"))
_PSE, _PAE, _PGE, _LA57 = (CR4.mask(one) for one in ("PSE", "PAE", "PGE", "LA57"))
_PCIDE, _SMEP, _SMAP, _PKE, _VMXE = (
    CR4.mask(one) for one in ("PCIDE", "SMEP", "SMAP", "PKE", "VMXE")
)
_SCE, _LME, _LMA, _NXE = (EFER.mask(one) for one in ("SCE", "LME", "LMA", "NXE"))
_KEEP = CR3.mask("KEEP")
_CR0_PAGING = CR0.mask("PG", "WP")
_CR4_PAGING = CR4.mask("PSE", "PAE", "LA57", "SMEP", "SMAP", "PKE")
CR0_WRITABLE = CR0.mask("PE", "MP", "EM", "TS", "ET", "NE", "WP", "AM", "NW", "CD", "PG")

GENERAL_PROTECTION = exception(Vector.GP, 0)

Refusal = Event | Fault | None


def is_pae_paging(cr0: int, cr4: int, efer: int) -> bool:
    """Tell whether PAE paging (with PDPTEs in registers) is in use."""
    return bool(cr0 & _PG and cr4 & _PAE) and not efer & _LMA


def sync_mmu(p: "Processor") -> None:
    """Make the MMU follow CR0, CR3, CR4, EFER and the VMX controls in force."""
    state = p.state
    cr3, cr4 = state.cr3, state.cr4
    pkru = p.pkru if cr4 & _PKE else 0
    key = (state.cr0 & _CR0_PAGING, cr4 & _CR4_PAGING, state.efer & (_LMA | _NXE), pkru)
    guest = p.guest
    contexts = p.contexts if guest is None else guest.contexts
    pcid = cr3 & 0xFFF if cr4 & _PCIDE else 0
    context = contexts.get((key, pcid))
    if context is None:
        if len(contexts) >= _REMEMBERED:
            contexts.clear()
        context = contexts[key, pcid] = _context(p, key, pcid)
    mmu = p.mmu
    mmu.use(context, cr3)
    mmu.enable_globals(enabled=bool(cr4 & _PGE))
    mmu.apic_access_page = guest.apic_access_page if guest is not None else None
    if mmu.keeps_answers:
        if p.engine.grants.use(*_tables(p, context)):
            p.engine.is_switched = True
    else:
        p.engine.is_stale = True


_REMEMBERED = 256
Key = tuple[int, int, int, int]
"""What of CR0, CR4, IA32_EFER and PKRU decides how linear addresses are translated."""


def _tables(p: "Processor", context: Context) -> tuple[GrantTable, GrantTable]:
    """Return what the engine has been told of translations in ``context``.

    Those that come from global pages are in the second one.
    """
    found = p.engine.grants.by_context.get(context)
    if found is None:
        if len(p.engine.grants.by_context) >= _REMEMBERED:
            p.engine.grants.by_context.clear()
        own = context.space
        if context.paging is None and context.physical_space is not None:
            own = context.physical_space
        found = _table(p, context, own), _table(p, context, context.global_space)
        p.engine.grants.by_context[context] = found
    return found


def _table(p: "Processor", context: Context, space: Space) -> GrantTable:
    paging = None if context.paging is None else context.paging.name
    name = (paging, astuple(context.mode), context.ept, p.mmu.apic_access_page)
    table = space.watchers.get(name)
    if table is None:
        table = space.watchers[name] = p.engine.grants.new_table()
    assert isinstance(table, GrantTable)
    return table


def _context(p: "Processor", key: Key, pcid: int) -> Context:
    paging, mode = _paging_mode(p, *key)
    guest = p.guest
    vpid, ept = (guest.vpid, guest.ept) if guest is not None else (0, None)
    return p.mmu.context(paging=paging, mode=mode, vpid=vpid, pcid=pcid, ept=ept)


def _paging_mode(
    p: "Processor", cr0: int, cr4: int, efer: int, pkru: int
) -> tuple[formats.BoundFormat | None, AccessMode]:
    """Return the format of linear-address translation and what decides access rights."""
    nx = bool(efer & _NXE)
    paging = None
    if cr0 & _PG:
        features = formats.Features(
            maxphyaddr=p.maxphyaddr,
            nx=nx,
            pse=bool(cr4 & _PSE),
            pages_1gib=p.profile.features.pages_1gib,
        )
        paging = _format(cr4, efer).bind(features)
    mode = AccessMode(
        wp=bool(cr0 & _WP),
        smep=bool(cr4 & _SMEP),
        smap=bool(cr4 & _SMAP),
        nx=nx and bool(cr4 & _PAE),
        pke=bool(cr4 & _PKE and efer & _LMA),
        pkru=pkru,
    )
    return paging, mode


def _format(cr4: int, efer: int) -> formats.Format:
    if efer & _LMA:
        return formats.PAGING_5LEVEL if cr4 & _LA57 else formats.PAGING_4LEVEL
    return formats.PAGING_PAE if cr4 & _PAE else formats.PAGING_32


def load_pdptes(p: "Processor", cr3: int) -> Refusal:
    """Load the PDPTE registers from ``cr3``: SDM 3A, "PDPTE Registers".

    With EPT in use the table is read through it; "the access is not for a linear address".
    """
    address = cr3 & formats.PAGING_PAE.root_mask
    ept: EptSetup | None = p.mmu.ept
    if ept is not None:
        found = p.mmu.guest_physical(address, 0, None, is_final=False)
        if not isinstance(found, Mapping):
            return found
        address = found.page | address & ((1 << found.shift) - 1)
    entries = tuple(p.memory.load(address + 8 * number, 8) for number in range(4))
    if not are_pdptes_valid(entries, p.maxphyaddr):
        return GENERAL_PROTECTION
    p.mmu.pdptes = entries
    return None


def are_pdptes_valid(entries: tuple[int, ...], maxphyaddr: int) -> bool:
    """Tell whether no present entry has a reserved bit set."""
    level = formats.PAGING_PAE.bind(formats.Features(maxphyaddr=maxphyaddr)).levels[0]
    return not any(entry & 1 and entry & level.table_reserved for entry in entries)


def write_cr0(p: "Processor", value: int) -> Refusal:
    """MOV to CR0 with all checks but VMX's."""
    state = p.state
    old, cr4, efer = state.cr0, state.cr4, state.efer
    if value >> 32:
        return GENERAL_PROTECTION
    value = value & CR0_WRITABLE | _ET
    if (value & _PG and not value & _PE) or (value & _NW and not value & _CD):
        return GENERAL_PROTECTION
    if not value & _PG and cr4 & _PCIDE:
        return GENERAL_PROTECTION
    new_efer = efer
    if value & _PG and not old & _PG and efer & _LME:
        if not cr4 & _PAE or state.segment(SegmentIndex.CS).access >> 13 & 1:
            return GENERAL_PROTECTION
        new_efer = efer | _LMA
    elif not value & _PG and old & _PG and efer & _LMA:
        if state.is_64bit:
            return GENERAL_PROTECTION
        new_efer = efer & ~_LMA
    if is_pae_paging(value, cr4, new_efer) and (value ^ old) & (_PG | _CD | _NW):
        refused = load_pdptes(p, state.cr3)
        if refused is not None:
            return refused
    state.cr0, state.efer = value, new_efer
    if not value & _PG and old & _PG:
        p.tlb.flush_vpid(p.vpid, "MOV CR0")
    state.update_mode()
    sync_mmu(p)
    if p.on_event is not None:
        p.on_event("mode", p, ())
    return None


def write_cr3(p: "Processor", value: int) -> Refusal:
    """MOV to CR3."""
    state = p.state
    cr4 = state.cr4
    keep = bool(value & _KEEP and cr4 & _PCIDE)
    if cr4 & _PCIDE:
        value &= ~_KEEP
    if not state.efer & _LMA and not state.is_64bit:
        value &= 0xFFFF_FFFF
    if value >> p.maxphyaddr:
        return GENERAL_PROTECTION
    if is_pae_paging(state.cr0, cr4, state.efer):
        refused = load_pdptes(p, value)
        if refused is not None:
            return refused
    state.cr3 = value
    if not keep:
        p.tlb.flush_pcid(p.vpid, value & 0xFFF if cr4 & _PCIDE else 0)
    sync_mmu(p)
    return None


def write_cr4(p: "Processor", value: int) -> Refusal:
    """MOV to CR4 with all checks but VMX's."""
    state = p.state
    old, cr0, efer = state.cr4, state.cr0, state.efer
    if value & ~p.cr4_writable:
        return GENERAL_PROTECTION
    if efer & _LMA and (not value & _PAE or (value ^ old) & _LA57):
        return GENERAL_PROTECTION
    if value & _PCIDE and not old & _PCIDE and (not efer & _LMA or state.cr3 & 0xFFF):
        return GENERAL_PROTECTION
    if p.vmx.in_operation and not value & _VMXE:
        return GENERAL_PROTECTION
    if is_pae_paging(cr0, value, efer) and (value ^ old) & (_PAE | _PGE | _PSE | _SMEP):
        refused = load_pdptes(p, state.cr3)
        if refused is not None:
            return refused
    state.cr4 = value
    changed = value ^ old
    if changed & (_PGE | _PSE | _PAE) or changed & old & _PCIDE:
        p.tlb.flush_vpid(p.vpid, "MOV CR4")
    elif changed & value & _SMEP:
        p.tlb.flush_pcid_and_globals(p.vpid, p.mmu.tag.pcid, "MOV CR4")
    state.update_mode()
    sync_mmu(p)
    if p.on_event is not None:
        p.on_event("mode", p, ())
    return None


def write_efer(p: "Processor", value: int) -> bool:
    """WRMSR of IA32_EFER; False for #GP. LMA keeps its value."""
    state = p.state
    allowed = _SCE | _LME | _LMA | (_NXE if p.profile.features.nx else 0)
    if value & ~allowed:
        return False
    if (value ^ state.efer) & _LME and state.cr0 & _PG:
        return False
    state.efer = value & ~_LMA | state.efer & _LMA
    sync_mmu(p)
    if p.on_event is not None:
        p.on_event("mode", p, ())
    return True


def cr4_writable(features: object) -> int:
    """Return the CR4 bits that a processor with these CPUID features lets software set."""
    always = CR4.mask(
        "VME", "PVI", "TSD", "DE", "PSE", "PAE", "MCE", "PGE", "PCE", "OSFXSR", "OSXMMEXCPT", "VMXE"
    )
    optional = {
        "umip": "UMIP",
        "la57": "LA57",
        "fsgsbase": "FSGSBASE",
        "pcid": "PCIDE",
        "xsave": "OSXSAVE",
        "smep": "SMEP",
        "smap": "SMAP",
        "pku": "PKE",
    }
    for feature, name in optional.items():
        if getattr(features, feature):
            always |= CR4.mask(name)
    return always
