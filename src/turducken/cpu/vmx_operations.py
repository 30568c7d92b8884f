"""VMX operations that need the whole processor: what the instructions and root software share."""

from typing import TYPE_CHECKING

from turducken.arch.registers import CR4
from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.diagnosing import tell_abort
from turducken.cpu.engine.field_access import FieldPlace, FieldTable
from turducken.cpu.guest_controls import (
    GuestControls,
    PinBased,
    Primary,
    Secondary,
    read_controls,
)
from turducken.cpu.surroundings import Activity
from turducken.paging import entries as e
from turducken.vmx import vmcs_fields as f
from turducken.vmx.instructions import (
    INVEPT_SINGLE_CONTEXT,
    INVVPID_ALL_CONTEXTS,
    INVVPID_INDIVIDUAL_ADDRESS,
    INVVPID_SINGLE_CONTEXT,
    VmResult,
    VmxUnit,
)
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor


def invalidate_ept(p: "Processor", kind: int, eptp: int, reserved: int = 0) -> VmResult:
    """INVEPT: check its operands and drop mappings."""
    result = p.vmx.check_invept(kind, eptp, reserved)
    if result.status is not VmStatus.SUCCEED:
        return result
    if p.on_event is not None:
        p.on_event("invept", p, (kind, eptp))
    if kind == INVEPT_SINGLE_CONTEXT:
        p.tlb.invept_single(eptp & e.EP4TA_MASK)
    else:
        p.tlb.invept_all()
    return result


def invalidate_vpid(p: "Processor", kind: int, descriptor: int, address: int) -> VmResult:
    """INVVPID: check its operands and drop mappings."""
    result = p.vmx.check_invvpid(kind, descriptor, address)
    if result.status is not VmStatus.SUCCEED:
        return result
    if p.on_event is not None:
        p.on_event("invvpid", p, (kind, descriptor, address))
    vpid = descriptor & 0xFFFF
    if kind == INVVPID_INDIVIDUAL_ADDRESS:
        # The VPID's mappings may be of 4-level paging on a processor with 5 levels.
        for width in {48, p.capabilities.linear_width}:
            p.tlb.invvpid_address(vpid, address & (1 << width) - 1)
    elif kind == INVVPID_SINGLE_CONTEXT:
        p.tlb.flush_vpid(vpid, "INVVPID")
    elif kind == INVVPID_ALL_CONTEXTS:
        p.tlb.invvpid_all()
    else:
        p.tlb.invvpid_retaining_globals(vpid)
    return result


def controls_of(p: "Processor", vmcs: Vmcs) -> GuestControls:
    """Return the controls of ``vmcs``, read again only where its control fields have changed."""
    key = (vmcs.region, vmcs.pack(f.CONTROL_SLOTS))
    cached = p.controls_cache.get(vmcs.region)
    if cached is not None and cached[0] == key[1]:
        return cached[1]
    advanced = p.profile.ept.advanced_exit_information
    controls = read_controls(vmcs, p.memory, p.ept_features, advanced_ept=advanced)
    if len(p.controls_cache) >= _CACHED_CONTROLS:
        p.controls_cache.clear()
    p.controls_cache[vmcs.region] = (key[1], controls)
    return controls


_CACHED_CONTROLS = 64


def switch_ept(p: "Processor", eptp: int) -> None:
    """VMFUNC 0: use another EPT from now on. No mapping is dropped: the tags differ."""
    assert p.guest is not None
    assert p.guest.ept is not None
    p.controls_cache.clear()
    p.guest.ept = p.guest.ept.with_eptp(eptp)
    p.guest.contexts.clear()
    sync_mmu(p)


_TABLE_STORES, _TABLE_LOADS = 0xF << 6, 0xF << 10
_IRET = 1 << 20
_UMIP = CR4.mask("UMIP")


def update_intercepts(p: "Processor") -> None:
    """Trap IRET and loads of descriptor-table registers, and stores of them where it is asked for.

    The former are ours: the engine accepts what no processor does.
    """
    intercepts = p.state.intercepts & ~_TABLE_STORES | _TABLE_LOADS | _IRET
    guest = p.guest
    stores_exit = guest is not None and guest.has_secondary(Secondary.DESCRIPTOR_TABLE_EXITING)
    if stores_exit or p.state.cr4 & _UMIP:
        intercepts |= _TABLE_STORES
    p.state.intercepts = intercepts


def iret_leaves_blocking(guest: GuestControls | None) -> bool:
    """SDM 3C, "Changes to Instruction Behavior ...": IRET with NMI exiting, no virtual NMIs."""
    if guest is None:
        return False
    return guest.pin & (PinBased.NMI_EXITING | PinBased.VIRTUAL_NMIS) == PinBased.NMI_EXITING


def field_table(unit: VmxUnit) -> FieldTable:
    """Return the fields of the processor's VMCSs for the engine."""
    readable, writable = (
        [FieldPlace(encoding, one.slot, one.mask, one.is_high) for encoding, one in some.items()]
        for some in (unit.readable, unit.writable)
    )
    return FieldTable(readable, writable)


def update_field_access(p: "Processor") -> None:
    """Let the engine execute VMREAD and VMWRITE of the VMCS that they are about at present.

    In root operation that is the current VMCS; in non-root operation with VMCS shadowing, the one
    that the VMCS link pointer names, as far as the bitmaps let it. A TLB policy that acts whenever
    the engine stops must see it stop.
    """
    current, guest = p.vmx.current, p.guest
    if current is None or p.policy.acts_when_stopped:
        p.engine.fields.close()
    elif guest is None:
        p.engine.open_fields(current.region)
    elif guest.has_secondary(Secondary.VMCS_SHADOWING):
        read = current.read
        p.engine.open_fields(
            read(f.VMCS_LINK_POINTER), (read(f.VMREAD_BITMAP), read(f.VMWRITE_BITMAP))
        )
    else:
        p.engine.fields.close()


def vmx_abort(p: "Processor", indicator: int) -> None:
    """SDM 3C, "VMX Aborts": note why in the VMCS and stop for good."""
    if p.vmx.current is not None:
        p.vmx.current.set_abort(indicator)
        tell_abort(p, p.vmx.current, indicator)
    p.guest = None
    p.activity = Activity.SHUTDOWN
    p.is_aborted = True


def pause_loop_exits(p: "Processor") -> bool:
    """Tell whether this PAUSE is one too many: SDM 3C, "Changes to Instruction Behavior ..."."""
    guest = p.guest
    assert guest is not None
    if p.state.cpl or guest.has_primary(Primary.PAUSE_EXITING):
        return False
    vmcs = p.vmx.current
    assert vmcs is not None
    now = p.read_tsc()
    first, last = p.pause_loop
    if now - last > vmcs.read(f.PLE_GAP):
        first = now
    p.pause_loop = (first, now)
    return now - first > vmcs.read(f.PLE_WINDOW)
