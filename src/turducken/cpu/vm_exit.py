"""VM exits: recording why, saving the guest, loading the host. SDM 3C, chapter "VM Exits"."""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.cpu.control_registers import are_pdptes_valid, is_pae_paging, sync_mmu
from turducken.cpu.diagnosing import tell_misconfiguration
from turducken.cpu.engine.state import MSR_WORDS
from turducken.cpu.events import Event, EventKind
from turducken.cpu.guest_controls import Exit, PinBased, Secondary
from turducken.cpu.guest_image import save_registers
from turducken.cpu.host_image import load_host_registers
from turducken.cpu.msr_lists import load_msrs, store_msrs
from turducken.cpu.saved_flags import INSTRUCTION_EXITS, flags_at_exit
from turducken.cpu.surroundings import Activity
from turducken.cpu.vmx_operations import update_field_access, update_intercepts, vmx_abort
from turducken.mmu.faults import ApicAccess, EptMisconfiguration, EptViolation, Fault, PmlFull
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import NMI_UNBLOCKING, VmxAbort
from turducken.vmx.exit_information import ApicAccess as AccessType
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.virtualization_exception import is_busy, write_information
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))
_PG, _PE = CR0.mask("PG"), CR0.mask("PE")
# "CR0: the following bits are not modified": reserved ones, ET, NW, CD.
_CR0_KEPT = CR0.mask("ET", "NW", "CD")
_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_VECTORING_VALID = 1 << 31
_RF = RFLAGS.mask("RF")

PDPTE_SLOTS = tuple(getattr(f, f"GUEST_PDPTE{n}").slot for n in range(4))


def exit_to_host(
    p: "Processor",
    reason: int,
    qualification: int = 0,
    *,
    length: int | None = None,
    event: Event | None = None,
    during: Event | None = None,
) -> None:
    """Cause a VM exit. ``length`` is the instruction's, ``during`` the event being delivered.

    ``event`` is the one that causes the exit itself.

    Fields that other reasons record (addresses, instruction information) have been written before.
    """
    vmcs = current_vmcs(p)
    vmcs.write(f.EXIT_REASON, reason)
    vmcs.write(f.EXIT_QUALIFICATION, qualification)
    if length is not None:
        vmcs.write(f.EXIT_INSTRUCTION_LENGTH, length)
    if reason not in (ExitReason.EXCEPTION_OR_NMI, ExitReason.EXTERNAL_INTERRUPT):
        vmcs.write(f.EXIT_INTERRUPTION_INFORMATION, 0)
    _record_vectoring(p, vmcs, during)
    count = p.statistics.exits
    count[reason] = count.get(reason, 0) + 1
    if p.on_event is not None:
        p.on_event("vm-exit", p, (reason, qualification))
    if reason not in INSTRUCTION_EXITS or p.state.rflags & _RF:
        p.state.rflags = flags_at_exit(p, reason, event, during)
    save_guest(p, vmcs)
    leave_guest(p, vmcs)


def current_vmcs(p: "Processor") -> Vmcs:
    """Return the current VMCS (there is one in non-root operation)."""
    vmcs = p.vmx.current
    assert vmcs is not None
    return vmcs


def _record_vectoring(p: "Processor", vmcs: Vmcs, during: Event | None) -> None:
    """SDM 3C, "Information for VM Exits During Event Delivery"."""
    if during is None:
        vmcs.write(f.IDT_VECTORING_INFORMATION, 0)
        return
    vmcs.write(f.IDT_VECTORING_INFORMATION, during.information)
    if p.root is None and during.kind in (EventKind.EXTERNAL, EventKind.NMI):
        p.interrupted = vmcs.region, during.information, vmcs.read(f.EXIT_REASON)
    if during.error_code is not None:
        vmcs.write(f.IDT_VECTORING_ERROR_CODE, during.error_code)
    if during.is_software:
        vmcs.write(f.EXIT_INSTRUCTION_LENGTH, during.length)


