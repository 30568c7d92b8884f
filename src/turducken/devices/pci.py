"""PCI configuration space through ports CF8h and CFCh, and the reset control register CF9h.

PCI Local Bus Specification, "Software Generation of Configuration Transactions" (mechanism 1).
"""

from collections.abc import Callable

from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.bus import all_ones

ADDRESS_PORT = 0xCF8
RESET_PORT = 0xCF9
DATA_PORT = 0xCFC
CONFIGURATION_SIZE = 256

CONFIG_ADDRESS = Layout(
    "CONFIG_ADDRESS",
    32,
    reserved(1, 0),
    bits("REGISTER", 7, 2),
    bits("FUNCTION", 10, 8),
    bits("DEVICE", 15, 11),
    bits("BUS", 23, 16),
    reserved(30, 24),
    bit("ENABLE", 31),
    source='PCI Local Bus Specification, "Software Generation of Configuration Transactions"',
)

_FULL_RESET = 0x04
"""Reset control register bit 2: a rise resets the machine."""


def _ignore() -> None:
    """Take an event that nobody wants."""


class PciFunction:
    """The configuration space of one PCI function: its bytes, and which bits a guest may change."""

    def __init__(self, header: bytes, writable: dict[int, int] | None = None) -> None:
        self._bytes = bytearray(header.ljust(CONFIGURATION_SIZE, b"\0"))
        self._writable = dict(writable or {})

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes at ``offset``."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Change those of ``size`` bytes at ``offset`` that are writable."""
        for index in range(size):
            mask = self._writable.get(offset + index, 0)
            kept = self._bytes[offset + index] & ~mask
            self._bytes[offset + index] = kept | (value >> 8 * index & mask)


def pci_header(vendor: int, device: int, device_class: int) -> bytes:
    """Return the first 16 bytes of a type 0 header.

    ``device_class`` is class, subclass and programming interface in three bytes.
    """
    ids = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    command_and_status = bytes(4)
    revision_and_class = bytes([2]) + device_class.to_bytes(3, "little")
    return ids + command_and_status + revision_and_class + bytes(4)


def host_bridge() -> PciFunction:
    """Return a host bridge as the 82441FX has it, without anything behind it."""
    return PciFunction(pci_header(0x8086, 0x1237, 0x060000))


class PciConfiguration:
    """Buses of PCI functions; all ones are read where no function is.

    ``on_reset`` is called when the guest resets the machine through CF9h.
    """

    ports = (range(ADDRESS_PORT, DATA_PORT + 4),)
    widest_access = 4

    def __init__(self, on_reset: Callable[[], None] = _ignore) -> None:
        self._on_reset = on_reset
        self._address = 0
        self._reset_control = 0
        self._functions: dict[tuple[int, int, int], PciFunction] = {(0, 0, 0): host_bridge()}

    def add(self, bus: int, device: int, function: int, space: PciFunction) -> None:
        """Put a function on a bus."""
        self._functions[bus, device, function] = space

    def _selected(self) -> PciFunction | None:
        address = CONFIG_ADDRESS.decode(self._address)
        if not address["ENABLE"]:
            return None
        return self._functions.get((address["BUS"], address["DEVICE"], address["FUNCTION"]))

    def _offset(self, port: int) -> int:
        return self._address & CONFIG_ADDRESS.mask("REGISTER") | port & 3

    def port_read(self, port: int, size: int) -> int:
        """Return the address register (a doubleword), the reset register, or configuration data."""
        if port == ADDRESS_PORT and size == 4:
            return self._address
        if port == RESET_PORT:
            return self._reset_control
        space = self._selected()
        if port < DATA_PORT or space is None:
            return all_ones(size)
        return space.read(self._offset(port), size)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write the address register (a doubleword), the reset register, or configuration data."""
        if port == ADDRESS_PORT and size == 4:
            self._address = value & ~CONFIG_ADDRESS.reserved_mask
        elif port == RESET_PORT:
            rises = value & ~self._reset_control & _FULL_RESET
            self._reset_control = value & 0x0E
            if rises:
                self._on_reset()
        elif port >= DATA_PORT:
            space = self._selected()
            if space is not None:
                space.write(self._offset(port), size, value)
