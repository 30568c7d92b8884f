"""What test suites find in QEMU's ``pc-testdev`` besides interrupt lines: latches and a little RAM.

Four ports at E0h keep what is written, and E8h is another place of the first of them. What is
written to E4h names a page that QEMU unmaps and maps again, which a guest cannot see. 64 KiB at
FF000000h are memory whose every access goes to a device, which is how suites try an emulator of
instructions.
"""

from turducken.devices.bus import Region, all_ones

LATCH_PORT, FLUSH_PORT, ALIAS_PORT = 0xE0, 0xE4, 0xE8
WINDOW_BASE, WINDOW_SIZE = 0xFF00_0000, 0x1_0000


class PcTestPorts:
    """The ports, to be accessed in any width."""

    ports = (range(LATCH_PORT, ALIAS_PORT + 1),)
    widest_access = 4

    def __init__(self) -> None:
        self._value = 0

    def port_read(self, port: int, size: int) -> int:
        """Return what was written; all ones from the port that names pages."""
        if FLUSH_PORT <= port < ALIAS_PORT:
            return all_ones(size)
        return self._value >> 8 * (port & 3) & all_ones(size)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Keep it, unless it names a page."""
        if not FLUSH_PORT <= port < ALIAS_PORT:
            shift = 8 * (port & 3)
            kept = self._value & ~(all_ones(size) << shift)
            self._value = (kept | value << shift) & all_ones(4)


class PcTestWindow:
    """Memory that is a device's; what an access reaches beyond its end reads as zero."""

    region = Region(WINDOW_BASE, WINDOW_SIZE)

    def __init__(self) -> None:
        self._bytes = bytearray(WINDOW_SIZE)

    def mmio_read(self, offset: int, size: int) -> int:
        """Return what was written."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Keep it."""
        kept = min(size, WINDOW_SIZE - offset)
        self._bytes[offset : offset + kept] = value.to_bytes(size, "little")[:kept]
