"""ACPI fixed hardware: PM1 event and control registers and the power-management timer.

ACPI specification, "ACPI Hardware Specification". ACPI mode is always on: there is no SMI command
port.
"""

from collections.abc import Callable

from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.clock import Clock, Event, Frequency
from turducken.devices.lines import LineDriver, unconnected

PM_BASE = 0x600
PM1_EVENT_OFFSET, PM1_CONTROL_OFFSET, PM_TIMER_OFFSET = 0, 4, 8
PM_TIMER_FREQUENCY = Frequency(3_579_545)
PM_TIMER_BITS = 24
SLEEP_TYPE_OFF = 0
"""What the DSDT's \\_S5 object gives as the sleep type of the soft-off state."""

PM1_STATUS = Layout(
    "PM1 status",
    16,
    bit("TMR_STS", 0, "the timer's top bit has changed"),
    reserved(3, 1),
    bit("BM_STS", 4),
    bit("GBL_STS", 5),
    reserved(7, 6),
    bit("PWRBTN_STS", 8),
    bit("SLPBTN_STS", 9),
    bit("RTC_STS", 10),
    reserved(14, 11),
    bit("WAK_STS", 15),
    source='ACPI specification, "PM1 Status Registers"',
)
PM1_ENABLE = Layout(
    "PM1 enable",
    16,
    bit("TMR_EN", 0),
    reserved(4, 1),
    bit("GBL_EN", 5),
    reserved(7, 6),
    bit("PWRBTN_EN", 8),
    bit("SLPBTN_EN", 9),
    bit("RTC_EN", 10),
    reserved(15, 11),
    source='ACPI specification, "PM1 Enable Registers"',
)
PM1_CONTROL = Layout(
    "PM1 control",
    16,
    bit("SCI_EN", 0, "ACPI mode is on"),
    bit("BM_RLD", 1),
    bit("GBL_RLS", 2),
    reserved(9, 3),
    bits("SLP_TYP", 12, 10),
    bit("SLP_EN", 13, "go to sleep; reads as 0"),
    reserved(15, 14),
    source='ACPI specification, "PM1 Control Registers"',
)

_POLL_GAP = 3_000
"""Nanoseconds between two reads of the timer by software that does nothing but wait for it."""
_POLL_SHARE, _LONGEST_POLL = 8, 1_000_000
"""Such a read takes this share of what the software has waited so far, up to so many nanoseconds:
waiting costs few reads, and is never longer than it is meant to be by more than the share."""

_HALF_TURN = 1 << PM_TIMER_BITS - 1
_SIZE = 12


def _ignore() -> None:
    """Take an event that nobody wants."""


def _discard(_value: int) -> None:
    """Take a value that nobody wants."""


class AcpiPm:
    """The fixed registers at ``base``; ``on_power_off`` is called when the guest enters S5.

    ``on_sleep`` is called with any other sleep type that the guest asks for.
    ``wait`` lets guest time pass within an access.
    """

    widest_access = 4

    def __init__(
        self,
        clock: Clock,
        on_power_off: Callable[[], None] = _ignore,
        line: LineDriver = unconnected,
        *,
        base: int = PM_BASE,
        wait: Callable[[int], None] | None = None,
        on_sleep: Callable[[int], None] = _discard,
    ) -> None:
        self.base = base
        self._wait = wait or clock.advance
        self._polled_since = self._polled_last = 0
        self.ports = (range(base, base + _SIZE),)
        self._clock = clock
        self._on_power_off = on_power_off
        self._on_sleep = on_sleep
        self._line = line
        self._enable = 0
        self._control = PM1_CONTROL.mask("SCI_EN")
        self._turns_seen = 0
        """Half turns of the timer that had passed when the guest last cleared TMR_STS."""
        self._event: Event | None = None

    @property
    def _ticks(self) -> int:
        return PM_TIMER_FREQUENCY.ticks(self._clock.now)

    @property
    def _status(self) -> int:
        return PM1_STATUS.make(TMR_STS=self._ticks // _HALF_TURN != self._turns_seen)

    def _word(self, offset: int) -> int:
        """Return the doubleword of registers at ``offset`` (0, 4 or 8)."""
        if offset == PM1_EVENT_OFFSET:
            return self._enable << 16 | self._status
        if offset == PM1_CONTROL_OFFSET:
            return self._control
        return self._ticks % (1 << PM_TIMER_BITS)

    def port_read(self, port: int, size: int) -> int:
        """Return bytes of the registers."""
        offset = (port - self.base) % _SIZE
        if offset == PM_TIMER_OFFSET:
            self._poll()
        pair = self._word(offset & ~3) | self._word((offset & ~3) + 4 & 0xC) << 32
        return pair >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def _poll(self) -> None:
        now = self._clock.now
        if now - self._polled_last > _POLL_GAP:
            self._polled_since = now
        waited = min((now - self._polled_since) // _POLL_SHARE, _LONGEST_POLL)
        if waited:
            self._wait(waited)
        self._polled_last = self._clock.now

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write bytes of the registers; the timer is read-only."""
        offset = (port - self.base) % _SIZE
        for index in range(size):
            self._write_byte(offset + index, value >> 8 * index & 0xFF)
        if offset <= PM1_CONTROL_OFFSET + 1 < offset + size:
            self._sleep_if_asked(value >> 8 * (PM1_CONTROL_OFFSET + 1 - offset) & 0xFF)
        self._update()

    def _write_byte(self, offset: int, byte: int) -> None:
        match offset:
            case 0:
                if byte & PM1_STATUS.mask("TMR_STS"):
                    self._turns_seen = self._ticks // _HALF_TURN
            case 2:
                self._enable = (self._enable & 0xFF00 | byte) & ~PM1_ENABLE.reserved_mask
            case 3:
                self._enable = (self._enable & 0xFF | byte << 8) & ~PM1_ENABLE.reserved_mask
            case 4:
                writable = PM1_CONTROL.mask("BM_RLD")
                self._control = self._control & ~writable | byte & writable
            case 5:
                writable = PM1_CONTROL.mask("SLP_TYP")
                self._control = self._control & ~writable | byte << 8 & writable

    def _sleep_if_asked(self, high_byte: int) -> None:
        word = high_byte << 8
        kind = PM1_CONTROL["SLP_TYP"].get(word)
        if not word & PM1_CONTROL.mask("SLP_EN"):
            return
        if kind == SLEEP_TYPE_OFF:
            self._on_power_off()
        else:
            self._on_sleep(kind)

    def _update(self) -> None:
        """Drive the SCI and wait for the timer's next half turn if it is enabled."""
        enabled = bool(self._enable & PM1_ENABLE.mask("TMR_EN"))
        self._line(level=enabled and bool(self._status))
        if self._event is not None:
            self._event.cancel()
        self._event = None
        if enabled:
            next_turn = (self._ticks // _HALF_TURN + 1) * _HALF_TURN
            self._event = self._clock.at(PM_TIMER_FREQUENCY.time_of(next_turn), self._update)
