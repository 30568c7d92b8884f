"""L1's MSRs, and those that its L2s reach without it: where each is, and what may be written.

While L0 runs, some of the guest's MSRs are in its VMCS, some L0 answers, the others are the
processor's.
"""

from typing import TYPE_CHECKING

from turducken.arch import msr
from turducken.arch.memory_types import MemoryType
from turducken.arch.registers import CR0, EFER
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_PG = CR0.mask("PG")
_LME, _LMA = EFER.mask("LME"), EFER.mask("LMA")
_PAT_TYPES = frozenset(int(one) for one in MemoryType)
_MSR_FIELDS = {
    msr.IA32_SYSENTER_CS: f.GUEST_SYSENTER_CS,
    msr.IA32_SYSENTER_ESP: f.GUEST_SYSENTER_ESP,
    msr.IA32_SYSENTER_EIP: f.GUEST_SYSENTER_EIP,
    msr.IA32_FS_BASE: f.GUEST_FS_BASE,
    msr.IA32_GS_BASE: f.GUEST_GS_BASE,
    msr.IA32_EFER: f.GUEST_EFER,
    msr.IA32_PAT: f.GUEST_PAT,
    msr.IA32_DEBUGCTL: f.GUEST_DEBUGCTL,
}
"""MSRs of the guest that its VMCS holds while L0 runs."""


def read_msr(vcpu: "Vcpu", index: int) -> int | None:
    """Return an MSR as L1 reads it; None for #GP."""
    if index in vcpu.system.answered_msrs:
        return vcpu.capabilities12.msrs.get(index)
    field = _MSR_FIELDS.get(index)
    if field is not None:
        return vcpu.current.read(field)
    return vcpu.processor.rdmsr(index)


def write_msr(vcpu: "Vcpu", index: int, value: int, vmcs: Vmcs | None = None) -> bool:
    """Write an MSR for L1 (or for an L2 to which L1 leaves it); False for #GP.

    What a VMCS holds is written to ``vmcs`` (default: the current one).
    """
    if index in vcpu.mtrrs.numbers:
        if not vcpu.processor.wrmsr(index, value):
            return False
        vcpu.ept01.follow_types(vcpu.mtrrs.map())
        vcpu.settle_ept01()
        return True
    if index == msr.IA32_APIC_BASE and (value & -4096) in vcpu.system.frames.region:
        return False
    field = _MSR_FIELDS.get(index)
    if field is not None:
        return _write_field(vcpu, vmcs or vcpu.current, index, value)
    return vcpu.processor.wrmsr(index, value)


def _write_field(vcpu: "Vcpu", vmcs: Vmcs, index: int, value: int) -> bool:
    if index == msr.IA32_EFER:
        old = vmcs.read(f.GUEST_EFER)
        if value & ~vcpu.capabilities.cpu.efer:
            return False
        if (value ^ old) & _LME and vmcs.read(f.GUEST_CR0) & _PG:
            return False
        value = value & ~_LMA | old & _LMA
    elif index == msr.IA32_PAT:
        if any(value >> 8 * n & 0xFF not in _PAT_TYPES for n in range(8)):
            return False
    elif index == msr.IA32_DEBUGCTL:
        if value & ~vcpu.capabilities.cpu.debugctl:
            return False
    elif index != msr.IA32_SYSENTER_CS and not vcpu.capabilities.is_canonical(value):
        return False
    vmcs.write(_MSR_FIELDS[index], value)
    return True
