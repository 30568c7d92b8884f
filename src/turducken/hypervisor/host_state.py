"""Host state, from both sides: L0's own in its VMCSs, and L1's as a VM exit from L2 loads it.

SDM 3C, "Loading Host State".
"""

from dataclasses import dataclass

from turducken.arch.registers import CR0, CR4, EFER
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.controls import Exit
from turducken.vmx.exit_information import UNUSABLE
from turducken.vmx.vmcs import Vmcs

_CODE_SELECTOR, _DATA_SELECTOR, _TASK_SELECTOR = 0x08, 0x10, 0x18
_LMA_LME = EFER.mask("LMA", "LME")
_CR0_KEPT = CR0.mask("ET", "NW", "CD")
"""CR0 bits that neither VM entry nor VM exit modifies."""
_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_DR7 = 0x400
_CODE_64, _CODE_32, _DATA, _TSS = 0xA09B, 0xC09B, 0xC093, 0x8B


def set_own_host_state(vmcs: Vmcs, capabilities: Capabilities, page_table: int, pat: int) -> None:
    """Fill the host-state area for L0: 64-bit mode, flat; where its code is matters to nobody."""
    cr4 = capabilities.cr4_fixed0 | CR4.mask("PAE")
    values = {
        f.HOST_CR0: capabilities.cr0_fixed0 | CR0.mask("PE", "PG", "NE", "WP"),
        f.HOST_CR3: page_table,
        f.HOST_CR4: cr4,
        f.HOST_CS_SELECTOR: _CODE_SELECTOR,
        f.HOST_SS_SELECTOR: _DATA_SELECTOR,
        f.HOST_DS_SELECTOR: _DATA_SELECTOR,
        f.HOST_ES_SELECTOR: _DATA_SELECTOR,
        f.HOST_TR_SELECTOR: _TASK_SELECTOR,
        f.HOST_PAT: pat,
        f.HOST_EFER: _LMA_LME,
    }
    for field, value in values.items():
        vmcs.write(field, value)


@dataclass(frozen=True, slots=True)
class HostImage:
    """What a VM exit to L1 loads that does not depend on the moment, ready to be copied."""

    key: tuple[bytes, int]
    registers: bytes
    segments: bytes
    loads_efer: bool
    loads_pat: bool
    loads_perf: bool
    is_long: bool
    is_pae: bool
    """L1 uses PAE paging with PDPTEs, which L0 loads."""


def host_image(vmcs12: Vmcs, exit_controls: int, scratch: Vmcs) -> HostImage:
    """Work out the guest state of VMCS01 after a VM exit to L1. ``scratch`` is a spare VMCS."""
    read = vmcs12.read
    is_long = bool(exit_controls & Exit.HOST_ADDRESS_SPACE_SIZE)
    cr0, cr4 = read(f.HOST_CR0), read(f.HOST_CR4)
    cr4 = cr4 | _PAE if is_long else cr4 & ~_PCIDE
    registers = {
        f.GUEST_CR0: cr0 & ~_CR0_KEPT,
        f.GUEST_CR4: cr4,
        f.GUEST_DR7: _DR7,
        f.GUEST_DEBUGCTL: 0,
        f.GUEST_SYSENTER_ESP: read(f.HOST_SYSENTER_ESP),
        f.GUEST_SYSENTER_EIP: read(f.HOST_SYSENTER_EIP),
        f.GUEST_PAT: read(f.HOST_PAT),
        f.GUEST_EFER: read(f.HOST_EFER),
        f.GUEST_PERF_GLOBAL_CTRL: read(f.HOST_PERF_GLOBAL_CTRL),
        f.GUEST_BNDCFGS: 0,
        f.GUEST_GDTR_BASE: read(f.HOST_GDTR_BASE),
        f.GUEST_IDTR_BASE: read(f.HOST_IDTR_BASE),
        f.GUEST_GDTR_LIMIT: 0xFFFF,
        f.GUEST_IDTR_LIMIT: 0xFFFF,
    }
    for field, value in registers.items():
        scratch.write(field, value)
    _write_segments(scratch, vmcs12, is_long=is_long)
    efer_long = read(f.HOST_EFER) & EFER.mask("LMA") if exit_controls & Exit.LOAD_EFER else is_long
    return HostImage(
        (vmcs12.pack(f.HOST_SLOTS), exit_controls),
        scratch.pack(f.GUEST_REGISTER_SLOTS),
        scratch.pack(f.GUEST_SEGMENT_SLOTS),
        bool(exit_controls & Exit.LOAD_EFER),
        bool(exit_controls & Exit.LOAD_PAT),
        bool(exit_controls & Exit.LOAD_PERF_GLOBAL_CTRL),
        is_long,
        bool(cr0 & CR0.mask("PG") and cr4 & _PAE and not efer_long),
    )


