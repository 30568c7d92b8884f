"""Ending a run from outside, by a signal or when its time is over, so that it still ends well."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from turducken.cli.errors import InputError
from turducken.cli.signals import SIGNALS
from turducken.system import Outcome, System
from turducken.system.errors import CutShort

_INTERVAL = 0.02
"""Seconds between two requests: one that comes just before the engine starts is not heeded."""

_REQUESTS = 10
"""How many are made before the run is cut short, wherever it is."""


def check_timeout(seconds: float | None) -> None:
    """Raise InputError unless this is how `--timeout` may be used."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"--timeout {seconds:g}: a number of seconds above 0 is needed")


@contextmanager
def ended_from_outside(system: System, timeout: float | None) -> Iterator[None]:
    """Let a signal, or ``timeout`` seconds of the host's, end what ``system`` runs here."""
    ending = _Ending(system)
    before = signal.signal(signal.SIGALRM, ending.on_alarm)
    hook, sys.unraisablehook = sys.unraisablehook, _ignore_lost_requests
    try:
        if timeout is not None:
            signal.setitimer(signal.ITIMER_REAL, timeout)
        with SIGNALS.attend(ending.on_signal):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


class _Ending:
    """Asks the machine to end its run, again and again, and cuts the run short in the end."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._outcome = Outcome.TIMEOUT
        self._code = 0
        self._requests = 0

    def on_signal(self, number: int) -> None:
        """SIGINT, SIGTERM or SIGHUP."""
        self._outcome, self._code = Outcome.INTERRUPTED, number
        self._request()

    def on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        """The time is over, or it is time to ask again."""
        self._request()

    def _request(self) -> None:
        if not self._requests:
            signal.setitimer(signal.ITIMER_REAL, _INTERVAL, _INTERVAL)
        self._requests += 1
        self._system.machine.end(self._outcome, self._code)
        if self._requests > _REQUESTS and self._system.is_running:
            raise CutShort


def _ignore_lost_requests(lost: Any) -> None:
    """Say nothing of a request that came while a callback was being entered: another follows."""
    if not issubclass(lost.exc_type, CutShort):
        sys.__unraisablehook__(lost)
