"""The state in which L1's processors begin."""

from dataclasses import dataclass

from turducken.arch.registers import CR0
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import Activity
from turducken.vmx.vmcs import Vmcs

_CODE_32, _DATA_32 = 0xC09B, 0xC093
_CODE_16, _DATA_16 = 0x9B, 0x93
_LDTR, _TSS_32 = 0x82, 0x8B
_FLAGS = 2
DR7_RESET = 0x400
CR0_RESET = CR0.mask("ET", "NW", "CD")


@dataclass(frozen=True, slots=True)
class BootRegisters:
    """A loader's entry: 32-bit protected mode, paging off, flat segments, interrupts off."""

    eip: int
    is_reset: bool = False
    """Begin at the reset vector instead, as reset leaves a processor."""
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0
    esi: int = 0
    edi: int = 0
    ebp: int = 0
    esp: int = 0
    eflags: int = 2
    cr0: int = CR0.mask("PE", "ET")
    gdt_base: int = 0
    gdt_limit: int = 0xFFFF
    code_selector: int = 0x08
    data_selector: int = 0x10

    def general(self) -> list[int]:
        """Return the general-purpose registers in encoding order (RSP's slot 0)."""
        low = [self.eax, self.ecx, self.edx, self.ebx, 0, self.ebp, self.esi, self.edi]
        return low + [0] * 8


def _set_segments(vmcs: Vmcs, *, code: int, data: int, limit: int) -> None:
    for segment in f.GUEST_SEGMENTS:
        rights = {"CS": code, "LDTR": _LDTR, "TR": _TSS_32}.get(segment.name, data)
        vmcs.write(segment.selector, 0)
        vmcs.write(segment.base, 0)
        vmcs.write(segment.limit, 0xFFFF if segment.name in ("LDTR", "TR") else limit)
        vmcs.write(segment.access_rights, rights)


def _set_common(vmcs: Vmcs) -> None:
    for one in (
        f.GUEST_CR3,
        f.GUEST_CR4,
        f.GUEST_EFER,
        f.GUEST_GDTR_BASE,
        f.GUEST_IDTR_BASE,
        f.GUEST_INTERRUPTIBILITY,
        f.GUEST_ACTIVITY,
        f.GUEST_PENDING_DEBUG,
        f.GUEST_RSP,
    ):
        vmcs.write(one, 0)
    vmcs.write(f.GUEST_GDTR_LIMIT, 0xFFFF)
    vmcs.write(f.GUEST_IDTR_LIMIT, 0xFFFF)
    vmcs.write(f.GUEST_RFLAGS, _FLAGS)
    vmcs.write(f.GUEST_DR7, DR7_RESET)


def set_loaded_state(vmcs: Vmcs, boot: BootRegisters) -> int:
    """Fill the guest-state area for a loader's entry; return the CR0 that L1 is to see."""
    _set_common(vmcs)
    _set_segments(vmcs, code=_CODE_32, data=_DATA_32, limit=0xFFFF_FFFF)
    for segment in f.GUEST_SEGMENTS:
        if segment.name == "CS":
            vmcs.write(segment.selector, boot.code_selector)
        elif segment.name not in ("LDTR", "TR"):
            vmcs.write(segment.selector, boot.data_selector)
    vmcs.write(f.GUEST_GDTR_BASE, boot.gdt_base)
    vmcs.write(f.GUEST_GDTR_LIMIT, boot.gdt_limit)
    vmcs.write(f.GUEST_RFLAGS, boot.eflags)
    vmcs.write(f.GUEST_RIP, boot.eip)
    vmcs.write(f.GUEST_RSP, boot.esp)
    return boot.cr0


def set_waiting_state(vmcs: Vmcs) -> int:
    """Fill the guest-state area as INIT does, waiting for a SIPI; return L1's CR0."""
    _set_common(vmcs)
    _set_segments(vmcs, code=_CODE_16, data=_DATA_16, limit=0xFFFF)
    vmcs.write(f.GUEST_CS_SELECTOR, 0xF000)
    vmcs.write(f.GUEST_CS_BASE, 0xFFFF_0000)
    vmcs.write(f.GUEST_RIP, 0xFFF0)
    vmcs.write(f.GUEST_ACTIVITY, Activity.WAIT_FOR_SIPI)
    return CR0_RESET


def set_reset_state(vmcs: Vmcs) -> int:
    """Fill the guest-state area as reset does for the boot processor; return L1's CR0."""
    cr0 = set_waiting_state(vmcs)
    vmcs.write(f.GUEST_ACTIVITY, Activity.ACTIVE)
    return cr0


def start_at(vmcs: Vmcs, vector: int) -> None:
    """Begin where a startup IPI says: real mode, CS:IP = ``vector`` * 100H : 0."""
    vmcs.write(f.GUEST_CS_SELECTOR, vector << 8)
    vmcs.write(f.GUEST_CS_BASE, vector << 12)
    vmcs.write(f.GUEST_RIP, 0)
    vmcs.write(f.GUEST_ACTIVITY, Activity.ACTIVE)
