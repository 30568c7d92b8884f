"""From a machine that is switched off to the image's first instruction."""

from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.processor import Processor
from turducken.machine.boot import BootRequest, BootState, boot
from turducken.machine.firmware import Firmware, FirmwareOptions, install_firmware
from turducken.machine.firmware.registers import PROCESSOR_MSRS, set_mtrrs, set_up_chipset
from turducken.machine.machine import Machine
from turducken.system.options import SystemOptions

_FLAT_CODE, _FLAT_DATA = 0xC09B, 0xC093
_DATA_SEGMENTS = (
    SegmentIndex.ES,
    SegmentIndex.SS,
    SegmentIndex.DS,
    SegmentIndex.FS,
    SegmentIndex.GS,
)


def run_firmware(machine: Machine, ram_size: int) -> Firmware:
    """Leave everything as a BIOS does that has found ``ram_size`` bytes of RAM."""
    first = machine.processors[0]
    version = first.cpuid.leaf(1, 0, cr4=0)
    options = FirmwareOptions(
        processors=len(machine.processors),
        ram_size=ram_size,
        cpu_signature=version[0],
        cpu_features=version[3],
    )
    firmware = install_firmware(machine.memory, options)
    set_up_chipset(machine.chipset, firmware.io_apic_id)
    for processor, mtrrs in zip(machine.processors, machine.mtrrs, strict=True):
        set_mtrrs(mtrrs, processor.maxphyaddr)
        for index, value in PROCESSOR_MSRS.items():
            processor.msrs.write(index, value)
    return firmware


def load(machine: Machine, firmware: Firmware, options: SystemOptions) -> BootState:
    """Put the image and what belongs to it into memory; ImageError where it does not fit."""
    request = BootRequest(
        firmware.memory_map,
        options.text,
        options.modules,
        rsdp=firmware.rsdp,
        rsdp_address=firmware.rsdp_address,
        initrd=options.initrd,
    )
    return boot(options.image, machine.memory, request)


def start(processor: Processor, boot_state: BootState) -> None:
    """Put the boot processor at the image's entry point."""
    state = processor.state
    state.cr0 = boot_state.cr0
    state.set_segment(
        SegmentIndex.CS, Segment(boot_state.code_selector, 0, 0xFFFF_FFFF, _FLAT_CODE)
    )
    for one in _DATA_SEGMENTS:
        state.set_segment(one, Segment(boot_state.data_selector, 0, 0xFFFF_FFFF, _FLAT_DATA))
    state.set_table(SegmentIndex.GDTR, boot_state.gdt_base, boot_state.gdt_limit)
    for number, value in enumerate(general_registers(boot_state)):
        state.gpr[number] = value
    state.rip = boot_state.eip
    state.rflags = boot_state.eflags
    state.update_mode(0)
    sync_mmu(processor)


def general_registers(boot_state: BootState) -> list[int]:
    """Return RAX to RDI at the entry point, in encoding order."""
    return [boot_state.eax, 0, 0, boot_state.ebx, boot_state.esp, boot_state.ebp, boot_state.esi, 0]
