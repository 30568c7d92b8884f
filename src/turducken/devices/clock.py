"""Guest time: an integer count of nanoseconds that the machine advances, and what is due when.

The machine derives nanoseconds from executed instructions, so guest time, and with it everything a
device does, is a function of the run's inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""


@dataclass(order=True, slots=True)
class Event:
    """A callback that is due at guest time ``deadline``; ties run in the order of registration."""

    deadline: int
    _order: int
    _callback: Callable[[], None] = field(compare=False)
    _live: bool = field(default=True, compare=False)

    @property
    def is_live(self) -> bool:
        """Tell whether the event has neither run nor been cancelled."""
        return self._live

    def cancel(self) -> None:
        """Forget the event; harmless when it has run."""
        self._live = False

    def run(self) -> None:
        """Call back, once."""
        if self._live:
            self._live = False
            self._callback()


class Clock:
    """Guest time in nanoseconds since power-on, with a queue of events.

    ``on_deadline`` learns of every deadline when it is set.
    """

    def __init__(self, on_deadline: Callable[[int], None] | None = None) -> None:
        self._on_deadline = on_deadline
        self._now = 0
        self._events: list[Event] = []
        self._registered = 0

    @property
    def now(self) -> int:
        """Guest time in nanoseconds."""
        return self._now

    def at(self, deadline: int, callback: Callable[[], None]) -> Event:
        """Call back at guest time ``deadline``; one that is past is due at the next `advance`."""
        self._registered += 1
        event = Event(max(deadline, self._now), self._registered, callback)
        heappush(self._events, event)
        if self._on_deadline is not None:
            self._on_deadline(event.deadline)
        return event

    def after(self, delay: int, callback: Callable[[], None]) -> Event:
        """Call back ``delay`` nanoseconds from now."""
        return self.at(self._now + delay, callback)

    def next_deadline(self) -> int | None:
        """Return when the next event is due, or None if nothing is."""
        while self._events and not self._events[0].is_live:
            heappop(self._events)
        return self._events[0].deadline if self._events else None

    def advance(self, nanoseconds: int) -> None:
        """Let time pass and run what becomes due; during a callback `now` is its deadline."""
        self.advance_to(self._now + nanoseconds)

    def advance_to(self, target: int) -> None:
        """Let time pass until ``target`` (time never goes back) and run what becomes due."""
        while (deadline := self.next_deadline()) is not None and deadline <= target:
            self._now = max(self._now, deadline)
            heappop(self._events).run()
        self._now = max(self._now, target)


@dataclass(frozen=True, slots=True)
class Frequency:
    """A counter's rate in hertz, and exact conversion between its ticks and guest time."""

    hertz: int

    def ticks(self, nanoseconds: int) -> int:
        """Return how many whole ticks have passed after ``nanoseconds``."""
        return nanoseconds * self.hertz // NANOSECONDS

    def time_of(self, ticks: int) -> int:
        """Return the first nanosecond at which ``ticks`` ticks have passed."""
        return -(-ticks * NANOSECONDS // self.hertz)
