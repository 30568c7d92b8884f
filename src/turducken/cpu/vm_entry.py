"""VM entries: checks, loading the guest, event injection. SDM 3C, chapter "VM Entries"."""

from typing import TYPE_CHECKING

from turducken.arch.registers import CR0, EFER
from turducken.cpu import virtual_apic, vm_exit
from turducken.cpu.control_registers import is_pae_paging, sync_mmu
from turducken.cpu.diagnosing import (
    tell_failed,
    tell_lost_event,
    tell_msr_loading,
    tell_refused_entry,
)
from turducken.cpu.engine.state import MSR_WORDS
from turducken.cpu.events import Event, EventKind
from turducken.cpu.guest_controls import GuestControls, PinBased, Primary, Secondary
from turducken.cpu.guest_image import load_registers
from turducken.cpu.msr_lists import load_msrs
from turducken.cpu.surroundings import Activity
from turducken.cpu.vmx_operations import controls_of, update_field_access, update_intercepts
from turducken.mmu.mmu import PageModificationLog
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import PENDING_DEBUG
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason
from turducken.vmx.explain import Operands
from turducken.vmx.gates import Instruction
from turducken.vmx.instructions import VmResult
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PG = CR0.mask("PG")
_CR0_KEPT = ~CR0.mask("PE", "MP", "EM", "TS", "NE", "WP", "AM", "PG") & 0xFFFF_FFFF
_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))
_VALID, _HAS_ERROR = 1 << 31, 1 << 11
_BLOCKING_STI, _BLOCKING_MOV_SS, _BLOCKING_NMI = 1, 2, 8
_VALID_DEBUG = PENDING_DEBUG.mask("BS", "ENABLED")
"""There are pending debug exceptions only where one of these bits is 1."""
_INSTRUCTIONS = (Instruction.VMRESUME, Instruction.VMLAUNCH)
_KEEPING_DEBUG = frozenset({EventKind.SOFTWARE_INTERRUPT, EventKind.SOFTWARE_EXCEPTION})


def enter(p: "Processor", *, is_launch: bool) -> VmResult | None:
    """VMLAUNCH or VMRESUME: return how it failed, or None when an entry or its VM exit followed."""
    mov_ss = p.root is None and p.state.in_shadow and not p.is_blocked_by_sti()
    refused = p.vmx.entry_precondition(is_launch=is_launch, is_blocked_by_mov_ss=mov_ss)
    if refused is not None:
        if p.root is None:
            tell_failed(p, _INSTRUCTIONS[is_launch], Operands(), refused)
        return refused
    vmcs = vm_exit.current_vmcs(p)
    is_ia32e = p.root is not None or bool(p.state.efer & _LMA)
    failure = p.entry_checker.check(vmcs, p.memory, is_ia32e_mode=is_ia32e)
    if failure is not None:
        tell_refused_entry(p, vmcs, failure, is_launch=is_launch, is_ia32e_mode=is_ia32e)
        if failure.error is not None:
            return p.vmx.fail(failure.error)
        fail(p, vmcs, ExitReason.ENTRY_FAILURE_GUEST_STATE, failure.qualification)
        return None
    if p.interrupted is not None:
        tell_lost_event(p, vmcs)
    guest, were_nmis_blocked = controls_of(p, vmcs), p.nmi_blocked
    load_guest(p, vmcs, guest)
    p.guest = guest
    if not guest.secondary & Secondary.ENABLE_VPID:
        p.tlb.flush_vpid(0, "VM entry")
    p.policy.crossed(p.tlb)
    wrong = load_msrs(p, vmcs, f.ENTRY_MSR_LOAD_ADDRESS, f.ENTRY_MSR_LOAD_COUNT)
    if wrong is not None:
        tell_msr_loading(p, vmcs, wrong, is_launch=is_launch)
        # "The state of blocking by NMI is what it was before VM entry."
        p.nmi_blocked, p.pending.debug = were_nmis_blocked, 0
        fail(p, vmcs, ExitReason.ENTRY_FAILURE_MSR_LOADING, wrong)
        return None
    if is_launch:
        p.vmx.set_launched()
    _start_timer(p, vmcs, guest)
    if guest.pml_address:
        p.mmu.pml = PageModificationLog(guest.pml_address, vmcs.read(f.PML_INDEX))
    update_intercepts(p)
    update_field_access(p)
    sync_mmu(p)
    p.attention = True
    if p.on_event is not None:
        p.on_event("vm-entry", p, (vmcs.region,))
    virtual_apic.entered(p)
    _inject(p, vmcs)
    return None


