"""Putting into memory what a BIOS leaves there."""

from collections.abc import Sequence
from dataclasses import dataclass

from turducken.machine.firmware import bios_area, mp_table, smbios
from turducken.machine.firmware.acpi import build_acpi
from turducken.machine.firmware.memory_map import (
    BIOS_BASE,
    EBDA_BASE,
    TABLES_BASE,
    MemoryMap,
    pc_memory_map,
)
from turducken.machine.firmware.more_tables import more_tables
from turducken.machine.firmware.services import install_services
from turducken.memory import Memory
from turducken.memory.physical import LOW_LIMIT

MOST_PROCESSORS = 255
"""APIC IDs 0 to 254: all that a machine without interrupt remapping can address in xAPIC mode."""

_RSDP_ADDRESS = BIOS_BASE + 0x100
_EBDA_RSDP_ADDRESS = EBDA_BASE + 0x10
_MP_POINTER_ADDRESS = BIOS_BASE + 0x200
_MP_TABLE_ADDRESS = BIOS_BASE + 0x400
_SMBIOS_ADDRESS = BIOS_BASE + 0x300
_SMBIOS_END = BIOS_BASE
"""The structures end here, at the top of the area of the ACPI tables."""

_SIMPLE_IDS = 15


@dataclass(frozen=True, slots=True)
class FirmwareOptions:
    """What the tables describe; the signature and features are CPUID.01H's EAX and EDX."""

    ram_size: int
    """In bytes."""
    processors: int = 1
    cpu_signature: int = 0x0005_06E3
    cpu_features: int = 0x0F8B_FBFF
    disks: Sequence[int] = ()
    """Sectors of the disks of the first IDE channel."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """What was left in memory, and where."""

    memory_map: MemoryMap
    rsdp: bytes
    rsdp_address: int
    io_apic_id: int


def io_apic_id(processors: int) -> int:
    """Return the I/O APIC's ID: the first that no processor has, where four bits can hold it."""
    return processors if processors < _SIMPLE_IDS else 0


def install_firmware(memory: Memory, options: FirmwareOptions) -> Firmware:
    """Write vectors, data areas, ACPI and MP tables for a PC of 1 to 255 processors.

    Raises ValueError for a number of processors or a size of RAM that no such PC has.
    """
    processors = options.processors
    if not 1 <= processors <= MOST_PROCESSORS:
        raise ValueError(f"{processors} processors: a PC has 1 to {MOST_PROCESSORS}")
    memory_map = pc_memory_map(options.ram_size)
    apic_id = io_apic_id(processors)
    _write_bios_area(memory, len(options.disks))
    install_services(memory, memory_map, options.disks)
    low_ram = min(options.ram_size, LOW_LIMIT)
    acpi = build_acpi(TABLES_BASE, processors, apic_id, more_tables(), low_ram)
    memory.write(TABLES_BASE, acpi.image)
    memory.write(_RSDP_ADDRESS, acpi.rsdp)
    memory.write(_EBDA_RSDP_ADDRESS, acpi.rsdp)
    table = mp_table.configuration_table(
        processors, apic_id, options.cpu_signature, options.cpu_features
    )
    memory.write(_MP_TABLE_ADDRESS, table)
    memory.write(_MP_POINTER_ADDRESS, mp_table.floating_pointer(_MP_TABLE_ADDRESS))
    _write_smbios(memory, options)
    return Firmware(memory_map, acpi.rsdp, _RSDP_ADDRESS, apic_id)


def _write_bios_area(memory: Memory, disks: int) -> None:
    memory.write(0, bios_area.interrupt_vectors())
    memory.write(bios_area.BDA_BASE, bios_area.bios_data_area(disks))
    memory.write(EBDA_BASE, bios_area.extended_bios_data_area())
    for address, content in bios_area.code_pieces():
        memory.write(address, content)


def _write_smbios(memory: Memory, options: FirmwareOptions) -> None:
    """Write the entry point where it is scanned for, and the structures into the tables' area."""
    structures, count, largest = smbios.smbios_structures(
        options.ram_size, options.processors, options.cpu_signature, options.cpu_features
    )
    address = _SMBIOS_END - len(structures) & -16
    memory.write(address, structures)
    entry = smbios.smbios_entry(address, len(structures), count, largest)
    memory.write(_SMBIOS_ADDRESS, entry)
