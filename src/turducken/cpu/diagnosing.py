"""What a processor tells of failures, where somebody listens (`Processor.on_diagnosis`).

L0's own VMX instructions and VM entries are not told of here: whoever runs in root operation in
Python has its own view of what its guest did wrong.
"""

from typing import TYPE_CHECKING

from turducken.vmx.checks import EntryContext, EntryFailure
from turducken.vmx.explain import (
    Operands,
    failed_instruction,
    msr_loading_failed,
    refused_by_gate,
    refused_entry,
    refused_vmfunc,
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
