"""The local APIC's timer: SDM 3A, "APIC Timer".

As with the PIT, nothing counts: the current count follows from guest time. Guest time wakes the
timer only when an interrupt would be due.
"""

from collections.abc import Callable
from typing import Protocol

from turducken.devices.apic_registers import ONE_SHOT, PERIODIC, TSC_DEADLINE
from turducken.devices.clock import NANOSECONDS, Clock, Event, Frequency

SHORTEST_PERIOD = 1_000
"""Nanoseconds. Expiries of a periodic timer closer together than this are merged: their
interrupts would find the first one still pending."""


class TimeStampCounter(Protocol):
    """The processor's TSC, as the TSC-deadline mode needs it."""

    def read(self) -> int:
        """Return the TSC now."""

    def time_of(self, value: int) -> int:
        """Return the guest time in nanoseconds at which the TSC is (or was) ``value``."""


class NominalTsc:
    """A TSC that is 0 at power-on and that nobody writes."""

    def __init__(self, clock: Clock, hertz: int = NANOSECONDS) -> None:
        self._clock = clock
        self._frequency = Frequency(hertz)

    def read(self) -> int:
        """Return the TSC now."""
        return self._frequency.ticks(self._clock.now)

    def time_of(self, value: int) -> int:
        """Return the guest time at which the TSC is ``value``."""
        return self._frequency.time_of(value)


class ApicTimer:
    """The timer without its LVT entry: ``on_expiry`` is called when it expires unmasked.

    The owner keeps `mode` and `is_masked` as the LVT entry has them, through `configure`.
    """

    def __init__(
        self,
        clock: Clock,
        frequency: Frequency,
        tsc: TimeStampCounter,
        on_expiry: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._frequency = frequency
        self._tsc = tsc
        self._on_expiry = on_expiry
        self._event: Event | None = None
        self.reset()

    def reset(self) -> None:
        """Go to the state after reset: stopped, one-shot, masked, divided by 2."""
        self.mode = ONE_SHOT
        self.is_masked = True
        self.initial_count = 0
        self._divisor = 2
        self._start: int | None = None
        """The undivided tick at which the initial count was written, while it counts."""
        self._deadline = 0
        self._schedule()

    # -- settings ----------------------------------------------------------------------------------

    def configure(self, *, mode: int, is_masked: bool) -> None:
        """Follow the LVT entry; a change to or from TSC-deadline mode disarms the timer."""
        if (mode == TSC_DEADLINE) != (self.mode == TSC_DEADLINE):
            self._start = None
            self.initial_count = 0
            self._deadline = 0
        self.mode = mode
        self.is_masked = is_masked
        self._schedule()

    def set_divide(self, configuration: int) -> None:
        """Take the divide configuration register (bits 3, 1 and 0); the current count stays."""
        code = configuration >> 1 & 4 | configuration & 3
        remaining = self.current_count
        self._divisor = 1 if code == 7 else 2 << code
        if self._start is not None:
            counted = (self.initial_count - remaining) * self._divisor
            self._start = self._tick - counted
        self._schedule()

    def start(self, initial_count: int) -> None:
        """Take the initial count; 0 stops. Ignored in TSC-deadline mode."""
        if self.mode == TSC_DEADLINE:
            return
        self.initial_count = initial_count
        self._start = self._tick if initial_count else None
        self._schedule()

    @property
    def deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 while disarmed or in another mode."""
        return self._deadline

    def arm(self, deadline: int) -> None:
        """Write IA32_TSC_DEADLINE; 0 disarms. Ignored in the other modes."""
        if self.mode == TSC_DEADLINE:
            self._deadline = deadline
            self._schedule()

    def tsc_changed(self) -> None:
        """Learn that the TSC was written or adjusted."""
        self._schedule()

    # -- counting ----------------------------------------------------------------------------------

    @property
    def _tick(self) -> int:
        return self._frequency.ticks(self._clock.now)

    @property
    def _period(self) -> int:
        """The initial count in undivided ticks."""
        return self.initial_count * self._divisor

    @property
    def current_count(self) -> int:
        """The current-count register."""
        if self._start is None or self.mode == TSC_DEADLINE:
            return 0
        elapsed = self._tick - self._start
        if self.mode == PERIODIC:
            elapsed %= self._period
        return max(self.initial_count - elapsed // self._divisor, 0)

    def _schedule(self) -> None:
        if self._event is not None:
            self._event.cancel()
        time = self._next_expiry()
        self._event = None if time is None else self._clock.at(time, self._expire)

    def _next_expiry(self) -> int | None:
        if self.mode == TSC_DEADLINE:
            return self._tsc.time_of(self._deadline) if self._deadline else None
        if self._start is None or self.is_masked:
            return None
        if self.mode == PERIODIC:
            return self._next_period()
        tick = self._start + self._period
        return self._frequency.time_of(tick) if tick > self._tick else None

    def _next_period(self) -> int:
        assert self._start is not None
        period = self._period
        time = self._frequency.time_of(
            self._start + ((self._tick - self._start) // period + 1) * period
        )
        if time - self._clock.now >= SHORTEST_PERIOD:
            return time
        earliest = self._frequency.ticks(self._clock.now + SHORTEST_PERIOD) - self._start
        return self._frequency.time_of(self._start + -(-earliest // period) * period)

    def _expire(self) -> None:
        if self.mode == TSC_DEADLINE:
            self._deadline = 0
        if not self.is_masked:
            self._on_expiry()
        self._schedule()
