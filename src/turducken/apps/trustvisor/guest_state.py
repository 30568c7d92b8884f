"""The VMCS under which PALs run on one processor, and its state at a PAL's beginning.

A PAL runs in user mode, in the mode of its callers (64-bit, or 32-bit with PAE paging), with
interrupts off, without an IDT, without the caller's segments, model-specific registers or floating
point: whatever would lead out of it is a VM exit.
"""

from typing import TYPE_CHECKING

from turducken.apps.trustvisor.space import PalSpace
from turducken.arch.registers import CR0, CR4, EFER
from turducken.hypervisor.merge import ENTRY_OWN, EXIT_OWN
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Entry, PinBased, Primary, Secondary
from turducken.vmx.exit_information import BLOCKING_BY_NMI, UNUSABLE
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor import Vcpu

# CR0.TS and EM: floating-point and vector registers are the caller's, and would tell it things.
_CR0 = CR0.mask("PE", "PG", "NE", "ET", "WP", "TS", "EM")
_PAE = CR4.mask("PAE")
_LONG, _NXE = EFER.mask("LME", "LMA"), EFER.mask("NXE")
_PAT = 0x0007_0406_0007_0406
_FLAGS = 2
_DR7 = 0x400
_CODE_64, _CODE_32, _DATA, _BUSY_TSS = 0xA0FB, 0xC0FB, 0xC0F3, 0x8B
_USER_CODE, _USER_DATA, _TASK = 0x1B, 0x23, 0x28
_LIMITS = {"TR": 0x67, "LDTR": 0}


def make_pal_vmcs(vcpu: "Vcpu", vpid: int) -> Vmcs:
    """Return a VMCS for PALs on a processor, with everything in it that does not change."""
    vmcs = vcpu.make_vmcs()
    real = vcpu.capabilities
    primary = Primary.ACTIVATE_SECONDARY_CONTROLS | Primary.UNCONDITIONAL_IO_EXITING
    secondary = Secondary.ENABLE_EPT | Secondary.ENABLE_VPID
    values = {
        f.PIN_BASED_CONTROLS: real.pin.adjust(PinBased.NMI_EXITING),
        f.PRIMARY_CONTROLS: real.primary.adjust(primary),
        f.SECONDARY_CONTROLS: real.secondary.adjust(secondary),
        f.EXIT_CONTROLS: real.exit.adjust(EXIT_OWN),
        f.EXCEPTION_BITMAP: 0xFFFF_FFFF,
        f.VPID: vpid,
        f.GUEST_CR0: real.cr0_fixed0 | _CR0,
        f.GUEST_CR4: real.cr4_fixed0 | _PAE,
        f.GUEST_PAT: _PAT,
    }
    for field, value in values.items():
        vmcs.write(field, value)
    return vmcs


def enter_space(vcpu: "Vcpu", vmcs: Vmcs, space: PalSpace, *, is_64bit: bool) -> None:
    """Let the VMCS be at the beginning of a PAL; entry and stack pointer are the caller's part."""
    entry = ENTRY_OWN | (Entry.IA32E_MODE_GUEST if is_64bit else 0)
    values = {
        f.ENTRY_CONTROLS: vcpu.capabilities.entry.adjust(entry),
        f.EPTP: space.eptp,
        f.GUEST_CR3: space.cr3,
        f.GUEST_EFER: _NXE | (_LONG if is_64bit else 0),
        f.GUEST_RFLAGS: _FLAGS,
        f.GUEST_DR7: _DR7,
        f.GUEST_INTERRUPTIBILITY: BLOCKING_BY_NMI,  # they wait for the caller, whatever PALs do
        f.GUEST_PENDING_DEBUG: 0,
    }
    for field, value in values.items():
        vmcs.write(field, value)
    if not is_64bit:
        for field, value in zip(f.GUEST_PDPTES, space.pdptes, strict=True):
            vmcs.write(field, value)
    _set_segments(vmcs, is_64bit=is_64bit)


def _set_segments(vmcs: Vmcs, *, is_64bit: bool) -> None:
    code = _CODE_64 if is_64bit else _CODE_32
    rights = {"CS": code, "TR": _BUSY_TSS, "LDTR": UNUSABLE}
    selectors = {"CS": _USER_CODE, "TR": _TASK, "LDTR": 0}
    for segment in f.GUEST_SEGMENTS:
        vmcs.write(segment.selector, selectors.get(segment.name, _USER_DATA))
        vmcs.write(segment.base, 0)
        vmcs.write(segment.limit, _LIMITS.get(segment.name, 0xFFFF_FFFF))
        vmcs.write(segment.access_rights, rights.get(segment.name, _DATA))
