"""From a machine that is switched off to the image's first instruction."""

from turducken.address import MIB
from turducken.arch.msr import IA32_FEATURE_CONTROL
from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.processor import Processor
from turducken.devices.uart import COM1
from turducken.machine.boot import AnyImage, BootRequest, BootState, boot
from turducken.machine.firmware import (
    Firmware,
    FirmwareOptions,
    fw_cfg_files,
    install_firmware,
    pc_memory_map,
)
from turducken.machine.firmware.acpi import build_acpi
from turducken.machine.firmware.install import io_apic_id
from turducken.machine.firmware.memory_map import TABLES_BASE
from turducken.machine.firmware.more_tables import more_tables
from turducken.machine.firmware.pci_setup import set_up_pci
from turducken.machine.firmware.registers import PROCESSOR_MSRS, set_mtrrs, set_up_chipset
from turducken.machine.firmware.rom import RomImage
from turducken.machine.machine import Machine
from turducken.memory.physical import LOW_LIMIT
from turducken.system.disks import bios_disks
from turducken.system.options import SystemOptions

_FLAT_CODE, _FLAT_DATA = 0xC09B, 0xC093
RESET_VECTOR = 0xFFF0
"""In the code segment whose base reset sets to FFFF0000h."""
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
        disks=bios_disks(machine.options.ide),
    )
    firmware = install_firmware(machine.memory, options)
    set_up_chipset(machine.chipset, firmware.io_apic_id)
    set_up_pci(machine.chipset)
    for processor, mtrrs in zip(machine.processors, machine.mtrrs, strict=True):
        set_mtrrs(mtrrs, processor.maxphyaddr)
        for index, value in PROCESSOR_MSRS.items():
            processor.msrs.write(index, value)
    return firmware


def prepare(machine: Machine, options: SystemOptions) -> BootState:
    """Do what is done before the first instruction of the image, or of the firmware in a ROM."""
    if isinstance(options.image, RomImage):
        return switch_on(machine, options.image, options)
    return load(machine, options.image, run_firmware(machine, options.memory), options)


def switch_on(machine: Machine, rom: RomImage, options: SystemOptions) -> BootState:
    """Leave the machine as it is when it has just been switched on, for firmware in a ROM."""
    processors = len(machine.processors)
    chipset = machine.chipset
    low_ram = min(options.memory, LOW_LIMIT)
    acpi = build_acpi(0, processors, io_apic_id(processors), more_tables(), low_ram)
    fw_cfg_files.add_acpi(chipset.fw_cfg, acpi)
    fw_cfg_files.add_memory_map(chipset.fw_cfg, options.memory)
    fw_cfg_files.add_boot_settings(chipset.fw_cfg, COM1)
    chipset.cmos.set_boot_order()
    shadow = rom.data[-(MIB - TABLES_BASE) :]
    machine.memory.write(MIB - len(shadow), shadow)
    for processor in machine.processors:
        processor.msrs.write(IA32_FEATURE_CONTROL, PROCESSOR_MSRS[IA32_FEATURE_CONTROL])
    return BootState(
        version=0,
        eip=RESET_VECTOR,
        eax=0,
        ebx=0,
        esp=0,
        gdt_base=0,
        memory_map=pc_memory_map(options.memory),
        image_ranges=(),
        command_line=options.text,
        is_reset=True,
    )


def load(
    machine: Machine, image: AnyImage, firmware: Firmware, options: SystemOptions
) -> BootState:
    """Put the image and what belongs to it into memory; ImageError where it does not fit."""
    request = BootRequest(
        firmware.memory_map,
        options.text,
        options.modules,
        rsdp=firmware.rsdp,
        rsdp_address=firmware.rsdp_address,
        initrd=options.initrd,
    )
    return boot(image, machine.memory, request)


def start(processor: Processor, boot_state: BootState) -> None:
    """Put the boot processor at the image's entry point."""
    if boot_state.is_reset:
        return
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