def fail(p: "Processor", vmcs: Vmcs, reason: int, qualification: int) -> None:
    """Exit because of an entry: SDM 3C, "VM-Entry Failures During or After Loading Guest State"."""
    vmcs.write(f.EXIT_REASON, reason | ENTRY_FAILURE)
    vmcs.write(f.EXIT_QUALIFICATION, qualification)
    count = p.statistics.exits
    count[reason] = count.get(reason, 0) + 1
    if p.on_event is not None:
        p.on_event("vm-exit", p, (reason | ENTRY_FAILURE, qualification))
    vm_exit.enter_host(p, vmcs, vmcs.read(f.EXIT_CONTROLS))


def load_guest(p: "Processor", vmcs: Vmcs, guest: GuestControls) -> None:
    """SDM 3C, "Loading Guest State"."""
    load_registers(p, vmcs, guest)
    _load_non_register_state(p, vmcs)
    state = p.state
    if is_pae_paging(state.cr0, state.cr4, state.efer):
        if guest.ept is not None:
            p.mmu.pdptes = tuple(vmcs.slots[one] for one in vm_exit.PDPTE_SLOTS)
        else:
            address = state.cr3 & 0xFFFF_FFE0
            p.mmu.pdptes = tuple(p.memory.load(address + 8 * n, 8) for n in range(4))


def _load_non_register_state(p: "Processor", vmcs: Vmcs) -> None:
    blocking = vmcs.read(f.GUEST_INTERRUPTIBILITY)
    p.state.in_shadow = bool(blocking & _BLOCKING_STI)
    p.stack_shadow = None
    if blocking & _BLOCKING_MOV_SS:
        p.block_by_mov_ss()
    p.nmi_blocked = bool(blocking & _BLOCKING_NMI)
    p.activity = Activity(vmcs.read(f.GUEST_ACTIVITY))
    if p.activity is not Activity.WAIT_FOR_SIPI:
        p.pending.sipi = None  # lost: it came with an INIT that did not lead to waiting for it
    pending = vmcs.read(f.GUEST_PENDING_DEBUG)
    p.pending.debug = pending if pending & _VALID_DEBUG else 0
    p.pending.monitor_trap = False


def _start_timer(p: "Processor", vmcs: Vmcs, guest: GuestControls) -> None:
    p.timer_deadline = None
    if guest.pin & PinBased.ACTIVATE_PREEMPTION_TIMER:
        value = vmcs.read(f.PREEMPTION_TIMER_VALUE)
        shift = p.capabilities.preemption_timer_shift
        # The timer counts down when bit X of the TSC changes.
        p.timer_deadline = ((p.read_tsc() >> shift) + value) << shift


def _inject(p: "Processor", vmcs: Vmcs) -> None:
    """SDM 3C, "Event Injection"."""
    information = vmcs.read(f.ENTRY_INTERRUPTION_INFORMATION)
    if not information & _VALID:
        if p.activity in (Activity.SHUTDOWN, Activity.WAIT_FOR_SIPI):
            p.pending.debug = 0
        return
    kind = EventKind(information >> 8 & 7)
    if kind is EventKind.OTHER:
        p.pending.monitor_trap = True
        return
    error = None
    if information & _HAS_ERROR:
        error = vmcs.read(f.ENTRY_EXCEPTION_ERROR_CODE)
    length = vmcs.read(f.ENTRY_INSTRUCTION_LENGTH)
    event = Event(kind, information & 0xFF, error, length, is_injected=True)
    if p.on_event is not None:
        p.on_event("injected", p, (event,))
    # SDM 3C, "Delivery of Pending Debug Exceptions after VM Entry".
    is_behind_mov_ss = vmcs.read(f.GUEST_INTERRUPTIBILITY) & _BLOCKING_MOV_SS
    if kind not in _KEEPING_DEBUG or not is_behind_mov_ss:
        p.pending.debug = 0
    # "blocking by STI and by MOV SS" ends with the injection. An NMI blocks virtual NMIs, before an
    # exit that its delivery may cause; others are blocked where the interruptibility state says so.
    p.state.in_shadow = False
    if kind is EventKind.NMI and p.guest is not None and p.guest.pin & PinBased.VIRTUAL_NMIS:
        p.nmi_blocked = True
    p.activity = Activity.ACTIVE
    p.raise_event(event)
    guest = p.guest
    if guest is not None and guest.primary & Primary.MONITOR_TRAP_FLAG:
        # SDM 3C, "Monitor Trap Flag": "pending on the instruction boundary before the first
        # instruction following the VM entry".
        p.pending.monitor_trap = p.attention = True
