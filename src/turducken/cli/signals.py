"""The signals that end the program: noted from its first moment on, acted on as each command can.

Nothing but the standard library's lightest modules is imported here: this is loaded first.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE = 3.0
"""Seconds that a signal may stay unattended, while the program is being loaded or is finishing."""

_AGAIN = 0.5
"""Seconds after which another signal is somebody insisting (``timeout`` sends each one twice)."""

Action = Callable[[int], None]


class Left(BaseException):
    """The command is given up where it is; KeyboardInterrupt means something to libraries."""


class Signals:
    """What becomes of SIGINT, SIGTERM and SIGHUP.

    Without an action (`attend`) a signal is noted in ``received``, and the program is given up
    where nobody attends to it in time.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._action: Action | None = None

    def install(self) -> None:
        """Take the signals; a hang-up that ``nohup`` ignores stays ignored."""
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def note(self, number: int) -> None:
        """Take a signal that came before `install`."""
        self._on_signal(number, None)

    @contextmanager
    def attend(self, action: Action) -> Iterator[None]:
        """Let ``action`` do what a signal asks for, and at once if one is waiting."""
        before, self._action = self._action, action
        if self.received is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            action(self.received)
        try:
            yield
        finally:
            self._action = before

    def rest(self) -> None:
        """Have done: whatever was to be given up has been."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    @property
    def exit_status(self) -> int:
        """What a shell is told of a program that a signal ended."""
        return 128 + (self.received or signal.SIGINT)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None:
            if now - self._received_at > _AGAIN:
                raise Left
            return
        self.received, self._received_at = number, now
        if self._action is not None:
            self._action(number)
        else:
            signal.signal(signal.SIGALRM, _give_up)
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise Left


def leave(_number: int) -> None:
    """End a command that has nothing to finish: an action for `Signals.attend`.

    An exception is lost where a callback of the engine's is just being entered, so this is
    repeated until somebody has caught it.
    """
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, _REPEAT, _REPEAT)
    raise Left


_REPEAT = 0.25

SIGNALS = Signals()
"""The process's."""
