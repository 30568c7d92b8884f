"""L1's VMX instructions: operands from the exit's information, semantics from `turducken.vmx`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.arch import msr
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.hypervisor.diagnosing import tell_failed, tell_refused
from turducken.hypervisor.events import Invalidated
from turducken.hypervisor.linear import PageFault
from turducken.hypervisor.operands import (
    SegmentFault,
    is_64bit_mode,
    memory_operand,
    read_gpr,
    write_gpr,
)
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import ACCESS_RIGHTS, FIELD_ACCESS_INFORMATION
from turducken.vmx.exit_reasons import ExitReason as R
from turducken.vmx.explain import Operands
from turducken.vmx.gates import Instruction, Mode, Outcome, find_gate
from turducken.vmx.instructions import (
    INVVPID_ALL_CONTEXTS,
    INVVPID_INDIVIDUAL_ADDRESS,
    SUCCEED,
    VmResult,
)
from turducken.vmx.interface import VmStatus

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Handling, Vcpu

_ARITHMETIC = RFLAGS.mask("CF", "PF", "AF", "ZF", "SF", "OF")
_FLAGS = {
    VmStatus.SUCCEED: 0,
    VmStatus.FAIL_INVALID: RFLAGS.mask("CF"),
    VmStatus.FAIL_VALID: RFLAGS.mask("ZF"),
}
_PE, _LMA, _VM = CR0.mask("PE"), EFER.mask("LMA"), RFLAGS.mask("VM")
_DPL, _LONG = ACCESS_RIGHTS["DPL"], ACCESS_RIGHTS.mask("L")
_REG1, _REG2 = FIELD_ACCESS_INFORMATION["REG1"], FIELD_ACCESS_INFORMATION["REG2"]
_IS_REGISTER = FIELD_ACCESS_INFORMATION.mask("IS_REGISTER")
_LOW = 0xFFFF_FFFF
_SS_RIGHTS, _CS_RIGHTS = f.GUEST_SS_ACCESS_RIGHTS.slot, f.GUEST_CS_ACCESS_RIGHTS.slot
_EFER = f.GUEST_EFER.slot


def _mode(vcpu: "Vcpu") -> Mode:
    """Return what the shared rules look at: L1 as if it ran on the processor itself."""
    read = vcpu.vmcs01.read
    return Mode(
        cr0=vcpu.cr0_of_l1,
        cr4=vcpu.cr4_of_l1,
        rflags=read(f.GUEST_RFLAGS),
        efer=read(f.GUEST_EFER),
        cpl=_DPL.get(read(f.GUEST_SS_ACCESS_RIGHTS)),
        is_cs_long=bool(read(f.GUEST_CS_ACCESS_RIGHTS) & _LONG),
        in_operation=vcpu.unit.in_operation,
        in_guest=False,
        feature_control=vcpu.processor.rdmsr(msr.IA32_FEATURE_CONTROL) or 0,
    )


def _passes(vcpu: "Vcpu", instruction: Instruction) -> bool:
    """Apply mode and privilege; raise the exception where the instruction may not execute."""
    slots = vcpu.vmcs01.slots
    if (
        vcpu.unit.in_operation
        and instruction in vcpu.unit.ungated
        and slots[_EFER] & _LMA
        and slots[_CS_RIGHTS] & _LONG
        and not slots[_SS_RIGHTS] >> 5 & 3
    ):
        return True  # 64-bit mode at CPL 0 in VMX operation
    mode = _mode(vcpu)
    gate = find_gate(instruction, mode, vcpu.capabilities12)
    if gate is None:
        return True
    tell_refused(vcpu, gate, instruction, mode)
    if gate.outcome is Outcome.UD:
        vcpu.inject(Vector.UD)
    else:
        vcpu.inject(Vector.GP, 0)
    return False


def finish(vcpu: "Vcpu", result: VmResult) -> None:
    """Report ``result`` in the flags and complete the guest's instruction."""
    slots = vcpu.current.slots
    flags = slots[f.GUEST_RFLAGS.slot]
    slots[f.GUEST_RFLAGS.slot] = flags & ~_ARITHMETIC | _FLAGS[result.status]
    vcpu.skip()


# Memory operands


def _fault(vcpu: "Vcpu", fault: PageFault | SegmentFault) -> None:
    if isinstance(fault, SegmentFault):
        vcpu.inject(fault.vector, 0)
        return
    vcpu.processor.cr2 = fault.address
    vcpu.inject(Vector.PF, fault.error_code)


def _read(vcpu: "Vcpu", length: int) -> bytes | None:
    """Return the memory operand, or None after a fault."""
    address = memory_operand(vcpu.processor, vcpu.vmcs01, length, write=False)
    if isinstance(address, SegmentFault):
        _fault(vcpu, address)
        return None
    data = vcpu.linear.read(address, length)
    if isinstance(data, PageFault):
        _fault(vcpu, data)
        return None
    return data


def _write(vcpu: "Vcpu", data: bytes) -> bool:
    """Write the memory operand; False after a fault."""
    address = memory_operand(vcpu.processor, vcpu.vmcs01, len(data), write=True)
    if isinstance(address, SegmentFault):
        _fault(vcpu, address)
        return False
    fault = vcpu.linear.write(address, data)
    if fault is not None:
        _fault(vcpu, fault)
        return False
    return True


