"""The VMX instructions: gates, operands, and the semantics of `turducken.vmx.instructions`.

SDM 3C, "VMX Instruction Reference".
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.cpu import vm_entry, vm_exit
from turducken.cpu.decoder import (
    Code,
    Instruction,
    OpKind,
    effective_address,
    read_register,
    write_register,
)
from turducken.cpu.diagnosing import tell_failed, tell_refused, tell_refused_vmfunc
from turducken.cpu.intercepts.operands import (
    displacement,
    field_access_information,
    instruction_information,
)
from turducken.cpu.operands import read_operand, write_operand
from turducken.cpu.vmx_operations import (
    invalidate_ept,
    invalidate_vpid,
    switch_ept,
    update_field_access,
)
from turducken.vmx import vmcs_fields as f
from turducken.vmx.explain import Operands
from turducken.vmx.gates import Instruction as Vmx
from turducken.vmx.gates import Mode, Outcome, find_gate
from turducken.vmx.instructions import VmResult
from turducken.vmx.interface import VmStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_ARITHMETIC = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")
_PE, _LMA, _VM = CR0.mask("PE"), EFER.mask("LMA"), RFLAGS.mask("VM")
_CF, _ZF = RFLAGS.mask("CF"), RFLAGS.mask("ZF")
_FLAG = {VmStatus.SUCCEED: 0, VmStatus.FAIL_INVALID: _CF, VmStatus.FAIL_VALID: _ZF}


def mode_of(p: "Processor") -> Mode:
    """Return what the gates look at."""
    state = p.state
    return Mode(
        cr0=state.cr0,
        cr4=state.cr4,
        rflags=state.rflags,
        efer=state.efer,
        cpl=state.cpl,
        is_cs_long=state.is_64bit,
        in_operation=p.vmx.in_operation,
        in_guest=p.guest is not None,
        feature_control=p.msrs.feature_control,
    )


def _passes(p: "Processor", vmx: Vmx, instruction: Instruction) -> bool:
    """Apply the gates; return whether the instruction is to be executed."""
    if (
        p.guest is None
        and p.vmx.in_operation
        and p.state.cpl == 0
        and p.state.is_64bit
        and vmx in p.vmx.ungated
    ):
        return True
    mode = mode_of(p)
    gate = find_gate(vmx, mode, p.capabilities)
    if gate is None:
        return True
    if gate.outcome is Outcome.EXIT:
        _exit(p, vmx, instruction)
        return False
    tell_refused(p, gate, vmx, mode)
    return _refuse(p, gate.outcome)


def _refuse(p: "Processor", outcome: Outcome) -> bool:
    if outcome is Outcome.UD:
        p.raise_exception(Vector.UD)
    else:
        p.general_protection()
    return False


def _exit(p: "Processor", vmx: Vmx, instruction: Instruction) -> None:
    """Cause the VM exit that the instruction is in non-root operation."""
    qualification = 0
    if vmx in (Vmx.VMREAD, Vmx.VMWRITE):
        data = 0 if vmx is Vmx.VMREAD else 1
        information = field_access_information(
            instruction, p.state, data_operand=data, encoding=instruction.op_register(1 - data)
        )
        is_memory = instruction.op_kind(data) == OpKind.MEMORY
    else:
        is_memory = OpKind.MEMORY in (instruction.op0_kind, instruction.op1_kind)
        second = instruction.op0_register if instruction.op_count == 2 else 0
        information = (
            instruction_information(instruction, p.state, second=second) if is_memory else 0
        )
    if is_memory:
        qualification = displacement(instruction, p.state.rip)
    if instruction.op_count:
        vm_exit.current_vmcs(p).write(f.EXIT_INSTRUCTION_INFORMATION, information)
    vm_exit.exit_to_host(p, vmx.exit_reason, qualification, length=instruction.len)


def finish(p: "Processor", result: VmResult, length: int) -> None:
    """Set the flags that report ``result`` and complete the instruction."""
    p.state.rflags = p.state.rflags & ~_ARITHMETIC | _FLAG[result.status]
    p.advance(length)


def _read_memory(p: "Processor", instruction: Instruction, size: int) -> bytes | None:
    operand = effective_address(p.state, instruction, p.state.rip)
    value = read_operand(p, operand, size)
    return None if value is None else value.to_bytes(size, "little")


def _pointer(p: "Processor", instruction: Instruction) -> int | None:
    raw = _read_memory(p, instruction, 8)
    return None if raw is None else int.from_bytes(raw, "little")


def _with_pointer(vmx: Vmx) -> "Callable[[Processor, Instruction], None]":
    """Return the operation of VMXON, VMCLEAR or VMPTRLD."""

    def operation(p: "Processor", instruction: Instruction) -> None:
        if not _passes(p, vmx, instruction):
            return
        if vmx is Vmx.VMXON and p.vmx.in_operation:
            # VMXON in root operation fails without looking at its operand.
            result = p.vmx.vmxon(0)
            tell_failed(p, vmx, Operands(), result)
            finish(p, result, instruction.len)
            return
        pointer = _pointer(p, instruction)
        if pointer is None:
            return
        execute = {
            Vmx.VMXON: p.vmx.vmxon,
            Vmx.VMCLEAR: p.vmx.vmclear,
            Vmx.VMPTRLD: p.vmx.vmptrld,
        }[vmx]
        result = execute(pointer)
        tell_failed(p, vmx, Operands(pointer, was_in_operation=vmx is not Vmx.VMXON), result)
        finish(p, result, instruction.len)
        update_field_access(p)

    return operation


def _vmptrst(p: "Processor", instruction: Instruction) -> None:
    if not _passes(p, Vmx.VMPTRST, instruction):
        return
    if _store(p, instruction, p.vmx.vmptrst(), 8):
        finish(p, VmResult(VmStatus.SUCCEED, 0), instruction.len)


def _store(p: "Processor", instruction: Instruction, value: int, size: int) -> bool:
    return write_operand(p, effective_address(p.state, instruction, p.state.rip), size, value)


def _vmxoff(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.VMXOFF, instruction):
        result = p.vmx.vmxoff()
        update_field_access(p)
        p.attention = True  # an INIT that was blocked is not any more
        finish(p, result, instruction.len)


def _is_shadowed(p: "Processor", encoding: int, *, write: bool) -> bool:
    """In non-root operation: tell whether the access goes to the shadow VMCS instead of exiting."""
    return p.guest is not None and not p.vmx.shadow_access_exits(encoding, is_write=write)


def _encoding(p: "Processor", register: int) -> int:
    value = read_register(p.state, register)
    return value if p.state.is_64bit else value & 0xFFFF_FFFF


def _vmread(p: "Processor", instruction: Instruction) -> None:
    encoding = _encoding(p, instruction.op1_register)
    if not _passes_access(p, Vmx.VMREAD, instruction, encoding):
        return
    value = p.vmx.vmread(encoding) if p.guest is None else p.vmx.shadow_vmread(encoding)
    if not isinstance(value, int):
        tell_failed(p, Vmx.VMREAD, Operands(encoding, is_shadowed=p.guest is not None), value)
        finish(p, value, instruction.len)
        return
    if instruction.op0_kind == OpKind.MEMORY:
        size = 8 if p.state.is_64bit else 4
        if not _store(p, instruction, value & (1 << 8 * size) - 1, size):
            return
    else:
        write_register(p.state, instruction.op0_register, value)
    finish(p, VmResult(VmStatus.SUCCEED, 0), instruction.len)


def _vmwrite(p: "Processor", instruction: Instruction) -> None:
    encoding = _encoding(p, instruction.op0_register)
    if not _passes_access(p, Vmx.VMWRITE, instruction, encoding):
        return
    if instruction.op1_kind == OpKind.MEMORY:
        raw = _read_memory(p, instruction, 8 if p.state.is_64bit else 4)
        if raw is None:
            return
        value = int.from_bytes(raw, "little")
    else:
        value = read_register(p.state, instruction.op1_register)
    if p.guest is None:
        result = p.vmx.vmwrite(encoding, value)
    else:
        result = p.vmx.shadow_vmwrite(encoding, value)
    tell_failed(p, Vmx.VMWRITE, Operands(encoding, is_shadowed=p.guest is not None), result)
    finish(p, result, instruction.len)


def _passes_access(p: "Processor", vmx: Vmx, instruction: Instruction, encoding: int) -> bool:
    mode_is_right = p.state.is_64bit or not (
        p.state.efer & _LMA or p.state.rflags & _VM or not p.state.cr0 & _PE
    )
    if mode_is_right and _is_shadowed(p, encoding, write=vmx is Vmx.VMWRITE):
        if p.state.cpl:
            p.general_protection()
            return False
        return True
    return _passes(p, vmx, instruction)


def _vmlaunch(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.VMLAUNCH, instruction):
        _enter(p, instruction, is_launch=True)


def _vmresume(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.VMRESUME, instruction):
        _enter(p, instruction, is_launch=False)


def _enter(p: "Processor", instruction: Instruction, *, is_launch: bool) -> None:
    result = vm_entry.enter(p, is_launch=is_launch)
    if result is not None:
        finish(p, result, instruction.len)


def _vmcall(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.VMCALL, instruction):
        result = p.vmx.vmcall_in_root()
        tell_failed(p, Vmx.VMCALL, Operands(), result)
        finish(p, result, instruction.len)


def _descriptor(p: "Processor", instruction: Instruction) -> tuple[int, int] | None:
    """Return the two halves of the descriptor of INVEPT or INVVPID."""
    raw = _read_memory(p, instruction, 16)
    if raw is None:
        return None
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


def _invept(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.INVEPT, instruction):
        _invalidate(p, Vmx.INVEPT, instruction, p.vmx.refuse_invept_type, invalidate_ept)


def _invvpid(p: "Processor", instruction: Instruction) -> None:
    if _passes(p, Vmx.INVVPID, instruction):
        _invalidate(p, Vmx.INVVPID, instruction, p.vmx.refuse_invvpid_type, invalidate_vpid)


def _invalidate(
    p: "Processor",
    vmx: Vmx,
    instruction: Instruction,
    refuse_type: "Callable[[int], VmResult | None]",
    act: "Callable[[Processor, int, int, int], VmResult]",
) -> None:
    """INVEPT, INVVPID: the type is looked at before the descriptor is read."""
    kind = _encoding(p, instruction.op0_register)
    operands = None
    result = refuse_type(kind)
    if result is None:
        operands = _descriptor(p, instruction)
        if operands is None:
            return
        result = act(p, kind, *operands)
    tell_failed(p, vmx, Operands(kind, operands), result)
    finish(p, result, instruction.len)


def _vmfunc(p: "Processor", instruction: Instruction) -> None:
    if not _passes(p, Vmx.VMFUNC, instruction):
        return
    gpr = p.state.gpr
    outcome = p.vmx.vmfunc(gpr[0] & 0xFFFF_FFFF, gpr[1] & 0xFFFF_FFFF)
    if outcome is Outcome.UD:
        tell_refused_vmfunc(p, gpr[0] & 0xFFFF_FFFF)
        p.raise_exception(Vector.UD)
    elif isinstance(outcome, Outcome):
        vm_exit.exit_to_host(p, Vmx.VMFUNC.exit_reason, length=instruction.len)
    else:
        switch_ept(p, outcome)
        p.advance(instruction.len)


OPERATIONS: "dict[int, Callable[[Processor, Instruction], None]]" = {
    Code.VMXON_M64: _with_pointer(Vmx.VMXON),
    Code.VMCLEAR_M64: _with_pointer(Vmx.VMCLEAR),
    Code.VMPTRLD_M64: _with_pointer(Vmx.VMPTRLD),
    Code.VMPTRST_M64: _vmptrst,
    Code.VMXOFF: _vmxoff,
    Code.VMREAD_RM32_R32: _vmread,
    Code.VMREAD_RM64_R64: _vmread,
    Code.VMWRITE_R32_RM32: _vmwrite,
    Code.VMWRITE_R64_RM64: _vmwrite,
    Code.VMLAUNCH: _vmlaunch,
    Code.VMRESUME: _vmresume,
    Code.VMCALL: _vmcall,
    Code.VMFUNC: _vmfunc,
    Code.INVEPT_R32_M128: _invept,
    Code.INVEPT_R64_M128: _invept,
    Code.INVVPID_R32_M128: _invvpid,
    Code.INVVPID_R64_M128: _invvpid,
}
"""Operations by iced's instruction code."""
