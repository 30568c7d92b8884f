"""PCI configuration space through ports CF8h and CFCh, and the reset control register CF9h.

PCI Local Bus Specification, "Software Generation of Configuration Transactions" (mechanism 1).
"""

from collections.abc import Callable, Mapping

from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.bus import all_ones
from turducken.devices.pci.function import PciFunction

ADDRESS_PORT = 0xCF8
RESET_PORT = 0xCF9
DATA_PORT = 0xCFC

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

_ENABLE = CONFIG_ADDRESS.mask("ENABLE")

_FULL_RESET = 0x04
"""Reset control register bit 2: a rise resets the machine."""


def _ignore() -> None:
    """Take an event that nobody wants."""


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
        self._functions: dict[tuple[int, int, int], PciFunction] = {}

    def add(self, bus: int, device: int, function: int, space: PciFunction) -> None:
        """Put a function on a bus."""
        self._functions[bus, device, function] = space

    def _selected(self) -> PciFunction | None:
        address = self._address
        if not address & _ENABLE:
            return None
        return self._functions.get((address >> 16 & 0xFF, address >> 11 & 31, address >> 8 & 7))

    @property
    def functions(self) -> Mapping[tuple[int, int, int], PciFunction]:
        """The functions by bus, device and function number."""
        return self._functions

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
