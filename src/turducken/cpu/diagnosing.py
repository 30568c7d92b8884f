"""What a processor tells of failures, where somebody listens (`Processor.on_diagnosis`).

L0's own VMX instructions and VM entries are not told of here: whoever runs in root operation in
Python has its own view of what its guest did wrong.
"""

from typing import TYPE_CHECKING

from turducken.cpu.events import Event
from turducken.cpu.guest_controls import Secondary
from turducken.cpu.triple_fault import Chain, event_name, explain_triple_fault
from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading
from turducken.vmx.checks import EntryContext, EntryFailure
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
    refused_vmfunc,
    vmx_aborted,
)
from turducken.vmx.gates import Gate, Instruction, Mode
from turducken.vmx.instructions import VmResult
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor


def tell_refused(p: "Processor", gate: Gate, instruction: Instruction, mode: Mode) -> None:
    """A VMX instruction raises #UD or #GP because of mode or privilege."""
    if p.on_diagnosis is not None:
        key = ("gate", instruction.name, gate.id)
        p.on_diagnosis(key, lambda: refused_by_gate(gate, instruction, mode, p.capabilities))


def tell_refused_control_register(p: "Processor", number: int, value: int) -> None:
    """MOV to CR0 or CR4 raises #GP because of VMX operation's fixed bits."""
    if p.on_diagnosis is not None:
        guest = p.guest
        free = guest is not None and guest.has_secondary(Secondary.UNRESTRICTED_GUEST)
        p.on_diagnosis(
            ("mov-to-cr", number, value),
            lambda: refused_control_register(number, value, p.capabilities, unrestricted=free),
        )


def tell_refused_vmfunc(p: "Processor", function: int) -> None:
    """VMFUNC raises #UD because of the VMCS."""
    if p.on_diagnosis is not None:
        p.on_diagnosis(("VMFUNC", function), lambda: refused_vmfunc(p.vmx, function))


def tell_failed(
    p: "Processor", instruction: Instruction, operands: Operands, result: VmResult
) -> None:
    """A VMX instruction has ended with ``result``, which may be a failure."""
    if p.on_diagnosis is not None and result.status is not VmStatus.SUCCEED:
        key = (instruction.name, result, operands)
        p.on_diagnosis(key, lambda: failed_instruction(p.vmx, instruction, operands, result))


def tell_refused_entry(
    p: "Processor", vmcs: Vmcs, failure: EntryFailure, *, is_launch: bool, is_ia32e_mode: bool
) -> None:
    """A VM entry has broken a rule."""
    if p.on_diagnosis is not None and p.root is None:
        name = "VMLAUNCH" if is_launch else "VMRESUME"
        context = EntryContext(vmcs, p.capabilities, p.memory, is_ia32e_mode=is_ia32e_mode)
        p.on_diagnosis(
            (f"{name} {failure.rule.id}",), lambda: refused_entry(context, failure, operation=name)
        )


def tell_msr_loading(p: "Processor", vmcs: Vmcs, number: int, *, is_launch: bool) -> None:
    """A VM entry could not load entry ``number`` of its MSR list."""
    if p.on_diagnosis is not None and p.root is None:
        name = "VMLAUNCH" if is_launch else "VMRESUME"
        context = EntryContext(vmcs, p.capabilities, p.memory, is_ia32e_mode=True)
        limit = p.profile.misc.msr_list_limit
        p.on_diagnosis(
            (name, "msr", number),
            lambda: msr_loading_failed(context, number, limit=limit, operation=name),
        )


# Event delivery


def tell_triple_fault(p: "Processor", chain: Chain) -> None:
    """Deliveries have failed one after the other, the last of them that of #DF."""
    if p.on_diagnosis is not None and chain:
        vectors = tuple(event.vector for event, _ in chain)
        p.on_diagnosis(
            ("triple-fault", vectors), lambda: explain_triple_fault(p.state, p.linear, chain)
        )


def tell_repeated_exception(p: "Processor", event: Event, count: int) -> None:
    """The same exception has come up ``count`` times at the same instruction."""
    if p.on_diagnosis is not None:
        name = event_name(event)
        note = f"{count:,} times in a row, with the same registers RSP and RIP"
        rule = BrokenRule(
            "progress.exception",
            "the handler of a fault must remove its cause, or go on elsewhere",
            _EXCEPTIONS,
            (Reading("RIP", p.state.rip, 16), Reading("RSP", p.state.gpr[4], 16)),
            "a handler that changes what the instruction met, or the return address in its frame",
        )
        p.on_diagnosis(
            ("exception", event.vector),
            lambda: Diagnosis(Kind.NO_PROGRESS, name, "again and again", (rule,), (note,)),
        )


_EXCEPTIONS = 'SDM 3A, "Program or Task Restart"'


def tell_lost_event(p: "Processor", vmcs: Vmcs) -> None:
    """The VM entry after an exit that interrupted a delivery: perhaps it forgets the event."""
    assert p.interrupted is not None
    region, information, reason = p.interrupted
    if region != vmcs.region:
        return
    p.interrupted = None
    if p.on_diagnosis is not None and forgets_event(vmcs):
        p.on_diagnosis(("lost-event", information), lambda: lost_event(vmcs, information, reason))


# Memory


def tell_misconfiguration(p: "Processor", gpa: int) -> None:
    """An EPT entry is malformed (the processor's own view of the EPT in force)."""
    guest = p.guest
    if (
        p.on_diagnosis is not None
        and p.root is None
        and guest is not None
        and guest.ept is not None
    ):
        fmt, root = guest.ept.format, guest.ept.ep4ta
        p.on_diagnosis(
            ("ept-misconfiguration", gpa >> 12),
            lambda: misconfigured(fmt, p.memory, root, gpa, table="EPT"),
        )


# MSRs


def tell_msr(p: "Processor", index: int, value: int | None) -> None:
    """RDMSR (``value`` is None) or WRMSR raises #GP."""
    if p.on_diagnosis is not None:
        exists = p.msrs.read(index) is not None
        p.on_diagnosis(
            ("msr", index, value is None), lambda: refused_msr(index, value, exists=exists)
        )


def tell_abort(p: "Processor", vmcs: Vmcs, indicator: int) -> None:
    """A VM exit cannot be completed."""
    if p.on_diagnosis is not None:
        p.on_diagnosis(
            ("vmx-abort", indicator),
            lambda: vmx_aborted(
                vmcs, p.memory, indicator, is_storable=lambda one: p.msrs.read(one) is not None
            ),
        )
