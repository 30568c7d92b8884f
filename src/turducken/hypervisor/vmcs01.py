"""VMCS01: the controls that L1 runs under, and the bits of CR0 and CR4 that are hidden from it."""

from typing import TYPE_CHECKING

from turducken.arch.registers import CR0
from turducken.hypervisor.merge import ENTRY_OWN, EXIT_OWN
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.vcpu import Vcpu

_PE, _PG = CR0.mask("PE"), CR0.mask("PG")
_WANTED_SECONDARY = (
    Secondary.ENABLE_EPT
    | Secondary.ENABLE_VPID
    | Secondary.UNRESTRICTED_GUEST
    | Secondary.ENABLE_RDTSCP
    | Secondary.ENABLE_INVPCID
    | Secondary.ENABLE_XSAVES
)


def set_controls(vcpu: "Vcpu", vmcs: Vmcs) -> None:
    """Set the controls of L1: few intercepts, EPT01, and a VPID of its own."""
    real, system = vcpu.capabilities, vcpu.system
    primary = Primary.USE_MSR_BITMAPS | Primary.ACTIVATE_SECONDARY_CONTROLS
    vmcs.write(f.PIN_BASED_CONTROLS, real.pin.adjust(0))
    vmcs.write(f.PRIMARY_CONTROLS, real.primary.adjust(primary))
    vmcs.write(f.SECONDARY_CONTROLS, real.secondary.adjust(_WANTED_SECONDARY))
    vmcs.write(f.EXIT_CONTROLS, real.exit.adjust(EXIT_OWN))
    vmcs.write(f.ENTRY_CONTROLS, real.entry.adjust(ENTRY_OWN))
    vmcs.write(f.MSR_BITMAPS, system.msr_bitmap)
    vmcs.write(f.EPTP, vcpu.eptp01)
    vmcs.write(f.VPID, vcpu.vpids.own)
    if real.secondary.allowed1 & Secondary.ENABLE_XSAVES:
        vmcs.write(f.XSS_EXITING_BITMAP, 0)


def set_cr0_and_cr4(vcpu: "Vcpu", vmcs: Vmcs, cr0: int) -> None:
    """Give L1 its CR0 and a clear CR4, with the bits that VMX operation fixes hidden."""
    vcpu.processor.load_cr0(cr0)
    fixed = vcpu.capabilities.cr0_fixed0 & ~(_PE | _PG)
    vmcs.write(f.GUEST_CR0, cr0 | fixed)
    vmcs.write(f.CR0_GUEST_HOST_MASK, fixed)
    vmcs.write(f.CR0_READ_SHADOW, cr0)
    fixed = vcpu.capabilities.cr4_fixed0
    vmcs.write(f.GUEST_CR4, fixed)
    vmcs.write(f.CR4_GUEST_HOST_MASK, fixed)
    vmcs.write(f.CR4_READ_SHADOW, 0)


def own_fixed_bits(vcpu: "Vcpu", *, all_of_them: bool) -> None:
    """Let writes of CR0 exit where they would change what VMX operation fixes for L1."""
    fixed, cr0 = vcpu.capabilities.cr0_fixed0, vcpu.cr0_of_l1
    mask = fixed if all_of_them else fixed & ~(_PE | _PG)
    vcpu.vmcs01.write(f.CR0_GUEST_HOST_MASK, mask)
    vcpu.vmcs01.write(f.CR0_READ_SHADOW, cr0)