# Pointers


def _with_pointer(
    instruction: Instruction, execute: "Callable[[Vcpu, int], VmResult]"
) -> "Callable[[Vcpu], Handling]":
    """Return the handler of an instruction with a 64-bit physical address in memory."""

    def handler(vcpu: "Vcpu") -> "Handling":
        if not _passes(vcpu, instruction):
            return None
        data = _read(vcpu, 8)
        if data is not None:
            pointer = int.from_bytes(data, "little")
            result = execute(vcpu, pointer)
            tell_failed(vcpu, instruction, Operands(pointer), result)
            vcpu.follow_vmcs12()
            finish(vcpu, result)
        return None

    return handler


def _vmclear(vcpu: "Vcpu", pointer: int) -> VmResult:
    return vcpu.unit.vmclear(pointer)


def _vmptrld(vcpu: "Vcpu", pointer: int) -> VmResult:
    return vcpu.unit.vmptrld(pointer)


def on_vmxon(vcpu: "Vcpu") -> "Handling":
    """VMXON."""
    if not _passes(vcpu, Instruction.VMXON):
        return None
    if vcpu.unit.in_operation:
        # It fails without looking at its operand.
        refused = vcpu.unit.vmxon(0)
        tell_failed(vcpu, Instruction.VMXON, Operands(), refused)
        finish(vcpu, refused)
        return None
    data = _read(vcpu, 8)
    if data is None:
        return None
    pointer = int.from_bytes(data, "little")
    result = vcpu.unit.vmxon(pointer)
    tell_failed(vcpu, Instruction.VMXON, Operands(pointer, was_in_operation=False), result)
    if result.status is VmStatus.SUCCEED:
        vcpu.own_fixed_bits(all_of_them=True)
        vcpu.follow_vmcs12()
    finish(vcpu, result)
    return None


def on_vmxoff(vcpu: "Vcpu") -> "Handling":
    """VMXOFF; an INIT that was blocked takes effect."""
    if not _passes(vcpu, Instruction.VMXOFF):
        return None
    finish(vcpu, vcpu.unit.vmxoff())
    vcpu.own_fixed_bits(all_of_them=False)
    vcpu.follow_vmcs12()
    if vcpu.init_pending:
        vcpu.init_pending = False
        vcpu.reset_l1()
    return None


def on_vmptrst(vcpu: "Vcpu") -> "Handling":
    """VMPTRST."""
    if _passes(vcpu, Instruction.VMPTRST) and _write(
        vcpu, vcpu.unit.vmptrst().to_bytes(8, "little")
    ):
        finish(vcpu, SUCCEED)
    return None


# Fields


def field_encoding(vcpu: "Vcpu") -> int:
    """Return the encoding that the guest's VMREAD or VMWRITE names."""
    information = vcpu.current.read(f.EXIT_INSTRUCTION_INFORMATION)
    value = read_gpr(vcpu.processor, vcpu.current, _REG2.get(information))
    return value if is_64bit_mode(vcpu.current) else value & _LOW


def on_vmread(vcpu: "Vcpu") -> "Handling":
    """VMREAD."""
    if not _passes(vcpu, Instruction.VMREAD):
        return None
    vmcs = vcpu.vmcs01
    information = vmcs.read(f.EXIT_INSTRUCTION_INFORMATION)
    encoding = field_encoding(vcpu)
    value = vcpu.unit.vmread(encoding)
    if not isinstance(value, int):
        tell_failed(vcpu, Instruction.VMREAD, Operands(encoding), value)
        finish(vcpu, value)
        return None
    is_64bit = is_64bit_mode(vmcs)
    if not is_64bit:
        value &= _LOW
    if information & _IS_REGISTER:
        write_gpr(vcpu.processor, vmcs, _REG1.get(information), value)
    elif not _write(vcpu, value.to_bytes(8 if is_64bit else 4, "little")):
        return None
    finish(vcpu, SUCCEED)
    return None


def on_vmwrite(vcpu: "Vcpu") -> "Handling":
    """VMWRITE."""
    if not _passes(vcpu, Instruction.VMWRITE):
        return None
    vmcs = vcpu.vmcs01
    information = vmcs.read(f.EXIT_INSTRUCTION_INFORMATION)
    is_64bit = is_64bit_mode(vmcs)
    if information & _IS_REGISTER:
        value = read_gpr(vcpu.processor, vmcs, _REG1.get(information))
        value = value if is_64bit else value & _LOW
    else:
        data = _read(vcpu, 8 if is_64bit else 4)
        if data is None:
            return None
        value = int.from_bytes(data, "little")
    encoding = field_encoding(vcpu)
    result = vcpu.unit.vmwrite(encoding, value)
    tell_failed(vcpu, Instruction.VMWRITE, Operands(encoding), result)
    finish(vcpu, result)
    return None


# Entry


