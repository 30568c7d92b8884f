"""The high-precision event timer: Intel, "IA-PC HPET (High Precision Event Timers) Specification".

Three comparators, of which each can be periodic; no FSB interrupts.
"""

from collections.abc import Sequence
from functools import partial

from turducken.bits import Layout, bit, bits, reserved
from turducken.devices.bus import Region, all_ones
from turducken.devices.clock import Clock, Event
from turducken.devices.lines import LineDriver

HPET_BASE = 0xFED0_0000
HPET_SIZE = 0x400
TIMERS = 3
NANOSECONDS_PER_TICK = 10
_FEMTOSECONDS = 1_000_000

CAPABILITIES_REGISTER = Layout(
    "HPET capabilities",
    64,
    bits("REVISION", 7, 0),
    bits("LAST_TIMER", 12, 8),
    bit("64BIT", 13),
    reserved(14),
    bit("LEGACY", 15, "can take the place of PIT and RTC interrupts"),
    bits("VENDOR", 31, 16),
    bits("PERIOD", 63, 32, "femtoseconds of a tick"),
    source='IA-PC HPET Specification, "General Capability and ID Register"',
)
TIMER = Layout(
    "HPET timer",
    64,
    reserved(0),
    bit("LEVEL", 1),
    bit("ENABLE", 2),
    bit("PERIODIC", 3),
    bit("CAN_BE_PERIODIC", 4),
    bit("HAS_64BIT", 5),
    bit("SET_VALUE", 6, "the next write of the comparator sets the period's start"),
    reserved(7),
    bit("32BIT", 8),
    bits("ROUTE", 13, 9),
    bit("FSB", 14),
    bit("CAN_FSB", 15),
    reserved(31, 16),
    bits("ROUTES", 63, 32),
    source='IA-PC HPET Specification, "Timer N Configuration and Capabilities Register"',
)
CAPABILITIES = CAPABILITIES_REGISTER.make(
    REVISION=1,
    LAST_TIMER=TIMERS - 1,
    **{"64BIT": 1, "LEGACY": 1},
    VENDOR=0x8086,
    PERIOD=NANOSECONDS_PER_TICK * _FEMTOSECONDS,
)
_ON, _LEGACY = 1, 2
_ROUTES = 0x00F0_0000
"""I/O APIC pins that a timer may be routed to."""
_SHORTEST_PERIOD = 100
"""Ticks; a guest that asks for less gets interrupts as fast as it can take them anyway."""
_OWN = TIMER.mask("LEVEL", "ENABLE", "PERIODIC", "SET_VALUE", "32BIT", "ROUTE")
_FIXED = TIMER.make(CAN_BE_PERIODIC=1, HAS_64BIT=1, ROUTES=_ROUTES)
_CONFIGURATION, _STATUS, _COUNTER, _FIRST, _STRIDE = 0x10, 0x20, 0xF0, 0x100, 0x20
_MASK = (1 << 64) - 1


class _Timer:
    """One comparator."""

    def __init__(self) -> None:
        self.control = 0
        self.comparator = _MASK
        self.period = 0
        self.event: Event | None = None

    @property
    def width(self) -> int:
        return 32 if self.control & TIMER.mask("32BIT") else 64

    def is_set(self, name: str) -> bool:
        return bool(self.control & TIMER.mask(name))


