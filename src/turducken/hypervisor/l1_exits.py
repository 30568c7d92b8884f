"""VM exits of L1: what each reason makes L0 do."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from turducken.address import Gpa1
from turducken.arch import xcr0
from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4
from turducken.hypervisor import boot, stopping
from turducken.hypervisor.diagnosing import tell_msr, tell_refused_control_register
from turducken.hypervisor.operands import is_64bit_mode, read_gpr
from turducken.hypervisor.task_switch import on_task_switch
from turducken.hypervisor.vmx_instructions import HANDLERS as VMX_HANDLERS
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import (
    CR_QUALIFICATION,
    INTERRUPTION_VALID,
    INTERRUPTION_VECTOR,
    CrAccess,
)
from turducken.vmx.exit_reasons import ExitReason as R

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Handling, Vcpu

_RAX, _RCX, _RDX, _RBX = 0, 1, 2, 3
_LOW = 0xFFFF_FFFF
_PE, _PG, _NW, _CD = (CR0.mask(one) for one in ("PE", "PG", "NW", "CD"))
_OSXSAVE, _PKE = CR4.mask("OSXSAVE"), CR4.mask("PKE")
_CPUID_OSXSAVE, _CPUID_OSPKE = 1 << 27, 1 << 4
_CR_NUMBER, _CR_ACCESS = CR_QUALIFICATION["NUMBER"], CR_QUALIFICATION["ACCESS"]
_CR_REGISTER = CR_QUALIFICATION["REGISTER"]
_LMSW_SOURCE = CR_QUALIFICATION["LMSW_SOURCE"]
_LMSW_BITS = 0xF


def on_triple_fault(vcpu: "Vcpu") -> "Handling":
    """L1's processor shuts down, and with it the machine, as it would without L0."""
    vcpu.stop_l1(stopping.triple_fault(vcpu))
    return None


def on_init(vcpu: "Vcpu") -> "Handling":
    """INIT: L0's own, blocked while L1 is in VMX root operation, or a reset."""
    if vcpu.was_kicked():
        return None
    if vcpu.unit.in_operation:
        vcpu.init_pending = True
    else:
        vcpu.reset_l1()
    return None


def on_sipi(vcpu: "Vcpu") -> "Handling":
    """A startup IPI for an L1 processor that waits for one."""
    boot.start_at(vcpu.vmcs01, vcpu.vmcs01.read(f.EXIT_QUALIFICATION))
    return None


def on_cpuid(vcpu: "Vcpu") -> "Handling":
    """The processor's own answer, with what depends on CR4 taken from L1's."""
    gpr = vcpu.processor.gpr
    leaf, subleaf = gpr[_RAX] & _LOW, gpr[_RCX] & _LOW
    eax, ebx, ecx, edx = vcpu.processor.cpuid(leaf, subleaf)
    if leaf == 1:
        enabled = vcpu.vmcs01.read(f.GUEST_CR4) & _OSXSAVE
        ecx = ecx & ~_CPUID_OSXSAVE | (_CPUID_OSXSAVE if enabled else 0)
    elif leaf == 7 and not subleaf:
        enabled = vcpu.vmcs01.read(f.GUEST_CR4) & _PKE
        ecx = ecx & ~_CPUID_OSPKE | (_CPUID_OSPKE if enabled else 0)
    for app in vcpu.system.apps:
        eax, ebx, ecx, edx = app.on_cpuid(vcpu, leaf, subleaf, (eax, ebx, ecx, edx))
    gpr[_RAX], gpr[_RBX], gpr[_RCX], gpr[_RDX] = eax, ebx, ecx, edx
    vcpu.skip()
    return None


def on_invd(vcpu: "Vcpu") -> "Handling":
    """INVD would lose L0's own writes; nothing is ever in a cache only, so nothing is to do."""
    vcpu.skip()
    return None


def on_getsec(vcpu: "Vcpu") -> "Handling":
    """There are no safer mode extensions."""
    vcpu.inject(Vector.UD)
    return None


def on_xsetbv(vcpu: "Vcpu") -> "Handling":
    """SDM 2D, "XSETBV - Set Extended Control Register"; the CPL has been checked."""
    gpr = vcpu.processor.gpr
    value = xcr0.operand(gpr[_RDX], gpr[_RAX])
    low, _, _, high = vcpu.processor.cpuid(0xD, 0)
    if xcr0.is_accepted(gpr[_RCX], value, xcr0.operand(high, low)):
        vcpu.processor.xcr0 = value
        vcpu.skip()
    else:
        vcpu.inject(Vector.GP, 0)
    return None


# Control registers: only bits that VMX operation fixes for L0, or for L1, are looked after


