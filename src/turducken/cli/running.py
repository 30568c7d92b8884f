"""What commands that run systems share: files to write, and the interrupt key."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

from turducken.cli.errors import InputError, Interrupted

STDOUT = "-"


@contextmanager
def output_file(option: str, where: str | None) -> Iterator[IO[bytes] | None]:
    """Open what an option names for writing (``-``: standard output), before anything runs."""
    if where is None:
        yield None
    elif where == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        try:
            file = open(where, "wb")  # noqa: SIM115 - closed below
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{option} {where}: {reason}") from None
        with file:
            yield file


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Let the interrupt key end a run between two turns, so that everything is left in order.

    Gives a function that raises `Interrupted` once the key was pressed; pressed again, it
    interrupts at once.
    """
    pressed = False

    def press(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def check() -> None:
        if pressed:
            raise Interrupted

    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
