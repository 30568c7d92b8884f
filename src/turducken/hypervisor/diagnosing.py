"""What L0 tells of what L1 did wrong, where somebody listens (`Events.on_diagnosis`).

The explanations are those of `turducken.vmx.explain`, over L1's view: its VMCS12, its memory, and
the processor that it is offered.
"""

from typing import TYPE_CHECKING

from turducken.diagnosis import Diagnosis, Kind
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import EntryContext, EntryFailure
from turducken.vmx.exit_information import (
    INTERRUPTION_TYPE,
    INTERRUPTION_VALID,
    EventType,
    VmxAbort,
)
from turducken.vmx.exit_reasons import ExitReason, name_of
from turducken.vmx.explain import (
    Operands,
    failed_instruction,
    forgets_event,
    lost_event,
    misconfigured,
    msr_loading_failed,
    refused_by_gate,
    refused_control_register,
    refused_entry,
    refused_msr,
    vmx_aborted,
)
from turducken.vmx.gates import Gate, Instruction, Mode
from turducken.vmx.instructions import VmResult
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu


def tell_refused(vcpu: "Vcpu", gate: Gate, instruction: Instruction, mode: Mode) -> None:
    """A VMX instruction of L1 raises #UD or #GP because of mode or privilege."""
    if vcpu.events.on_diagnosis is not None:
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("gate", instruction.name, gate.id),
            lambda: refused_by_gate(gate, instruction, mode, vcpu.capabilities12),
        )


def tell_refused_control_register(vcpu: "Vcpu", number: int, value: int) -> None:
    """MOV to CR0 or CR4 of L1 raises #GP because of its VMX operation's fixed bits."""
    if vcpu.events.on_diagnosis is not None and vcpu.unit.in_operation:
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("mov-to-cr", number, value),
            lambda: refused_control_register(
                number, value, vcpu.capabilities12, unrestricted=False
            ),
        )


def tell_failed(
    vcpu: "Vcpu", instruction: Instruction, operands: Operands, result: VmResult
) -> None:
    """A VMX instruction of L1 (or of L2, on a shadow VMCS) has ended; perhaps it failed."""
    if vcpu.events.on_diagnosis is not None and result.status is not VmStatus.SUCCEED:
        vcpu.events.on_diagnosis(
            vcpu.index,
            (instruction.name, result, operands),
            lambda: failed_instruction(vcpu.unit, instruction, operands, result),
        )


def _context12(vcpu: "Vcpu", vmcs12: Vmcs, *, is_ia32e_mode: bool) -> EntryContext:
    return EntryContext(
        vmcs12,
        vcpu.capabilities12,
        vcpu.memory,
        is_ia32e_mode=is_ia32e_mode,
        pointer=vcpu.unit.pointer,
    )


def _operation(*, is_launch: bool) -> str:
    return "VMLAUNCH" if is_launch else "VMRESUME"


def tell_refused_entry(
    vcpu: "Vcpu", vmcs12: Vmcs, failure: EntryFailure, *, is_launch: bool, is_ia32e_mode: bool
) -> None:
    """VMCS12 breaks a rule of VM entry."""
    if vcpu.events.on_diagnosis is not None:
        name = _operation(is_launch=is_launch)
        context = _context12(vcpu, vmcs12, is_ia32e_mode=is_ia32e_mode)
        vcpu.events.on_diagnosis(
            vcpu.index,
            (f"{name} {failure.rule.id}",),
            lambda: refused_entry(context, failure, operation=name),
        )


def tell_msr_loading(
    vcpu: "Vcpu", vmcs12: Vmcs, number: int, *, limit: int, is_launch: bool
) -> None:
    """An MSR of VMCS12's list cannot be loaded: entry ``number``."""
    if vcpu.events.on_diagnosis is not None:
        name = _operation(is_launch=is_launch)
        context = _context12(vcpu, vmcs12, is_ia32e_mode=True)
        vcpu.events.on_diagnosis(
            vcpu.index,
            (name, "msr", number),
            lambda: msr_loading_failed(context, number, limit=limit, operation=name),
        )


def tell_failed_entry(
    vcpu: "Vcpu", vmcs12: Vmcs, reason: int, qualification: int, *, limit: int, is_launch: bool
) -> None:
    """The processor has refused what L0 made of VMCS12."""
    if reason == ExitReason.ENTRY_FAILURE_MSR_LOADING:
        tell_msr_loading(vcpu, vmcs12, qualification, limit=limit, is_launch=is_launch)
    elif vcpu.events.on_diagnosis is not None:
        name = _operation(is_launch=is_launch)
        outcome = f"{name_of(reason)}, qualification {qualification}"
        vcpu.events.on_diagnosis(
            vcpu.index, (name, reason), lambda: Diagnosis(Kind.ENTRY_FAILURE, name, outcome)
        )


# VM exits


def tell_misconfiguration(vcpu: "Vcpu", gpa2: int) -> None:
    """EPT12 is misconfigured on the way of an access of L2's."""
    context = vcpu.nested.current
    root12 = context.root12 if context is not None else None
    if vcpu.events.on_diagnosis is not None and root12 is not None:
        fmt, eptp12 = root12.view.format, root12.eptp
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("ept-misconfiguration", gpa2 >> 12),
            lambda: misconfigured(fmt, vcpu.memory, eptp12, gpa2, table="EPT12"),
        )


def tell_msr(vcpu: "Vcpu", index: int, value: int | None) -> None:
    """RDMSR (``value`` is None) or WRMSR of the guest that exited raises #GP."""
    if vcpu.events.on_diagnosis is not None:
        exists = vcpu.read_msr(index) is not None
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("msr", index, value is None),
            lambda: refused_msr(index, value, exists=exists),
        )


def tell_abort(vcpu: "Vcpu", vmcs12: Vmcs, indicator: VmxAbort) -> None:
    """A VM exit of L2 cannot be completed."""
    if vcpu.events.on_diagnosis is not None:
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("vmx-abort", int(indicator)),
            lambda: vmx_aborted(
                vmcs12,
                vcpu.memory,
                indicator,
                is_storable=lambda one: vcpu.read_msr(one) is not None,
            ),
        )


def note_interrupted(vcpu: "Vcpu", vmcs12: Vmcs, reason: int) -> None:
    """L1 gets a VM exit: remember the event whose delivery it interrupted, if there is one."""
    information = vmcs12.slots[f.IDT_VECTORING_INFORMATION.slot]
    if information & INTERRUPTION_VALID and INTERRUPTION_TYPE.get(information) in _UNREPEATED:
        vcpu.interrupted = vcpu.unit.pointer, information, reason


_UNREPEATED = frozenset({EventType.EXTERNAL_INTERRUPT, EventType.NMI})
"""Events that do not come up again by themselves."""


def tell_lost_event(vcpu: "Vcpu", vmcs12: Vmcs) -> None:
    """The VM entry after an exit that interrupted a delivery: perhaps L1 forgets the event."""
    assert vcpu.interrupted is not None
    pointer, information, reason = vcpu.interrupted
    if pointer != vcpu.unit.pointer:
        return
    vcpu.interrupted = None
    if vcpu.events.on_diagnosis is not None and forgets_event(vmcs12):
        vcpu.events.on_diagnosis(
            vcpu.index,
            ("lost-event", information),
            lambda: lost_event(vmcs12, information, reason),
        )
