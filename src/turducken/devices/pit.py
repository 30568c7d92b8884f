"""The 8254 programmable interval timer and port 61h: 8254 data sheet, "Mode Definitions".

A channel does not count: what it would have counted follows from the guest time that has passed
since its count was loaded.
"""

from turducken.devices.clock import Clock, Event, Frequency
from turducken.devices.lines import LineDriver, unconnected

PIT_PORT = 0x40
CONTROL_PORT = 0x43
SYSTEM_CONTROL_B = 0x61
PIT_FREQUENCY = Frequency(1_193_182)

SPEAKER = 2
"""The channel whose gate and output are in port 61h."""

_LOW, _HIGH, _LOW_THEN_HIGH = 1, 2, 3
_RETRIGGERED = frozenset({1, 5})
"""Modes that a rise of the gate starts; a new count waits for it."""
_PERIODIC = frozenset({2, 3})


def _from_bcd(value: int) -> int:
    """Return the number that four decimal digits spell (digits above 9 count as they stand)."""
    return sum((value >> 4 * digit & 0xF) * 10**digit for digit in range(4))


def _to_bcd(value: int) -> int:
    return sum(value // 10**digit % 10 << 4 * digit for digit in range(4))


class Channel:
    """One counter of the 8254, counting ticks of `PIT_FREQUENCY`."""

    def __init__(self, clock: Clock, *, gate: bool = True) -> None:
        self._clock = clock
        self.mode = 0
        self.gate = gate
        self._bcd = False
        self._access = _LOW_THEN_HIGH
        self._reload = 0
        self._count: int | None = None
        """The initial count in use, 1 to 65536; None until one has been written."""
        self._start: int | None = None
        """The tick at which the count was loaded, or None while counting is suspended."""
        self._held = 0
        """Ticks that had been counted when counting was suspended."""
        self._rises_at_start = False
        """A period that a new count follows is still to end."""
        self._write_high_next = False
        self._read_high_next = False
        self._latched_count: int | None = None
        self._latched_status: int | None = None

    @property
    def _tick(self) -> int:
        return PIT_FREQUENCY.ticks(self._clock.now)

    @property
    def elapsed(self) -> int:
        """Ticks counted since the count was loaded; negative before the first one."""
        return self._held if self._start is None else self._held + self._tick - self._start

    # -- programming -------------------------------------------------------------------------------

    def program(self, control: int) -> None:
        """Take a control word other than a latch command: mode, access and number format."""
        mode = control >> 1 & 7
        self.mode = mode if mode < 6 else mode - 4
        self._access = control >> 4 & 3
        self._bcd = bool(control & 1)
        self._count = None
        self._start = None
        self._held = 0
        self._write_high_next = False
        self._read_high_next = False
        self._latched_count = None
        self._latched_status = None

    def write(self, value: int) -> None:
        """Take a byte of the count."""
        if self._access == _LOW:
            self._load(value)
        elif self._access == _HIGH:
            self._load(value << 8)
        elif self._write_high_next:
            self._write_high_next = False
            self._load(self._reload & 0xFF | value << 8)
        else:
            self._write_high_next = True
            self._reload = value
            if self.mode == 0:
                # "Mode 0": writing the first byte disables counting.
                self._suspend()

    def _load(self, raw: int) -> None:
        self._reload = raw
        written = _from_bcd(raw) if self._bcd else raw
        count = written or (10_000 if self._bcd else 0x10000)
        if self.mode in _PERIODIC:
            self._finish_period()
        self._count = max(count, 2) if self.mode in _PERIODIC else count
        if self.mode in _RETRIGGERED:
            return
        if self.mode not in _PERIODIC or self._start is None:
            self._restart()

    def _finish_period(self) -> None:
        """Let the current period, if one is running, end before a new count is used."""
        if self._count is not None and self._start is not None and self.elapsed >= 0:
            self._start = self._tick + self._count - self.elapsed % self._count
            self._held = 0
            self._rises_at_start = True

    def _restart(self) -> None:
        self._held = 0
        self._rises_at_start = False
        # The count reaches the counter with the tick that follows the write.
        self._start = self._tick + 1 if self.gate or self.mode in _RETRIGGERED else None

    def _suspend(self) -> None:
        """Stop counting, keeping what has been counted."""
        if self._start is not None:
            self._held = self.elapsed
            self._start = None

    def set_gate(self, *, level: bool) -> None:
        """Drive the gate input: 8254 data sheet, "Gate Pin Operations Summary"."""
        if level == self.gate:
            return
        self.gate = level
        if self._count is None:
            return
        if self.mode in _RETRIGGERED:
            if level:
                self._restart()
        elif self.mode in _PERIODIC:
            if level:
                self._restart()
            else:
                self._suspend()
        elif level:
            self._start = self._tick
        else:
            self._suspend()

    # -- counting ----------------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Tell whether a count is loaded and running."""
        return self._count is not None and self._start is not None

    @property
    def output(self) -> bool:
        """The level of OUT."""
        count = self._count
        if count is None or (self._start is None and self.mode in _RETRIGGERED):
            return self.mode != 0
        elapsed = self.elapsed
        match self.mode:
            case 0:
                return elapsed >= count
            case 1:
                return elapsed < 0 or elapsed >= count
            case 2:
                return not self.gate or elapsed < 0 or elapsed % count != count - 1
            case 3:
                return not self.gate or elapsed < 0 or elapsed % count < (count + 1) // 2
            case _:
                return elapsed != count

    @property
    def count(self) -> int:
        """The counting element, as a read gives it (before conversion to BCD)."""
        count = self._count
        if count is None:
            return self._reload
        elapsed = max(self.elapsed, 0)
        if self.mode == 2:
            return count - elapsed % count
        if self.mode == 3:
            # "Mode 3": the counter is decremented by two, through the count twice a period.
            phase = elapsed % count
            half = (count + 1) // 2
            return (count & ~1) - 2 * (phase if phase < half else phase - half)
        modulus = 10_000 if self._bcd else 0x10000
        return (count - elapsed) % modulus

    def next_rise(self) -> int | None:
        """Return the tick of the next rise of OUT after now, or None if none is to come."""
        if self._count is None or self._start is None:
            return None
        elapsed = self.elapsed
        zero = self._tick - elapsed
        if self.mode in _PERIODIC:
            if elapsed < 0 and self._rises_at_start:
                return zero
            return zero + (max(elapsed, 0) // self._count + 1) * self._count
        rise = self._count + (1 if self.mode >= 4 else 0)
        return zero + rise if elapsed < rise else None

    # -- reading -----------------------------------------------------------------------------------

    def latch_count(self) -> None:
        """Hold the count until it has been read; ignored while one is held."""
        if self._latched_count is None:
            self._latched_count = self._visible_count()

    def latch_status(self) -> None:
        """Hold the status byte until it has been read; ignored while one is held."""
        if self._latched_status is None:
            null_count = self._count is None or self.elapsed < 0
            self._latched_status = (
                self.output << 7
                | null_count << 6
                | self._access << 4
                | self.mode << 1
                | int(self._bcd)
            )

    def _visible_count(self) -> int:
        count = self.count & 0xFFFF
        return _to_bcd(count) if self._bcd else count

    def read(self) -> int:
        """Return the latched status, else a byte of the latched or running count."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        held = self._latched_count
        value = self._visible_count() if held is None else held
        high = self._access == _HIGH
        is_last = True
        if self._access == _LOW_THEN_HIGH:
            high = self._read_high_next
            is_last = high
            self._read_high_next = not high
        if is_last:
            self._latched_count = None
        return value >> 8 & 0xFF if high else value & 0xFF


class Pit:
    """The three channels with port 61h: channel 0 drives ``line``, channel 2 the speaker.

    A rise of channel 0's output is given to ``line`` as a short pulse to low and back to high, so
    that an edge is seen whatever the mode's duty cycle.
    """

    ports = (range(PIT_PORT, PIT_PORT + 4), range(SYSTEM_CONTROL_B, SYSTEM_CONTROL_B + 1))
    widest_access = 1

    def __init__(self, clock: Clock, line: LineDriver = unconnected) -> None:
        self._clock = clock
        self._line = line
        self.channels = (Channel(clock), Channel(clock), Channel(clock, gate=False))
        self._speaker_data = False
        self._checks_disabled = 0
        self._event: Event | None = None

    def port_read(self, port: int, size: int) -> int:
        """Return a counter's byte or port 61h; the control word register is write-only."""
        if port == SYSTEM_CONTROL_B:
            return self._read_system_control()
        if port == CONTROL_PORT:
            return 0xFF
        return self.channels[port - PIT_PORT].read()

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a counter's byte, a control word or port 61h."""
        value &= 0xFF
        if port == SYSTEM_CONTROL_B:
            self._write_system_control(value)
        elif port == CONTROL_PORT:
            self._write_control(value)
        else:
            self.channels[port - PIT_PORT].write(value)
            if port == PIT_PORT:
                self._schedule()

    def _write_control(self, value: int) -> None:
        select = value >> 6
        if select == 3:
            self._read_back(value)
        elif value & 0x30 == 0:
            self.channels[select].latch_count()
        else:
            self.channels[select].program(value)
            if select == 0:
                self._line(level=self.channels[0].output)
                self._schedule()

    def _read_back(self, value: int) -> None:
        # 8254 data sheet, "Read-Back Command": bits 5 and 4 are active low.
        for index, channel in enumerate(self.channels):
            if value & 2 << index:
                if not value & 0x20:
                    channel.latch_count()
                if not value & 0x10:
                    channel.latch_status()

    def _read_system_control(self) -> int:
        speaker = self.channels[SPEAKER]
        refresh = self._clock.now // 15_085 & 1
        return (
            int(speaker.gate)
            | self._speaker_data << 1
            | self._checks_disabled
            | refresh << 4
            | speaker.output << 5
        )

    def _write_system_control(self, value: int) -> None:
        self.channels[SPEAKER].set_gate(level=bool(value & 1))
        self._speaker_data = bool(value & 2)
        self._checks_disabled = value & 0x0C

    # -- channel 0's interrupt ---------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._event is not None:
            self._event.cancel()
        rise = self.channels[0].next_rise()
        self._event = None
        if rise is not None:
            self._event = self._clock.at(PIT_FREQUENCY.time_of(rise), self._rise)

    def _rise(self) -> None:
        self._line(level=False)
        self._line(level=True)
        self._schedule()
