"""A limit in the host's time, for loops that no count of the guest's sees."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from turducken.fuzz.judge import FoundError

PATIENCE = 300
"""Seconds: a trial takes one or two."""


@contextmanager
def watchdog(seconds: int = PATIENCE) -> Iterator[None]:
    """Raise FoundError in what runs here, should it take longer than anything does.

    Only the main thread of a process that has alarms can be woken; elsewhere nothing watches.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def wake(_signal: int, _frame: FrameType | None) -> None:
        raise FoundError("progress", f"no end after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