def on_cr_access(vcpu: "Vcpu") -> "Handling":
    """L1 changes a bit of CR0 or CR4 that L0 hides from it, or that its VMX operation fixes.

    L0 adapts what L1 reads (the read shadow) and lets the processor execute the instruction again:
    everything else that a write of the register does or refuses remains the processor's affair.
    """
    qualification = vcpu.vmcs01.read(f.EXIT_QUALIFICATION)
    access = _CR_ACCESS.get(qualification)
    if access == CrAccess.LMSW:
        source = _LMSW_SOURCE.get(qualification) & _LMSW_BITS
        old = vcpu.cr0_of_l1
        return _write_cr0(vcpu, old & ~_LMSW_BITS | source | old & _PE)
    if access != CrAccess.MOV_TO:
        return on_unexpected(vcpu)
    register = _CR_REGISTER.get(qualification)
    value = read_gpr(vcpu.processor, vcpu.vmcs01, register)
    if not is_64bit_mode(vcpu.vmcs01):
        value &= _LOW
    if _CR_NUMBER.get(qualification) == 0:
        return _write_cr0(vcpu, value)
    return _write_cr4(vcpu, value)


def _write_cr0(vcpu: "Vcpu", value: int) -> "Handling":
    refused = value >> 32 or (value & _PG and not value & _PE) or (value & _NW and not value & _CD)
    if not refused and vcpu.unit.in_operation:
        refused = not vcpu.capabilities12.accepts_cr0(value)
        if refused:
            tell_refused_control_register(vcpu, 0, value)
    if refused:
        vcpu.inject(Vector.GP, 0)
    else:
        vcpu.vmcs01.write(f.CR0_READ_SHADOW, value)
    return None


def _write_cr4(vcpu: "Vcpu", value: int) -> "Handling":
    refused = value & ~vcpu.capabilities12.cr4_fixed1
    if vcpu.unit.in_operation:
        refused = refused or not vcpu.capabilities12.accepts_cr4(value)
    if refused:
        tell_refused_control_register(vcpu, 4, value)
        vcpu.inject(Vector.GP, 0)
    else:
        vcpu.vmcs01.write(f.CR4_READ_SHADOW, value)
    return None


# MSRs


def on_rdmsr(vcpu: "Vcpu") -> "Handling":
    """RDMSR of what L0 answers itself, or of what no bitmap covers."""
    gpr = vcpu.processor.gpr
    index = gpr[_RCX] & _LOW
    value = vcpu.read_msr(index)
    if value is None:
        tell_msr(vcpu, index, None)
        vcpu.inject(Vector.GP, 0)
        return None
    gpr[_RAX], gpr[_RDX] = value & _LOW, value >> 32
    vcpu.skip()
    return None


def on_wrmsr(vcpu: "Vcpu") -> "Handling":
    """WRMSR of what L0 must follow, or of what no bitmap covers."""
    gpr = vcpu.processor.gpr
    value = gpr[_RDX] << 32 & _LOW << 32 | gpr[_RAX] & _LOW
    index = gpr[_RCX] & _LOW
    if vcpu.write_msr(index, value):
        vcpu.skip()
    else:
        tell_msr(vcpu, index, value)
        vcpu.inject(Vector.GP, 0)
    return None


# Memory


def on_ept_violation(vcpu: "Vcpu") -> "Handling":
    """EPT01 refuses an access of L1: filled in now, a hypapp's affair, or nothing L1 may have."""
    vmcs = vcpu.vmcs01
    gpa1 = Gpa1(vmcs.read(f.GUEST_PHYSICAL_ADDRESS))
    access = vmcs.read(f.EXIT_QUALIFICATION) & 7
    place = vcpu.ept01.find(gpa1)
    if place is not None and not access & ~place.entry and vcpu.app_table is None:
        vcpu.inject_again()
        return None
    return vcpu.system.refuse_access(vcpu, gpa1, access)


def refuse(vcpu: "Vcpu") -> "Handling":
    """Nothing is there for the guest: #GP at the instruction.

    While an event is being delivered the fault that follows is a double fault, and after a double
    fault the processor shuts down.
    """
    vectoring = vcpu.current.read(f.IDT_VECTORING_INFORMATION)
    if not vectoring & INTERRUPTION_VALID:
        vcpu.inject(Vector.GP, 0)
    elif vectoring & INTERRUPTION_VECTOR == Vector.DF:
        vcpu.triple_fault()
    else:
        vcpu.inject(Vector.DF, 0)
    return None


def on_unexpected(vcpu: "Vcpu") -> "Handling":
    """An exit that L0's controls do not ask for."""
    vcpu.stop_l1(stopping.unexpected_exit(vcpu))
    return None


HANDLERS: "dict[int, Callable[[Vcpu], Handling]]" = {
    **dict.fromkeys(range(128), on_unexpected),
    **VMX_HANDLERS,
    R.TRIPLE_FAULT: on_triple_fault,
    R.INIT: on_init,
    R.SIPI: on_sipi,
    R.TASK_SWITCH: on_task_switch,
    R.CPUID: on_cpuid,
    R.GETSEC: on_getsec,
    R.INVD: on_invd,
    R.XSETBV: on_xsetbv,
    R.CR_ACCESS: on_cr_access,
    R.RDMSR: on_rdmsr,
    R.WRMSR: on_wrmsr,
    R.EPT_VIOLATION: on_ept_violation,
}
"""By basic exit reason."""
