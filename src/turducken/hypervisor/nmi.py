"""NMIs, where L0 uses them between processors.

With one processor NMIs go straight to the guest, and this module does nothing. With several, an NMI
is how L0 makes another processor leave its guest; every NMI then exits, and those that were not
L0's own are given to L1, as late as L1's processor would take them.
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import PinBased, Primary
from turducken.vmx.exit_information import (
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    BLOCKING_BY_STI,
    EPT_QUALIFICATION,
    INTERRUPTION_TYPE,
    INTERRUPTION_VALID,
    EventType,
    interruption,
)
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_BLOCKED = BLOCKING_BY_NMI | BLOCKING_BY_MOV_SS | BLOCKING_BY_STI
_NMI = interruption(Vector.NMI, EventType.NMI)
_UNBLOCKING = EPT_QUALIFICATION.mask("NMI_UNBLOCKING")
_WITH_UNBLOCKING = (ExitReason.EPT_VIOLATION, ExitReason.PML_FULL)


class NmiRelay:
    """One processor's NMIs."""

    def __init__(self, vcpu: "Vcpu") -> None:
        self._vcpu = vcpu
        self.is_kicked = False
        """L0 has sent this processor an NMI that has not arrived yet."""
        self.is_pending = False
        """An NMI for L1 waits."""
        self._window = False

    def arrived(self) -> None:
        """An NMI caused an exit, or came while L0 ran: tell L0's own from L1's."""
        if self.is_kicked:
            self.is_kicked = False
        else:
            self.is_pending = True

    def before_entry(self) -> None:
        """Take an NMI that came while L0 ran, and give L1 one that waits."""
        if self._vcpu.processor.take_nmi():
            self.arrived()
        if self._vcpu.app_guest is not None:
            return  # L1's waits until L1 or L2 goes on
        if self.is_pending or self._window:
            self._place()

    def injected_again(self, vectoring: int) -> None:
        """An NMI whose delivery was interrupted is injected again: it finds no blocking."""
        if INTERRUPTION_TYPE.get(vectoring) == EventType.NMI:
            self._vcpu.current.slots[f.GUEST_INTERRUPTIBILITY.slot] &= ~BLOCKING_BY_NMI

    def block_again(self) -> None:
        """An IRET that will be executed again has unblocked NMIs too early.

        SDM 3C, "Resuming Guest Software after Handling an Exception".
        """
        slots = self._vcpu.current.slots
        reason = slots[f.EXIT_REASON.slot]
        if reason in _WITH_UNBLOCKING and slots[f.EXIT_QUALIFICATION.slot] & _UNBLOCKING:
            slots[f.GUEST_INTERRUPTIBILITY.slot] |= BLOCKING_BY_NMI

    def _place(self) -> None:
        vcpu = self._vcpu
        slots = vcpu.current.slots
        blocking = slots[f.GUEST_INTERRUPTIBILITY.slot]
        injecting = slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] & INTERRUPTION_VALID
        is_open = not injecting and not blocking & _BLOCKED
        if self.is_pending and is_open:
            self.is_pending = False
            if vcpu.in_l2 and self._l1_takes_nmis():
                self._exit_to_l1()
                slots = vcpu.current.slots
            else:
                slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] = _NMI
        self._set_window(wanted=self.is_pending)

    def _l1_takes_nmis(self) -> bool:
        context = self._vcpu.nested.current
        assert context is not None
        return bool(context.controls.pin & PinBased.NMI_EXITING)

    def _exit_to_l1(self) -> None:
        vcpu = self._vcpu
        slots = vcpu.current.slots
        slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = _NMI
        slots[f.IDT_VECTORING_INFORMATION.slot] = 0
        vcpu.count_reflected(ExitReason.EXCEPTION_OR_NMI)
        vcpu.nested.exit_to_l1(ExitReason.EXCEPTION_OR_NMI, 0)

    def _set_window(self, *, wanted: bool) -> None:
        """Ask for an exit when NMIs are no longer blocked, or stop asking."""
        vcpu = self._vcpu
        slots = vcpu.current.slots
        primary = slots[f.PRIMARY_CONTROLS.slot]
        if wanted:
            slots[f.PRIMARY_CONTROLS.slot] = primary | Primary.NMI_WINDOW_EXITING
        elif not self.l1_wants_window():
            slots[f.PRIMARY_CONTROLS.slot] = primary & ~Primary.NMI_WINDOW_EXITING
        self._window = wanted

    def l1_wants_window(self) -> bool:
        """Tell whether L1 itself asked for NMI-window exits of the L2 that runs."""
        vcpu = self._vcpu
        if not vcpu.in_l2:
            return False
        context = vcpu.nested.current
        assert context is not None
        return context.controls.has_primary(Primary.NMI_WINDOW_EXITING)
