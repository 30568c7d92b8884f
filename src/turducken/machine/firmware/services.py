"""The BIOS services INT 13h and INT 15h: the code of guests/bios, and what it is to tell."""

import struct
from collections.abc import Sequence
from importlib import resources

from turducken.address import GIB, KIB, MIB
from turducken.machine.firmware.bios_area import SERVICES_OFFSET
from turducken.machine.firmware.memory_map import BIOS_BASE, MemoryMap
from turducken.memory import Memory

_TABLES, _MEMORY, _DISKS = 0x7000, 0x7E00, 0x7E10
"""Offsets in the BIOS segment that the code knows."""
MOST_DISKS = 2
_MOST_RANGES = 128
_16_MIB = 16 * MIB


def services_code() -> bytes:
    """Return the code, which is linked for `SERVICES_OFFSET` in the BIOS segment."""
    return (resources.files("turducken") / "images/bios-services.bin").read_bytes()


def install_services(memory: Memory, memory_map: MemoryMap, disks: Sequence[int]) -> None:
    """Write code and tables; ``disks`` are the sectors of the disks of the first channel."""
    memory.write(BIOS_BASE + SERVICES_OFFSET, services_code())
    ranges = tuple(memory_map)[:_MOST_RANGES]
    table = struct.pack("<H", len(ranges))
    table += b"".join(struct.pack("<QQI", one.start, one.size, one.kind) for one in ranges)
    memory.write(BIOS_BASE + _TABLES, table)
    end = min(memory_map.upper_kib * KIB + MIB, 4 * GIB)
    below = (min(end, _16_MIB) - MIB) // KIB
    above = max(end - _16_MIB, 0) // (64 * KIB)
    all_of_it = min((end - MIB) // KIB, 0xFFFF)
    memory.write(BIOS_BASE + _MEMORY, struct.pack("<HHH", below, above, all_of_it))
    sectors = [min(one, 0xFFFF_FFFF) for one in disks[:MOST_DISKS]]
    told = struct.pack(f"<H{len(sectors)}I", len(sectors), *sectors)
    memory.write(BIOS_BASE + _DISKS, told)