def exit_for_event(p: "Processor", event: Event, during: Event | None) -> None:
    """Cause the VM exit of an exception or NMI.

    SDM 3C, "Information for VM Exits Due to Vectored Events".
    """
    vmcs = current_vmcs(p)
    information = event.information
    if event.error_code is not None and p.state.cr0 & _PE:
        vmcs.write(f.EXIT_INTERRUPTION_ERROR_CODE, event.error_code)
    else:
        information &= ~(1 << 11)  # there are no error codes in real-address mode
    if p.unblocking_iret == p.state.rip and during is None and event.vector != Vector.DF:
        information |= NMI_UNBLOCKING
    vmcs.write(f.EXIT_INTERRUPTION_INFORMATION, information)
    if event.is_software:
        vmcs.write(f.EXIT_INSTRUCTION_LENGTH, event.length)
    is_hardware = event.kind is EventKind.HARDWARE
    qualification = event.payload if is_hardware and event.vector in (Vector.PF, Vector.DB) else 0
    exit_to_host(p, ExitReason.EXCEPTION_OR_NMI, qualification, event=event, during=during)


def exit_for_interrupt(p: "Processor", vector: int | None = None) -> None:
    """Cause the VM exit of an external interrupt, acknowledging it where the control says so.

    ``vector`` is that of an interrupt that has been acknowledged already.
    """
    assert p.guest is not None
    information = 0
    if p.guest.exit & Exit.ACKNOWLEDGE_INTERRUPT_ON_EXIT:
        if vector is None:
            vector = p.apic.acknowledge()
        information = Event(EventKind.EXTERNAL, vector).information if vector is not None else 0
    current_vmcs(p).write(f.EXIT_INTERRUPTION_INFORMATION, information)
    exit_to_host(p, ExitReason.EXTERNAL_INTERRUPT)


def exit_for_translation(p: "Processor", fault: Fault, during: Event | None) -> None:
    """Cause the VM exit of an EPT violation, EPT misconfiguration or full modification log."""
    vmcs = current_vmcs(p)
    length = p.instruction_length() if during is None else None
    unblocking = NMI_UNBLOCKING if p.unblocking_iret == p.state.rip and during is None else 0
    if isinstance(fault, PmlFull):
        exit_to_host(p, ExitReason.PML_FULL, unblocking, during=during)
        return
    assert isinstance(fault, EptViolation | EptMisconfiguration)
    vmcs.write(f.GUEST_PHYSICAL_ADDRESS, fault.gpa)
    if isinstance(fault, EptViolation):
        if fault.address is not None:
            vmcs.write(f.GUEST_LINEAR_ADDRESS, fault.address)
        qualification = fault.qualification | unblocking
        if during is None and _becomes_exception(p, vmcs, fault, qualification):
            return
        exit_to_host(p, ExitReason.EPT_VIOLATION, qualification, length=length, during=during)
    else:
        tell_misconfiguration(p, fault.gpa)
        exit_to_host(p, ExitReason.EPT_MISCONFIGURATION, length=length, during=during)


def _becomes_exception(p: "Processor", vmcs: Vmcs, fault: EptViolation, qualification: int) -> bool:
    """Raise #VE where an EPT violation is one: SDM 3C, "Convertible EPT Violations"."""
    assert p.guest is not None
    if not p.guest.has_secondary(Secondary.EPT_VIOLATION_VE) or fault.suppresses_ve:
        return False
    area = vmcs.read(f.VE_INFORMATION_ADDRESS)
    if not p.state.cr0 & _PE or is_busy(p.memory, area):
        return False
    write_information(
        p.memory,
        area,
        qualification=qualification,
        linear=fault.address or 0,
        physical=fault.gpa,
        eptp_index=vmcs.read(f.EPTP_INDEX),
    )
    p.raise_exception(Vector.VE)
    return True


def exit_for_apic_access(p: "Processor", fault: ApicAccess, during: Event | None) -> None:
    """Cause an APIC-access VM exit: SDM 3C, "Exit Qualification for APIC-Access VM Exits"."""
    if fault.is_physical:
        kind = AccessType.PHYSICAL if during is None else AccessType.PHYSICAL_EVENT_DELIVERY
        qualification = kind << 12
    else:
        kind = AccessType(fault.kind) if during is None else AccessType.LINEAR_EVENT_DELIVERY
        qualification = fault.offset | kind << 12
    length = p.instruction_length() if during is None else None
    exit_to_host(p, ExitReason.APIC_ACCESS, qualification, length=length, during=during)


# Saving the guest


