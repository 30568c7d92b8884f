"""The VM-execution controls in force while a guest runs, taken out of the VMCS once per change.

SDM 3C, "VM-Execution Control Fields" and "Instructions That Cause VM Exits".
"""

from dataclasses import dataclass, field, replace

from turducken.arch.exceptions import Vector
from turducken.cpu.events import Event, EventKind
from turducken.memory import PhysicalMemory
from turducken.mmu.context import Context
from turducken.mmu.mmu import EptSetup
from turducken.paging.formats import EPT, Features
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Entry, Exit, PinBased, Primary, Secondary, VmFunction
from turducken.vmx.vmcs import Vmcs

__all__ = ["Entry", "Exit", "GuestControls", "PinBased", "Primary", "Secondary", "VmFunction"]

_LOW_MSRS = range(0x2000)
_HIGH_MSRS = range(0xC000_0000, 0xC000_2000)
_HIGH_PART, _WRITE_PART = 1024, 2048


@dataclass(slots=True)
class GuestControls:
    """One guest's controls. Words of controls are as in the VMCS, 0 where not activated."""

    pin: int
    primary: int
    secondary: int
    exit: int
    entry: int
    exception_bitmap: int
    page_fault_mask: int
    page_fault_match: int
    cr0_mask: int
    cr0_shadow: int
    cr4_mask: int
    cr4_shadow: int
    cr3_targets: tuple[int, ...]
    io_bitmaps: tuple[int, int]
    msr_bitmaps: int
    tsc_offset: int
    tsc_multiplier: int
    vpid: int
    ept: EptSetup | None
    apic_access_page: int | None
    virtual_apic: int
    tpr_threshold: int
    eoi_exits: int
    """A bit for each vector: EOI virtualization causes a VM exit."""
    notification_vector: int
    posted_interrupts: int
    """Address of the posted-interrupt descriptor."""
    vm_functions: int
    eptp_list: int
    pml_address: int
    memory: PhysicalMemory = field(repr=False)
    contexts: dict[tuple[tuple[int, int, int, int], int], Context] = field(
        default_factory=dict, repr=False, compare=False
    )
    """What has translated for the guest, by its registers: `turducken.cpu.control_registers`."""

    def has_primary(self, control: int) -> bool:
        """Tell whether a primary processor-based control is 1."""
        return bool(self.primary & control)

    def has_secondary(self, control: int) -> bool:
        """Tell whether a secondary processor-based control is 1 (and secondary ones are active)."""
        return bool(self.secondary & control)

    def exits_on(self, event: Event) -> bool:
        """Tell whether an exception or NMI causes a VM exit; INT n never does."""
        if event.kind is EventKind.NMI:
            return bool(self.pin & PinBased.NMI_EXITING)
        if event.kind in (EventKind.EXTERNAL, EventKind.SOFTWARE_INTERRUPT, EventKind.OTHER):
            return False
        wanted = bool(self.exception_bitmap >> event.vector & 1)
        if event.vector == Vector.PF and event.kind is EventKind.HARDWARE:
            # "an exit occurs if the bit is set and the masked error code matches, or the bit is
            # clear and it does not".
            matches = (event.error_code or 0) & self.page_fault_mask == self.page_fault_match
            return wanted == matches
        return wanted

    def exits_on_port(self, port: int, size: int) -> bool:
        """Tell whether IN or OUT of these ports causes a VM exit."""
        if self.primary & Primary.USE_IO_BITMAPS:
            if port + size > 0x1_0000:
                return True
            return any(self._port_bit(one) for one in range(port, port + size))
        return bool(self.primary & Primary.UNCONDITIONAL_IO_EXITING)

    def _port_bit(self, port: int) -> int:
        base = self.io_bitmaps[port >> 15]
        return self.memory.load(base + (port >> 3 & 0xFFF), 1) >> (port & 7) & 1

    def exits_on_msr(self, index: int, *, write: bool) -> bool:
        """Tell whether RDMSR or WRMSR of ``index`` causes a VM exit."""
        if not self.primary & Primary.USE_MSR_BITMAPS:
            return True
        if index in _LOW_MSRS:
            place = index
        elif index in _HIGH_MSRS:
            place = (index & 0x1FFF) + 8 * _HIGH_PART
        else:
            return True
        byte = self.msr_bitmaps + (place >> 3) + (_WRITE_PART if write else 0)
        return bool(self.memory.load(byte, 1) >> (place & 7) & 1)


