"""One PCI function: its configuration space, and the registers that its base addresses place.

PCI Local Bus Specification, "Configuration Space Organization" and "Base Addresses".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from turducken.bits import Layout, bit, reserved
from turducken.devices.bus import Region
from turducken.devices.lines import LineDriver, unconnected

CONFIGURATION_SIZE = 256

COMMAND, STATUS, REVISION, HEADER_TYPE, BARS = 0x04, 0x06, 0x08, 0x0E, 0x10
SUBSYSTEM, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x2C, 0x34, 0x3C, 0x3D
MOST_BARS = 6

COMMAND_REGISTER = Layout(
    "PCI command",
    16,
    bit("IO", 0, "answers in port I/O space"),
    bit("MEMORY", 1, "answers in memory space"),
    bit("MASTER", 2, "may access memory by itself"),
    bit("SPECIAL", 3),
    bit("MWI", 4),
    bit("SNOOP", 5),
    bit("PERR", 6),
    reserved(7),
    bit("SERR", 8),
    bit("BACK_TO_BACK", 9),
    bit("NO_INTERRUPT", 10, "keeps the interrupt pin quiet"),
    reserved(15, 11),
    source='PCI Local Bus Specification, "Device Control"',
)
_HAS_CAPABILITIES = 0x10
_INTERRUPT_STATUS = 0x08
_MULTIFUNCTION = 0x80
_IO_SPACE, _MEMORY_64 = 1, 4


class Registers(Protocol):
    """What stands behind a base address: registers by their offset in it."""

    def read_register(self, offset: int, size: int) -> int:
        """Return ``size`` bytes at ``offset``."""

    def write_register(self, offset: int, size: int, value: int) -> None:
        """Replace ``size`` bytes at ``offset``."""


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """Who a function is; ``device_class`` is class, subclass and programming interface."""

    vendor: int
    device: int
    device_class: int
    revision: int = 0
    subsystem: tuple[int, int] = (0x1AF4, 0x1100)
    """Vendor and device of the subsystem."""

    def header(self, *, multifunction: bool = False) -> bytes:
        """Return the 64 bytes of a type 0 header without base addresses."""
        header = bytearray(64)
        header[0:2] = self.vendor.to_bytes(2, "little")
        header[2:4] = self.device.to_bytes(2, "little")
        header[REVISION] = self.revision
        header[REVISION + 1 : REVISION + 4] = self.device_class.to_bytes(3, "little")
        header[HEADER_TYPE] = _MULTIFUNCTION if multifunction else 0
        header[SUBSYSTEM : SUBSYSTEM + 2] = self.subsystem[0].to_bytes(2, "little")
        header[SUBSYSTEM + 2 : SUBSYSTEM + 4] = self.subsystem[1].to_bytes(2, "little")
        return bytes(header)


class Bar:
    """A base address register: ``size`` (a power of two) bytes of registers, once it is enabled."""

    space_bits = 0
    enable = 0

    def __init__(self, size: int, registers: Registers) -> None:
        assert size & size - 1 == 0
        self.size = size
        self._registers = registers
        self.base: int | None = None
        """Where the registers are, or None while they cannot be reached."""


class IoBar(Bar):
    """A base address in port I/O space: a `turducken.devices.bus.PortDevice` that moves."""

    space_bits = _IO_SPACE
    enable = COMMAND_REGISTER.mask("IO")
    widest_access = 4

    @property
    def ports(self) -> Sequence[range]:
        """The ports that the registers have now; none at 0, where nothing has been assigned."""
        if not self.base or self.base + self.size > 1 << 16:
            return ()
        return (range(self.base, self.base + self.size),)

    def port_read(self, port: int, size: int) -> int:
        """Return a register."""
        return self._registers.read_register(port - (self.base or 0), size)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a register."""
        self._registers.write_register(port - (self.base or 0), size, value)


class MemoryBar(Bar):
    """A base address in memory space, of 32 bits or ``is_64bit``, where it takes two registers."""

    enable = COMMAND_REGISTER.mask("MEMORY")

    def __init__(self, size: int, registers: Registers, *, is_64bit: bool = False) -> None:
        super().__init__(size, registers)
        self.is_64bit = is_64bit
        self.space_bits = _MEMORY_64 if is_64bit else 0

    @property
    def region(self) -> Region | None:
        """Where the registers are now."""
        return Region(self.base, self.size) if self.base else None

    def mmio_read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes of registers."""
        return self._registers.read_register(offset, size)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write ``size`` bytes of registers."""
        self._registers.write_register(offset, size, value)