def on_vmlaunch(vcpu: "Vcpu") -> "Handling":
    """VMLAUNCH."""
    if _passes(vcpu, Instruction.VMLAUNCH):
        refused = vcpu.nested.enter(is_launch=True)
        if refused is not None:
            finish(vcpu, refused)
    return None


def on_vmresume(vcpu: "Vcpu") -> "Handling":
    """VMRESUME."""
    if _passes(vcpu, Instruction.VMRESUME):
        refused = vcpu.nested.enter(is_launch=False)
        if refused is not None:
            finish(vcpu, refused)
    return None


def on_vmcall(vcpu: "Vcpu") -> "Handling":
    """VMCALL: a hypapp's, or what it is in root operation."""
    handling = vcpu.system.hypercall(vcpu)
    if handling is not False:
        return handling
    if _passes(vcpu, Instruction.VMCALL):
        result = vcpu.unit.vmcall_in_root()
        tell_failed(vcpu, Instruction.VMCALL, Operands(), result)
        finish(vcpu, result)
    return None


# Invalidation


def on_invept(vcpu: "Vcpu") -> "Handling":
    """INVEPT: what is kept of EPT12 in EPT02s is dropped, on this processor."""
    if not _passes(vcpu, Instruction.INVEPT):
        return None
    kind = _invalidation_type(vcpu)
    refused = vcpu.unit.refuse_invept_type(kind)
    if refused is not None:
        tell_failed(vcpu, Instruction.INVEPT, Operands(kind), refused)
        finish(vcpu, refused)
        return None
    descriptor = _invalidation_descriptor(vcpu)
    if descriptor is None:
        return None
    eptp, upper = descriptor
    result = vcpu.unit.check_invept(kind, eptp, upper)
    if result.status is VmStatus.SUCCEED:
        _invalidate_ept(vcpu, kind, eptp)
    tell_failed(vcpu, Instruction.INVEPT, Operands(kind, descriptor), result)
    finish(vcpu, result)
    return None


def _invalidate_ept(vcpu: "Vcpu", kind: int, eptp: int) -> None:
    if vcpu.events.subscribers:
        vcpu.events.publish(Invalidated(vcpu.index, "INVEPT", kind, eptp))
    vcpu.invalidate_ept12(kind, eptp)


def on_invvpid(vcpu: "Vcpu") -> "Handling":
    """INVVPID, for the VPIDs that stand for L1's."""
    if not _passes(vcpu, Instruction.INVVPID):
        return None
    kind = _invalidation_type(vcpu)
    refused = vcpu.unit.refuse_invvpid_type(kind)
    if refused is not None:
        tell_failed(vcpu, Instruction.INVVPID, Operands(kind), refused)
        finish(vcpu, refused)
        return None
    operand = _invalidation_descriptor(vcpu)
    if operand is None:
        return None
    descriptor, address = operand
    result = vcpu.unit.check_invvpid(kind, descriptor, address)
    if result.status is VmStatus.SUCCEED:
        _invalidate_vpid(vcpu, kind, descriptor, address)
    tell_failed(vcpu, Instruction.INVVPID, Operands(kind, operand), result)
    finish(vcpu, result)
    return None


def _invalidate_vpid(vcpu: "Vcpu", kind: int, vpid12: int, address: int) -> None:
    if vcpu.events.subscribers:
        vcpu.events.publish(Invalidated(vcpu.index, "INVVPID", kind, vpid12 & 0xFFFF, address))
    if kind == INVVPID_ALL_CONTEXTS:
        for vpid in vcpu.vpids.all_known():
            vcpu.flush_vpid(vpid)
    else:
        known = vcpu.vpids.known(vpid12)
        if known is not None:
            target = address if kind == INVVPID_INDIVIDUAL_ADDRESS else 0
            vcpu.statistics.invvpid += 1
            vcpu.processor.invvpid(kind, known, target)


def _invalidation_type(vcpu: "Vcpu") -> int:
    """Return the register operand of INVEPT or INVVPID."""
    information = vcpu.vmcs01.read(f.EXIT_INSTRUCTION_INFORMATION)
    kind = read_gpr(vcpu.processor, vcpu.vmcs01, _REG2.get(information))
    return kind if is_64bit_mode(vcpu.vmcs01) else kind & _LOW


def _invalidation_descriptor(vcpu: "Vcpu") -> tuple[int, int] | None:
    """Return the halves of the descriptor of INVEPT or INVVPID; None where reading it faulted."""
    data = _read(vcpu, 16)
    if data is None:
        return None
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


HANDLERS: "dict[int, Callable[[Vcpu], Handling]]" = {
    R.VMXON: on_vmxon,
    R.VMXOFF: on_vmxoff,
    R.VMCLEAR: _with_pointer(Instruction.VMCLEAR, _vmclear),
    R.VMPTRLD: _with_pointer(Instruction.VMPTRLD, _vmptrld),
    R.VMPTRST: on_vmptrst,
    R.VMREAD: on_vmread,
    R.VMWRITE: on_vmwrite,
    R.VMLAUNCH: on_vmlaunch,
    R.VMRESUME: on_vmresume,
    R.VMCALL: on_vmcall,
    R.INVEPT: on_invept,
    R.INVVPID: on_invvpid,
}
"""By basic exit reason."""