class Hpet:
    """The timer block.

    ``pins`` drive the I/O APIC's inputs by number, ``legacy`` the lines that the first two timers
    have while they take the place of PIT and RTC.
    """

    region = Region(HPET_BASE, HPET_SIZE)

    def __init__(
        self, clock: Clock, pins: Sequence[LineDriver], legacy: Sequence[LineDriver]
    ) -> None:
        self._clock = clock
        self._pins = pins
        self._legacy = legacy
        self._configuration = self._status = 0
        self._base = 0
        """The counter's value while it stands, or what it was at time 0."""
        self._timers = [_Timer() for _ in range(TIMERS)]

    @property
    def has_legacy_route(self) -> bool:
        """Whether the interrupts of PIT and RTC are ours."""
        return self._configuration & (_ON | _LEGACY) == _ON | _LEGACY

    @property
    def counter(self) -> int:
        """The main counter."""
        if not self._configuration & _ON:
            return self._base
        return self._base + self._clock.now // NANOSECONDS_PER_TICK & _MASK

    # -- registers ---------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Return bytes of a register."""
        value = self._register(offset & ~7) | self._register((offset & ~7) + 8) << 64
        return value >> 8 * (offset & 7) & all_ones(size)

    def _register(self, offset: int) -> int:
        fixed = {0: CAPABILITIES, _CONFIGURATION: self._configuration, _STATUS: self._status}
        if offset in fixed:
            return fixed[offset]
        if offset == _COUNTER:
            return self.counter
        number, register = divmod(offset - _FIRST, _STRIDE)
        if not 0 <= number < TIMERS:
            return 0
        timer = self._timers[number]
        return {0: timer.control | _FIXED, 8: timer.comparator}.get(register, 0)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write bytes of a register; what is not written keeps its value."""
        start, shift = offset & ~7, 8 * (offset & 7)
        size = min(size, 8 - (offset & 7))
        mask = all_ones(size) << shift
        value = self._register(start) & ~mask | value << shift & mask
        if start == _STATUS:
            self._clear_status(value & mask)
        elif start == _CONFIGURATION:
            self._configure(value & (_ON | _LEGACY))
        elif start == _COUNTER:
            self._set_counter(value)
        else:
            number, register = divmod(start - _FIRST, _STRIDE)
            if 0 <= number < TIMERS:
                self._write_timer(number, register, value)

    def _configure(self, value: int) -> None:
        counter = self.counter
        self._configuration = value
        self._set_counter(counter)

    def _set_counter(self, value: int) -> None:
        running = self._configuration & _ON
        passed = self._clock.now // NANOSECONDS_PER_TICK if running else 0
        self._base = value - passed & _MASK
        for number in range(TIMERS):
            self._schedule(number)

    def _write_timer(self, number: int, register: int, value: int) -> None:
        timer = self._timers[number]
        if register == 0:
            self._drive(number, level=False)
            timer.control = value & _OWN
        elif register == 8:
            value &= (1 << timer.width) - 1
            if timer.is_set("PERIODIC"):
                timer.period = value
            if not timer.is_set("PERIODIC") or timer.is_set("SET_VALUE"):
                timer.comparator = value
            timer.control &= ~TIMER.mask("SET_VALUE")
        self._schedule(number)

    def _clear_status(self, bits_written: int) -> None:
        for number in range(TIMERS):
            if bits_written & self._status & 1 << number:
                self._status &= ~(1 << number)
                self._drive(number, level=False)

    # -- time --------------------------------------------------------------------------------------

    def _schedule(self, number: int) -> None:
        timer = self._timers[number]
        if timer.event is not None:
            timer.event.cancel()
            timer.event = None
        if not self._configuration & _ON:
            return
        distance = timer.comparator - self.counter & (1 << timer.width) - 1
        if timer.is_set("PERIODIC") and distance:
            distance = max(distance, _SHORTEST_PERIOD)
        ticks = self._clock.now // NANOSECONDS_PER_TICK + (distance or 1 << timer.width)
        if ticks < 1 << 63:
            timer.event = self._clock.at(ticks * NANOSECONDS_PER_TICK, partial(self._match, number))

    def _match(self, number: int) -> None:
        """The counter has reached a comparator."""
        timer = self._timers[number]
        if timer.is_set("PERIODIC") and timer.period:
            mask = (1 << timer.width) - 1
            late = self.counter - timer.comparator & mask
            timer.comparator = timer.comparator + (late // timer.period + 1) * timer.period & mask
        if timer.is_set("ENABLE"):
            if timer.is_set("LEVEL"):
                self._status |= 1 << number
                self._drive(number, level=True)
            else:
                self._drive(number, level=True)
                self._drive(number, level=False)
        self._schedule(number)

    def _drive(self, number: int, *, level: bool) -> None:
        if self.has_legacy_route and number < len(self._legacy):
            self._legacy[number](level=level)
            return
        route = TIMER["ROUTE"].get(self._timers[number].control)
        if route < len(self._pins) and _ROUTES >> route & 1:
            self._pins[route](level=level)


class Replaceable:
    """The line of PIT or RTC: theirs but while the HPET takes their place."""

    def __init__(self, line: LineDriver, hpet: Hpet) -> None:
        self._line = line
        self._hpet = hpet

    def __call__(self, *, level: bool) -> None:
        """Drive the line, if it is ours."""
        if not self._hpet.has_legacy_route:
            self._line(level=level)
