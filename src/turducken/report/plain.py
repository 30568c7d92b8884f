"""The view of a run where standard output is no terminal: the console's lines as they come."""

import sys
import time

from turducken.report.words import short_number, short_time
from turducken.system import System

_INTERVAL = 10.0
"""Seconds of the host's between two lines about progress."""


class PlainView:
    """Prints every line that the guest completes; use as a context manager around the run.

    Progress goes to standard error from time to time, so that a long run is seen to be alive.
    """

    def __init__(self, system: System, interval: float = _INTERVAL) -> None:
        self._system = system
        self._interval = interval
        self._began = time.monotonic()
        self._next = self._began + interval

    def __enter__(self) -> "PlainView":
        self._handler = self._system.console.subscribe(_line)
        return self

    def __exit__(self, *_: object) -> None:
        self._system.console.unsubscribe(self._handler)
        if self._system.console.unfinished:
            _line(self._system.console.unfinished)

    def tell(self, text: str) -> None:
        """Show a paragraph among the console's lines."""
        _line(text)

    def turn(self) -> None:
        """Tell of the progress, if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            machine = self._system.machine
            print(
                f"turducken: {short_time(now - self._began)}, "
                f"{short_number(machine.instructions)} instructions, "
                f"{short_time(machine.now / 1e9)} of guest time",
                file=sys.stderr,
                flush=True,
            )


def _line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
