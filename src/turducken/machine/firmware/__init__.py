"""What a BIOS leaves behind: memory map, tables in memory, and registers of the chip set."""

from turducken.machine.firmware.install import Firmware, FirmwareOptions, install_firmware
from turducken.machine.firmware.memory_map import MemoryKind, MemoryMap, MemoryRange, pc_memory_map

__all__ = [
    "Firmware",
    "FirmwareOptions",
    "MemoryKind",
    "MemoryMap",
    "MemoryRange",
    "install_firmware",
    "pc_memory_map",
]
