"""The firmware's ROM as a device: what is written to it is lost.

Processors read it and run its code without asking.
"""

from turducken.devices.bus import Region
from turducken.memory import PhysicalMemory


class Rom:
    """The ROM of ``memory``."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.region = Region(memory.rom_region.base, memory.rom_region.size)

    def mmio_read(self, offset: int, size: int) -> int:
        """Return bytes of the ROM."""
        return int.from_bytes(self._memory.read(self.region.base + offset, size), "little")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Nothing changes."""