def save_guest(p: "Processor", vmcs: Vmcs) -> None:
    """SDM 3C, "Saving Guest State"."""
    state, slots, guest = p.state, vmcs.slots, p.guest
    assert guest is not None
    save_registers(p, vmcs, guest)
    _save_non_register_state(p, vmcs)
    if guest.ept is not None:
        for slot, entry in zip(PDPTE_SLOTS, p.mmu.pdptes, strict=True):
            slots[slot] = entry
    # "VM-entry IA-32e mode guest" follows IA32_EFER.LMA at the exit.
    entry = vmcs.read(f.ENTRY_CONTROLS) & ~(1 << 9)
    vmcs.write(f.ENTRY_CONTROLS, entry | (1 << 9 if state.efer & _LMA else 0))
    # "The valid bit of the VM-entry interruption-information field is cleared."
    vmcs.write(
        f.ENTRY_INTERRUPTION_INFORMATION,
        vmcs.read(f.ENTRY_INTERRUPTION_INFORMATION) & ~_VECTORING_VALID,
    )


def _save_non_register_state(p: "Processor", vmcs: Vmcs) -> None:
    state, guest = p.state, p.guest
    assert guest is not None
    interruptibility = 0
    if state.in_shadow:
        interruptibility |= 1 if p.is_blocked_by_sti() else 2
    if p.nmi_blocked:
        interruptibility |= 8
    vmcs.write(f.GUEST_INTERRUPTIBILITY, interruptibility)
    vmcs.write(f.GUEST_ACTIVITY, p.activity)
    vmcs.write(f.GUEST_PENDING_DEBUG, p.pending.debug)
    p.pending.debug = 0
    if guest.exit & Exit.SAVE_PREEMPTION_TIMER and p.timer_deadline is not None:
        shift = p.profile.misc.preemption_timer_shift
        left = (p.timer_deadline >> shift) - (p.read_tsc() >> shift)
        vmcs.write(f.PREEMPTION_TIMER_VALUE, max(0, left))
    if p.mmu.pml is not None:
        vmcs.write(f.PML_INDEX, p.mmu.pml.index)


# Loading the host


def leave_guest(p: "Processor", vmcs: Vmcs) -> None:
    """Store and load the MSR lists, drop what must go, and load the host state."""
    guest = p.guest
    assert guest is not None
    if not store_msrs(p, vmcs):
        vmx_abort(p, VmxAbort.SAVING_GUEST_MSRS)
        return
    was_nmi = (
        vmcs.read(f.EXIT_REASON) == ExitReason.EXCEPTION_OR_NMI
        and vmcs.read(f.EXIT_INTERRUPTION_INFORMATION) >> 8 & 7 == EventKind.NMI
    )
    p.nmi_blocked = was_nmi or (p.nmi_blocked and not guest.pin & PinBased.VIRTUAL_NMIS)
    enter_host(p, vmcs, guest.exit)


def enter_host(p: "Processor", vmcs: Vmcs, controls: int) -> None:
    """Enter root operation with the host state of ``vmcs`` (also after a failed entry)."""
    guest, p.guest = p.guest, None
    p.timer_deadline = None
    p.mmu.pml = None
    p.activity = Activity.ACTIVE
    p.pending.monitor_trap = p.pending.virtual_interrupt = False
    p.pending.exit = None
    p.attention = True
    if guest is not None and not guest.secondary & Secondary.ENABLE_VPID:
        # "VM exits ... invalidate linear mappings and combined mappings associated with
        # VPID 0000H" unless VPIDs are in use.
        p.tlb.flush_vpid(0, "VM exit")
    p.policy.crossed(p.tlb)
    if p.root is None:
        update_field_access(p)
        load_host(p, vmcs, controls)
        if load_msrs(p, vmcs, f.EXIT_MSR_LOAD_ADDRESS, f.EXIT_MSR_LOAD_COUNT) is not None:
            vmx_abort(p, VmxAbort.LOADING_HOST_MSRS)
            return
    update_intercepts(p)
    sync_mmu(p)


def load_host(p: "Processor", vmcs: Vmcs, controls: int) -> None:
    """SDM 3C, "Loading Host State"."""
    state = p.state
    load_host_registers(p, vmcs, controls)
    if is_pae_paging(state.cr0, state.cr4, state.efer):
        address = state.cr3 & 0xFFFF_FFE0
        entries = tuple(p.memory.load(address + 8 * n, 8) for n in range(4))
        if not are_pdptes_valid(entries, p.maxphyaddr):
            vmx_abort(p, VmxAbort.HOST_PDPTE_CHECK)
            return
        p.mmu.pdptes = entries
