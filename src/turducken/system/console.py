"""What the guest writes on its serial line: kept, cut into lines, and watched for patterns."""

import re
from collections.abc import Callable

LineHandler = Callable[[str], None]


class Console:
    """Collects the bytes of COM1 and tells subscribers of every complete line.

    Lines come without their end (LF or CR LF); bytes that are not UTF-8 are replaced.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.on_byte: Callable[[int], None] | None = None
        self._on_line: list[LineHandler] = []
        self._line_start = 0

    def subscribe(self, handler: LineHandler) -> LineHandler:
        """Call ``handler`` with every complete line from now on; return it."""
        self._on_line.append(handler)
        return handler

    def unsubscribe(self, handler: LineHandler) -> None:
        """Stop calling it."""
        self._on_line.remove(handler)

    def put(self, byte: int) -> None:
        """Take one byte from the guest."""
        self.data.append(byte)
        if self.on_byte is not None:
            self.on_byte(byte)
        if byte == ord("\n"):
            line = self.unfinished
            self._line_start = len(self.data)
            for handler in self._on_line:
                handler(line)

    @property
    def unfinished(self) -> str:
        """The line that is being written."""
        return _text(self.data[self._line_start :]).rstrip("\r\n")

    @property
    def text(self) -> str:
        """Everything so far."""
        return _text(self.data)


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")


class Watch:
    """Looks for two patterns in the lines of a console.

    ``found`` is called once, with the name of the pattern that matched first (``fail-on`` where
    both match in one line) and the line.
    """

    def __init__(
        self,
        until: re.Pattern[str] | None,
        fail_on: re.Pattern[str] | None,
        found: Callable[[str, str], None],
    ) -> None:
        named = (("fail-on", fail_on), ("until", until))
        self._patterns = [(name, one) for name, one in named if one is not None]
        self._found = found

    def line(self, line: str) -> None:
        """Judge a line."""
        for name, pattern in self._patterns:
            if pattern.search(line):
                self._patterns = []
                self._found(name, line)
                return
