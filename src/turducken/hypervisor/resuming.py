"""How a guest goes on after an exit that L0 has handled.

Past its instruction, with an exception, or with what the exit interrupted: SDM 3C, "Information for
VM Exits That Occur During Event Delivery", "Resuming Guest Software after Handling an Exception".
"""

from typing import TYPE_CHECKING

from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import PinBased, Primary
from turducken.vmx.exit_information import (
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    BLOCKING_BY_STI,
    EPT_QUALIFICATION,
    INTERRUPTION_ERROR_CODE,
    INTERRUPTION_TYPE,
    INTERRUPTION_VALID,
    NMI_UNBLOCKING,
    PENDING_DEBUG,
    EventType,
    interruption,
)
from turducken.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_PE, _LMA, _TF = CR0.mask("PE"), EFER.mask("LMA"), RFLAGS.mask("TF")
_BS = PENDING_DEBUG.mask("BS")
_RCX = 1
_UNBLOCKING = EPT_QUALIFICATION.mask("NMI_UNBLOCKING")
_WITH_UNBLOCKING = (ExitReason.EPT_VIOLATION, ExitReason.PML_FULL)
MONITOR_TRAP = interruption(0, EventType.OTHER_EVENT)
"""What an entry injects for a monitor trap that is pending."""


def skip(vcpu: "Vcpu") -> None:
    """Complete the instruction that caused the exit."""
    slots = vcpu.current.slots
    rip = slots[f.GUEST_RIP.slot] + slots[f.EXIT_INSTRUCTION_LENGTH.slot]
    if not slots[f.GUEST_EFER.slot] & _LMA or not slots[f.GUEST_CS_ACCESS_RIGHTS.slot] & 0x2000:
        rip &= 0xFFFF_FFFF
    slots[f.GUEST_RIP.slot] = rip
    blocking = slots[f.GUEST_INTERRUPTIBILITY.slot]
    if blocking:
        slots[f.GUEST_INTERRUPTIBILITY.slot] = blocking & ~(BLOCKING_BY_STI | BLOCKING_BY_MOV_SS)
    flags = slots[f.GUEST_RFLAGS.slot]
    if flags & _TF:
        slots[f.GUEST_PENDING_DEBUG.slot] |= _BS
    if slots[f.PRIMARY_CONTROLS.slot] & Primary.MONITOR_TRAP_FLAG:
        # L1's trap is behind this instruction, not behind the next one.
        slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] = MONITOR_TRAP


def inject(vcpu: "Vcpu", vector: int, error_code: int | None = None) -> None:
    """Raise a hardware exception in the guest that exited, at the instruction that did.

    L1 gets it where it wants the exceptions of its L2.
    """
    vmcs = vcpu.current
    if vcpu.in_l2 and vmcs.slots[f.EXCEPTION_BITMAP.slot] >> vector & 1:
        _exit_for_exception(vcpu, vector, error_code)
        return
    is_protected = vmcs.read(f.GUEST_CR0) & _PE
    has_code = error_code is not None and bool(is_protected)
    information = interruption(vector, EventType.HARDWARE_EXCEPTION, has_error_code=has_code)
    vmcs.write(f.ENTRY_INTERRUPTION_INFORMATION, information)
    vmcs.write(f.ENTRY_EXCEPTION_ERROR_CODE, error_code or 0)


def _exit_for_exception(vcpu: "Vcpu", vector: int, error_code: int | None) -> None:
    slots = vcpu.current.slots
    slots[f.EXIT_INTERRUPTION_INFORMATION.slot] = interruption(
        vector, EventType.HARDWARE_EXCEPTION, has_error_code=error_code is not None
    )
    slots[f.EXIT_INTERRUPTION_ERROR_CODE.slot] = error_code or 0
    vcpu.count_reflected(ExitReason.EXCEPTION_OR_NMI)
    vcpu.nested.exit_to_l1(ExitReason.EXCEPTION_OR_NMI, 0)


def inject_again(vcpu: "Vcpu") -> None:
    """Let an event go on whose delivery the exit interrupted.

    SDM 3C, "Information for VM Exits That Occur During Event Delivery".
    """
    slots = vcpu.current.slots
    vectoring = slots[f.IDT_VECTORING_INFORMATION.slot]
    if not vectoring & INTERRUPTION_VALID:
        _block_nmis_again(vcpu)
        return
    slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] = vectoring & ~NMI_UNBLOCKING
    if vectoring & INTERRUPTION_ERROR_CODE:
        error_code = slots[f.IDT_VECTORING_ERROR_CODE.slot]
        slots[f.ENTRY_EXCEPTION_ERROR_CODE.slot] = error_code
    slots[f.ENTRY_INSTRUCTION_LENGTH.slot] = slots[f.EXIT_INSTRUCTION_LENGTH.slot]
    is_virtual = slots[f.PIN_BASED_CONTROLS.slot] & PinBased.VIRTUAL_NMIS
    if is_virtual and INTERRUPTION_TYPE.get(vectoring) == EventType.NMI:
        # The entry that injects it must find no blocking of virtual NMIs.
        slots[f.GUEST_INTERRUPTIBILITY.slot] &= ~BLOCKING_BY_NMI


def _block_nmis_again(vcpu: "Vcpu") -> None:
    """An IRET that will be executed again has unblocked NMIs too early.

    SDM 3C, "Resuming Guest Software after Handling an Exception".
    """
    slots = vcpu.current.slots
    reason = slots[f.EXIT_REASON.slot]
    if reason in _WITH_UNBLOCKING and slots[f.EXIT_QUALIFICATION.slot] & _UNBLOCKING:
        slots[f.GUEST_INTERRUPTIBILITY.slot] |= BLOCKING_BY_NMI


def trap_again(vcpu: "Vcpu") -> None:
    """L0's own INIT has come before a monitor trap, which is lost thereby: renew it.

    SDM 3C, "Monitor Trap Flag": INIT signals take priority over MTF VM exits. The guest has
    executed an instruction, or one iteration of it, where RIP or RCX has changed.
    """
    slots = vcpu.current.slots
    if slots[f.PRIMARY_CONTROLS.slot] & Primary.MONITOR_TRAP_FLAG:
        now = slots[f.GUEST_RIP.slot], vcpu.processor.gpr[_RCX]
        if now != vcpu.before_trap:
            slots[f.ENTRY_INTERRUPTION_INFORMATION.slot] = MONITOR_TRAP