class PciFunction:
    """A function's configuration space.

    ``bars`` are by number; ``writable`` says which bits of which further bytes a guest may change,
    ``initial`` what is there after reset. ``on_bars`` is called when base addresses come, go or
    move; ``line`` is where its interrupt pin leads, if ``pin`` (1: INTA#) says that it has one.
    """

    def __init__(
        self,
        identity: PciIdentity,
        bars: Mapping[int, Bar] | None = None,
        *,
        writable: Mapping[int, int] | None = None,
        initial: Mapping[int, int] | None = None,
        pin: int = 0,
        multifunction: bool = False,
    ) -> None:
        header = identity.header(multifunction=multifunction)
        self._bytes = bytearray(header.ljust(CONFIGURATION_SIZE, b"\0"))
        self.bars = dict(bars or {})
        self.pin = pin
        self.line: LineDriver = unconnected
        self.on_bars: Callable[[], None] = _ignore
        self._interrupts = False
        self._writable = {INTERRUPT_LINE: 0xFF, **(writable or {})}
        self._bytes[INTERRUPT_PIN] = pin
        for offset, value in (initial or {}).items():
            self._bytes[offset] = value
        self._set_up_command()
        self._set_up_bars()

    def _set_up_command(self) -> None:
        mask = COMMAND_REGISTER.mask("MASTER", "SERR", "PERR")
        for bar in self.bars.values():
            mask |= bar.enable
        if self.pin:
            mask |= COMMAND_REGISTER.mask("NO_INTERRUPT")
        self._writable.setdefault(COMMAND, mask & 0xFF)
        self._writable.setdefault(COMMAND + 1, mask >> 8)

    def _set_up_bars(self) -> None:
        for number, bar in self.bars.items():
            width = 8 if bar.space_bits & _MEMORY_64 else 4
            mask = (1 << 8 * width) - bar.size
            offset = BARS + 4 * number
            for index in range(width):
                self._writable[offset + index] = mask >> 8 * index & 0xFF
            self._bytes[offset] = bar.space_bits

    def add_capability(self, content: bytes, at: int) -> None:
        """Put a capability (its ID, a byte for the link, the rest) into the list, at its front."""
        self._bytes[at : at + len(content)] = content
        self._bytes[at + 1] = self._bytes[CAPABILITIES]
        self._bytes[CAPABILITIES] = at
        self._bytes[STATUS] |= _HAS_CAPABILITIES

    def allow(self, offset: int, mask: int) -> None:
        """Let the guest change bits of the byte at ``offset``."""
        self._writable[offset] = mask

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes at ``offset``."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Change those of ``size`` bytes at ``offset`` that are writable."""
        for index in range(size):
            mask = self._writable.get(offset + index, 0)
            kept = self._bytes[offset + index] & ~mask
            self._bytes[offset + index] = kept | (value >> 8 * index & mask)
        if offset < COMMAND + 2 and offset + size > COMMAND:
            self._drive()
            self._place_bars()
        elif offset < BARS + 4 * MOST_BARS and offset + size > BARS:
            self._place_bars()
        self.written(offset, size)

    def written(self, offset: int, size: int) -> None:
        """Learn that the guest wrote ``size`` bytes at ``offset``."""

    @property
    def may_access_memory(self) -> bool:
        """Whether the guest has let the function be a bus master."""
        return bool(self._bytes[COMMAND] & COMMAND_REGISTER.mask("MASTER"))

    def _place_bars(self) -> None:
        command = self.read(COMMAND, 2)
        moved = False
        for number, bar in self.bars.items():
            width = 8 if bar.space_bits & _MEMORY_64 else 4
            base = self.read(BARS + 4 * number, width) & -bar.size
            place = base if command & bar.enable else None
            moved |= place != bar.base
            bar.base = place
        if moved:
            self.on_bars()

    def interrupt(self, *, level: bool) -> None:
        """Drive the interrupt pin."""
        self._interrupts = level
        self._drive()

    def _drive(self) -> None:
        if self._interrupts:
            self._bytes[STATUS] |= _INTERRUPT_STATUS
        else:
            self._bytes[STATUS] &= ~_INTERRUPT_STATUS
        quiet = self.read(COMMAND, 2) & COMMAND_REGISTER.mask("NO_INTERRUPT")
        self.line(level=self._interrupts and not quiet)


def _ignore() -> None:
    """Take an event that nobody wants."""