def _write_segments(vmcs: Vmcs, vmcs12: Vmcs, *, is_long: bool) -> None:
    """Write the selectors, with the bases, limits and access rights that the manual fixes."""
    hosts = {
        "ES": (f.HOST_ES_SELECTOR, None),
        "CS": (f.HOST_CS_SELECTOR, None),
        "SS": (f.HOST_SS_SELECTOR, None),
        "DS": (f.HOST_DS_SELECTOR, None),
        "FS": (f.HOST_FS_SELECTOR, f.HOST_FS_BASE),
        "GS": (f.HOST_GS_SELECTOR, f.HOST_GS_BASE),
        "TR": (f.HOST_TR_SELECTOR, f.HOST_TR_BASE),
    }
    for segment in f.GUEST_SEGMENTS:
        selector_field, base_field = hosts.get(segment.name, (None, None))
        selector = vmcs12.read(selector_field) if selector_field else 0
        base = vmcs12.read(base_field) if base_field else 0
        limit, rights = 0xFFFF_FFFF, _DATA
        if segment.name == "CS":
            rights = _CODE_64 if is_long else _CODE_32
        elif segment.name == "TR":
            limit, rights = 0x67, _TSS
        elif segment.name == "LDTR":
            limit, rights = 0, UNUSABLE
        elif not selector:
            rights = UNUSABLE | _DATA
        vmcs.write(segment.selector, selector)
        vmcs.write(segment.base, base)
        vmcs.write(segment.limit, limit)
        vmcs.write(segment.access_rights, rights)


def load_host_image(vmcs01: Vmcs, vmcs12: Vmcs, image: HostImage, after: Vmcs) -> None:
    """Put L1's host state into VMCS01; ``after`` is the VMCS that holds what L2 left behind."""
    left, host = after.slots, vmcs12.slots
    cr0, efer, pat = left[f.GUEST_CR0.slot], left[f.GUEST_EFER.slot], left[f.GUEST_PAT.slot]
    vmcs01.unpack(f.GUEST_REGISTER_SLOTS, image.registers)  # ``after`` may be VMCS01 itself
    vmcs01.unpack(f.GUEST_SEGMENT_SLOTS, image.segments)
    slots = vmcs01.slots
    slots[f.GUEST_CR0.slot] |= cr0 & _CR0_KEPT
    if not image.loads_efer:
        slots[f.GUEST_EFER.slot] = efer & ~_LMA_LME | (_LMA_LME if image.is_long else 0)
    if not image.loads_pat:
        slots[f.GUEST_PAT.slot] = pat
    slots[f.GUEST_RIP.slot] = host[f.HOST_RIP.slot]
    slots[f.GUEST_RSP.slot] = host[f.HOST_RSP.slot]
    slots[f.GUEST_RFLAGS.slot] = 2
    slots[f.GUEST_CR3.slot] = host[f.HOST_CR3.slot]
    slots[f.GUEST_SYSENTER_CS.slot] = host[f.HOST_SYSENTER_CS.slot]
    slots[f.GUEST_INTERRUPTIBILITY.slot] = 0
    slots[f.GUEST_ACTIVITY.slot] = 0
    slots[f.GUEST_PENDING_DEBUG.slot] = 0
