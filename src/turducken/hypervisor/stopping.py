"""What ends one of L1's processors for good, as data, and L0's own mistakes told as such.

An entry of L0's own that the processor refuses, and an exit that L0 did not ask for, are mistakes
of L0's that L1 cannot get an answer to. They end L1's processor, as a machine check would, and say
why.
"""

from typing import TYPE_CHECKING

from turducken.hypervisor.events import Guest, L1Stopped, StopKind
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.entry import EntryFailure, check_entry
from turducken.vmx.checks.rules import EntryContext
from turducken.vmx.exit_reasons import name_of
from turducken.vmx.instruction_errors import InstructionError
from turducken.vmx.interface import VmStatus

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_VMCS_NAMES: dict[Guest, str] = {"L1": "VMCS01", "L2": "VMCS02", "app": "an application's VMCS"}


def triple_fault(vcpu: "Vcpu") -> L1Stopped:
    """L1's processor shuts down."""
    return _stop(vcpu, StopKind.TRIPLE_FAULT, "triple fault")


def vmx_abort(vcpu: "Vcpu", why: str) -> L1Stopped:
    """A VM exit to L1 fails: SDM 3C, "VMX Aborts"."""
    return _stop(vcpu, StopKind.VMX_ABORT, f"VMX abort: {why}")


def unexpected_exit(vcpu: "Vcpu", what: str = "") -> L1Stopped:
    """A VM exit that L0's controls do not ask for. ``what`` is known about it beyond its name."""
    read = vcpu.current.read
    reason, qualification = read(f.EXIT_REASON), read(f.EXIT_QUALIFICATION)
    why = (
        f"L0 did not expect this VM exit of {guest_of(vcpu)}: {name_of(reason)}"
        f" (exit reason {reason:#x}, qualification {qualification:#x})"
    )
    return _stop(vcpu, StopKind.UNEXPECTED_EXIT, f"{why}: {what}" if what else why)


def refused_entry(vcpu: "Vcpu", status: VmStatus = VmStatus.SUCCEED) -> L1Stopped:
    """The processor refuses a VM entry of L0's own: with ``status``, or by a VM exit."""
    guest = guest_of(vcpu)
    broken = broken_rule(vcpu)
    why = f"VM entry with {_VMCS_NAMES[guest]} was refused: {_meaning(vcpu, status)}"
    if broken is not None:
        why += f": {broken}"
    rule = broken.rule.id if broken is not None else None
    return _stop(vcpu, StopKind.ENTRY_REFUSED, why, rule)


def broken_rule(vcpu: "Vcpu") -> EntryFailure | None:
    """Return the check of VM entry that the current VMCS does not pass, if there is one."""
    memory = vcpu.system.memory
    context = EntryContext(vcpu.current, vcpu.capabilities, memory, is_ia32e_mode=True)
    return check_entry(context)


def guest_of(vcpu: "Vcpu") -> Guest:
    """Return whose VMCS is current."""
    if vcpu.app_guest is not None:
        return "app"
    return "L2" if vcpu.in_l2 else "L1"


def _meaning(vcpu: "Vcpu", status: VmStatus) -> str:
    read = vcpu.current.read
    if status is VmStatus.SUCCEED:
        reason, qualification = read(f.EXIT_REASON), read(f.EXIT_QUALIFICATION)
        name = name_of(reason).removeprefix("VM-entry failure: ")
        return f"{name} (exit reason {reason:#x}, qualification {qualification:#x})"
    if status is VmStatus.FAIL_INVALID:
        return "there is no current VMCS"
    error = read(f.VM_INSTRUCTION_ERROR)
    known = error in InstructionError._value2member_map_
    return f"{InstructionError(error).meaning if known else 'unknown'} (error {error})"


def _stop(vcpu: "Vcpu", kind: StopKind, why: str, rule: str | None = None) -> L1Stopped:
    read = vcpu.current.read
    return L1Stopped(
        vcpu.index,
        why,
        kind,
        guest_of(vcpu),
        read(f.EXIT_REASON),
        read(f.EXIT_QUALIFICATION),
        read(f.GUEST_RIP),
        rule,
    )
