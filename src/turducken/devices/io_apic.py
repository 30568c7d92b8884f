"""The I/O APIC: 82093AA data sheet, with the EOI register that later versions have."""

from turducken.devices.apic_fabric import ApicFabric, Destination, Message
from turducken.devices.apic_registers import IO_APIC_DEFAULT_BASE, REDIRECTION, Delivery
from turducken.devices.bus import Region, all_ones

PINS = 24
VERSION = 0x20

SELECT_OFFSET = 0x00
WINDOW_OFFSET = 0x10
EOI_OFFSET = 0x40

_ID, _VERSION, _ARBITRATION, _FIRST_ENTRY = 0x00, 0x01, 0x02, 0x10
_READ_ONLY = REDIRECTION.mask("PENDING", "REMOTE_IRR") | REDIRECTION.reserved_mask
_MASKED = REDIRECTION.mask("MASKED")
_LEVEL = REDIRECTION.mask("LEVEL")
_REMOTE_IRR = REDIRECTION.mask("REMOTE_IRR")
_EDGE_ONLY = frozenset({Delivery.SMI, Delivery.NMI, Delivery.INIT, Delivery.EXTINT})
"""Delivery modes whose trigger mode is edge whatever the entry says."""


class IoApic:
    """One I/O APIC with 24 pins.

    A pin's level is given as "requested" or not, whatever its polarity in the entry: the board is
    taken to fit. Edges on a masked pin are lost; levels are not.
    """

    def __init__(
        self, fabric: ApicFabric, *, apic_id: int = 0, base: int = IO_APIC_DEFAULT_BASE
    ) -> None:
        self.region = Region(base, 0x1000)
        self._fabric = fabric
        self._id = apic_id
        self._select = 0
        self._entries = [_MASKED] * PINS
        self._lines = 0
        fabric.connect_listener(self)

    # -- pins --------------------------------------------------------------------------------------

    def set_line(self, number: int, *, level: bool) -> None:
        """Drive pin ``number``."""
        if not 0 <= number < PINS:
            return
        bit = 1 << number
        rises = level and not self._lines & bit
        self._lines = self._lines | bit if level else self._lines & ~bit
        if not rises:
            return
        entry = self._entries[number]
        if self._is_level(entry):
            self._service_level(number)
        elif not entry & _MASKED:
            self._send(entry, level_triggered=False)

    @staticmethod
    def _is_level(entry: int) -> bool:
        return bool(entry & _LEVEL) and REDIRECTION["MODE"].get(entry) not in _EDGE_ONLY

    def _service_level(self, pin: int) -> None:
        entry = self._entries[pin]
        if self._lines & 1 << pin and self._is_level(entry) and not entry & (_MASKED | _REMOTE_IRR):
            self._entries[pin] |= _REMOTE_IRR
            self._send(entry, level_triggered=True)

    def _send(self, entry: int, *, level_triggered: bool) -> None:
        fields = REDIRECTION.decode(entry)
        self._fabric.send(
            Message(fields["MODE"], fields["VECTOR"], level_triggered),
            Destination(fields["DESTINATION"], bool(fields["LOGICAL"])),
        )

    def end_of_interrupt(self, vector: int) -> None:
        """Let the level-triggered pins with this vector request again."""
        for pin, entry in enumerate(self._entries):
            if entry & _REMOTE_IRR and REDIRECTION["VECTOR"].get(entry) == vector:
                self._entries[pin] &= ~_REMOTE_IRR
                self._service_level(pin)

    def entry(self, pin: int) -> int:
        """Return the redirection entry of a pin."""
        return self._entries[pin]

    # -- registers ---------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Return the select register or the selected register; 0 elsewhere."""
        shift = 8 * (offset & 3)
        match offset & ~3:
            case 0x00:
                return self._select >> shift & all_ones(size)
            case 0x10:
                return self._read_register(self._select) >> shift & all_ones(size)
            case _:
                return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the select register, the selected register, or the EOI register."""
        value &= 0xFFFF_FFFF
        if offset == SELECT_OFFSET:
            self._select = value & 0xFF
        elif offset == WINDOW_OFFSET:
            self._write_register(self._select, value)
        elif offset == EOI_OFFSET:
            self.end_of_interrupt(value & 0xFF)

    def _read_register(self, register: int) -> int:
        if register in (_ID, _ARBITRATION):
            return self._id << 24
        if register == _VERSION:
            return (PINS - 1) << 16 | VERSION
        pin, half = divmod(register - _FIRST_ENTRY, 2)
        if 0 <= pin < PINS:
            return self._entries[pin] >> 32 * half & 0xFFFF_FFFF
        return 0

    def _write_register(self, register: int, value: int) -> None:
        pin, half = divmod(register - _FIRST_ENTRY, 2)
        if register == _ID:
            self._id = value >> 24 & 0x0F
        elif 0 <= pin < PINS:
            self._write_entry(pin, value << 32 * half, 0xFFFF_FFFF << 32 * half)

    def _write_entry(self, pin: int, value: int, mask: int) -> None:
        mask &= ~_READ_ONLY
        entry = self._entries[pin] & ~mask | value & mask
        if not self._is_level(entry):
            entry &= ~_REMOTE_IRR
        self._entries[pin] = entry
        self._service_level(pin)
