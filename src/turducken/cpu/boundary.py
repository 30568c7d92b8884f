"""What happens between two instructions: signals, interrupts, windows, timers, in their order.

SDM 3A, "Prioritization of Concurrent Events"; SDM 3C, "Other Causes of VM Exits".
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import RFLAGS
from turducken.cpu import virtual_apic, vm_exit
from turducken.cpu.events import Event, EventKind, exception
from turducken.cpu.guest_controls import GuestControls, PinBased, Primary
from turducken.cpu.surroundings import Activity
from turducken.vmx.exit_information import DEBUG_QUALIFICATION
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_IF = RFLAGS.mask("IF")
_DEBUG_CONDITIONS = DEBUG_QUALIFICATION.mask("B", "BS")


def attend(p: "Processor") -> bool:
    """Deliver what is due, one after the other; return whether code can run now."""
    p.at_every_boundary, p.awaited_flags = True, 0
    while True:
        taken = _take_first(p)
        if taken is None:
            _plan(p)
            return p.activity is Activity.ACTIVE
        if not taken or (p.root is not None and p.guest is None):
            return taken


def _take_first(p: "Processor") -> bool | None:
    """Take what has the highest priority of what is due; None where nothing is.

    False: the processor waits for a signal. SDM 3A, "Prioritization of Concurrent Events"; SDM 3C,
    "Other Causes of VM Exits", "VM Exits Induced by the TPR Threshold", "Pending MTF VM Exits".
    """
    pending = p.pending
    if pending.exit is not None and p.activity is not Activity.WAIT_FOR_SIPI:
        (reason, qualification), pending.exit = pending.exit, None
        vm_exit.exit_to_host(p, reason, qualification)
        return True
    if pending.init and not _blocks_init(p):
        return _take_init(p)
    if p.activity is Activity.WAIT_FOR_SIPI:
        return _take_sipi(p)
    if pending.monitor_trap and p.guest is not None:
        pending.monitor_trap = False
        vm_exit.exit_to_host(p, ExitReason.MONITOR_TRAP_FLAG)
        return True
    pending.monitor_trap = False
    blocked = p.state.in_shadow
    if pending.debug and not (blocked and not p.is_blocked_by_sti()):
        payload, pending.debug = pending.debug & _DEBUG_CONDITIONS, 0
        p.raise_event(exception(Vector.DB, payload=payload))
        return True
    if _timer_expired(p):
        vm_exit.exit_to_host(p, ExitReason.PREEMPTION_TIMER)
        return True
    if _attend_nmi(p, blocked=blocked) or _attend_interrupt(p, blocked=blocked):
        return True
    return None


def _timer_expired(p: "Processor") -> bool:
    deadline = p.timer_deadline
    return deadline is not None and p.guest is not None and p.read_tsc() >= deadline


def _plan(p: "Processor") -> None:
    """Say when to look again: at every boundary, where IF is set, at a deadline, or when told.

    What is due now has happened; this is about what the processor's own state holds back.
    """
    p.attention = p.at_every_boundary = False
    if p.activity is not Activity.ACTIVE:
        return
    guest = p.guest
    if p.pending.debug or _waits_for_nmi(p):
        p.attention = p.at_every_boundary = True
        return
    if guest is not None and p.timer_deadline is not None:
        p.attention = True
    window = guest is not None and (
        guest.primary & Primary.INTERRUPT_WINDOW_EXITING or p.pending.virtual_interrupt
    )
    if window or p.apic.pending_vector() is not None:
        p.attention = True
        if p.state.rflags & _IF or p.state.in_shadow:
            p.at_every_boundary = True
        else:
            p.awaited_flags = _IF


def _waits_for_nmi(p: "Processor") -> bool:
    guest = p.guest
    window = guest is not None and guest.primary & Primary.NMI_WINDOW_EXITING
    return bool(window) or (p.pending.nmi and not p.nmi_blocked)


def _blocks_init(p: "Processor") -> bool:
    """SDM 3C, "Other Causes of VM Exits": in root operation INIT waits for VMXOFF or a VM entry."""
    return p.guest is None and p.vmx.in_operation


def _take_init(p: "Processor") -> bool:
    """Reset the processor; in non-root operation, cause a VM exit instead."""
    if p.guest is not None:
        if p.activity is Activity.WAIT_FOR_SIPI:
            p.pending.init = False
            return _take_sipi(p)
        p.pending.init = False
        vm_exit.exit_to_host(p, ExitReason.INIT)
        return True
    p.pending.init = False
    p.activity = Activity.WAIT_FOR_SIPI
    p.reset()
    p.apic.init_reset()
    return _take_sipi(p)


def _take_sipi(p: "Processor") -> bool:
    vector, p.pending.sipi = p.pending.sipi, None
    if vector is None:
        p.attention = False
        return False
    if p.guest is not None:
        vm_exit.exit_to_host(p, ExitReason.SIPI, vector)
        return True
    p.start_at(vector)
    return True


def _attend_nmi(p: "Processor", *, blocked: bool) -> bool:
    guest = p.guest
    if guest is not None and _nmi_window_open(p, guest, blocked=blocked):
        vm_exit.exit_to_host(p, ExitReason.NMI_WINDOW)
        return True
    if not p.pending.nmi or blocked:
        return False
    if guest is not None and guest.pin & PinBased.NMI_EXITING:
        if p.nmi_blocked and not guest.pin & PinBased.VIRTUAL_NMIS:
            return False
        p.pending.nmi = False
        event = Event(EventKind.NMI, Vector.NMI)
        vm_exit.exit_for_event(p, event, None)
        return True
    if p.nmi_blocked or p.activity is Activity.SHUTDOWN:
        return False
    p.pending.nmi = False
    p.nmi_blocked = True  # also for an exit that the delivery may cause
    p.raise_event(Event(EventKind.NMI, Vector.NMI))
    return True


def _nmi_window_open(p: "Processor", guest: GuestControls, *, blocked: bool) -> bool:
    """SDM 3C, "NMI-Window Exiting and Virtual-NMI Delivery": in the shutdown state too."""
    if not guest.primary & Primary.NMI_WINDOW_EXITING:
        return False
    return not (blocked or p.nmi_blocked)


def _attend_interrupt(p: "Processor", *, blocked: bool) -> bool:
    guest = p.guest
    open_window = bool(p.state.rflags & _IF) and not blocked
    if p.activity is Activity.SHUTDOWN:
        return False
    if guest is not None and guest.primary & Primary.INTERRUPT_WINDOW_EXITING and open_window:
        vm_exit.exit_to_host(p, ExitReason.INTERRUPT_WINDOW)
        return True
    if p.pending.virtual_interrupt and open_window:
        virtual_apic.deliver(p)
        return True
    if p.apic.pending_vector() is None:
        return False
    if guest is not None and guest.pin & PinBased.EXTERNAL_INTERRUPT_EXITING:
        if blocked and p.state.rflags & _IF:
            return False
        if guest.pin & PinBased.PROCESS_POSTED_INTERRUPTS:
            virtual_apic.take_interrupt(p)
        else:
            vm_exit.exit_for_interrupt(p)
        return True
    if not open_window:
        return False
    p.activity = Activity.ACTIVE
    vector = p.apic.acknowledge()
    if vector is not None:
        p.raise_event(Event(EventKind.EXTERNAL, vector))
    return True
