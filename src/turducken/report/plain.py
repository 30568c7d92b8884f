"""The view of a run where standard output is no terminal: the console's lines as they come."""

import sys

from turducken.system import System


class PlainView:
    """Prints every line that the guest completes; use as a context manager around the run."""

    def __init__(self, system: System) -> None:
        self._system = system

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
        """There is nothing to draw."""


def _line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