def read_controls(
    vmcs: Vmcs, memory: PhysicalMemory, features: Features, *, advanced_ept: bool = False
) -> GuestControls:
    """Read the controls of ``vmcs`` (which has passed the checks of VM entry).

    ``features`` are those of EPT; ``advanced_ept``: violations come with advanced information.
    """
    read = vmcs.read
    primary = read(f.PRIMARY_CONTROLS)
    active = primary & Primary.ACTIVATE_SECONDARY_CONTROLS
    secondary = read(f.SECONDARY_CONTROLS) if active else 0
    targets = (
        f.CR3_TARGET_VALUE_0,
        f.CR3_TARGET_VALUE_1,
        f.CR3_TARGET_VALUE_2,
        f.CR3_TARGET_VALUE_3,
    )
    count = read(f.CR3_TARGET_COUNT)
    uses_offset = primary & Primary.USE_TSC_OFFSETTING
    scales = uses_offset and secondary & Secondary.USE_TSC_SCALING
    ept = None
    if secondary & Secondary.ENABLE_EPT:
        mode_based = bool(secondary & Secondary.MODE_BASED_EXECUTE)
        bound = EPT.bind(replace(features, mode_based_execute=mode_based))
        ept = EptSetup(bound, 0, False, advanced_ept).with_eptp(read(f.EPTP))
    apic = secondary & Secondary.VIRTUALIZE_APIC_ACCESSES
    functions = secondary & Secondary.ENABLE_VM_FUNCTIONS
    return GuestControls(
        pin=read(f.PIN_BASED_CONTROLS),
        primary=primary,
        secondary=secondary,
        exit=read(f.EXIT_CONTROLS),
        entry=read(f.ENTRY_CONTROLS),
        exception_bitmap=read(f.EXCEPTION_BITMAP),
        page_fault_mask=read(f.PAGE_FAULT_ERROR_CODE_MASK),
        page_fault_match=read(f.PAGE_FAULT_ERROR_CODE_MATCH),
        cr0_mask=read(f.CR0_GUEST_HOST_MASK),
        cr0_shadow=read(f.CR0_READ_SHADOW),
        cr4_mask=read(f.CR4_GUEST_HOST_MASK),
        cr4_shadow=read(f.CR4_READ_SHADOW),
        cr3_targets=tuple(read(one) for one in targets[:count]),
        io_bitmaps=(read(f.IO_BITMAP_A), read(f.IO_BITMAP_B)),
        msr_bitmaps=read(f.MSR_BITMAPS),
        tsc_offset=read(f.TSC_OFFSET) if uses_offset else 0,
        tsc_multiplier=read(f.TSC_MULTIPLIER) if scales else 1 << 48,
        vpid=read(f.VPID) if secondary & Secondary.ENABLE_VPID else 0,
        ept=ept,
        apic_access_page=read(f.APIC_ACCESS_ADDRESS) if apic else None,
        virtual_apic=read(f.VIRTUAL_APIC_ADDRESS),
        tpr_threshold=read(f.TPR_THRESHOLD),
        eoi_exits=sum(read(one) << 64 * number for number, one in enumerate(f.EOI_EXIT_BITMAPS)),
        notification_vector=read(f.POSTED_INTERRUPT_VECTOR),
        posted_interrupts=read(f.POSTED_INTERRUPT_DESCRIPTOR),
        vm_functions=read(f.VM_FUNCTION_CONTROLS) if functions else 0,
        eptp_list=read(f.EPTP_LIST_ADDRESS),
        pml_address=read(f.PML_ADDRESS) if secondary & Secondary.ENABLE_PML else 0,
        memory=memory,
    )
