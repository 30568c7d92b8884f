"""What the guest writes on its serial line: kept, cut into lines, and watched for patterns."""

import re
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many lines ``until`` is to match: ``lines``, which must differ if they are ``distinct``.

    Lines that differ are those of several processors, each with its own number in its line.
    """

    until: re.Pattern[str] | None = None
    fail_on: re.Pattern[str] | None = None
    lines: int = 1
    distinct: bool = False


class Watch:
    """Looks for two patterns in the lines of a console.

    ``found`` is called once, with the name of the pattern that matched as often as it is to
    (``fail-on``, which is to match once, where both match in one line) and the line.
    """

    def __init__(self, wanted: Wanted, found: Callable[[str, str], None]) -> None:
        self._wanted = wanted
        self._found = found
        self._is_over = False
        self._matched: list[str] = []
        self._judged: str | None = None

    def line(self, line: str) -> None:
        """Judge a complete line."""
        judged, self._judged = self._judged, None
        if judged is None or not line.startswith(judged) or judged not in self._matched[-1:]:
            self._judge(line)

    def unfinished(self, line: str) -> None:
        """Judge a line that may go on; when it is complete it does not count again."""
        self._judge(line)
        self._judged = line

    def _judge(self, line: str) -> None:
        wanted = self._wanted
        if self._is_over:
            return
        if wanted.fail_on is not None and wanted.fail_on.search(line):
            self._end("fail-on", line)
        elif wanted.until is not None and wanted.until.search(line):
            if not (wanted.distinct and line in self._matched):
                self._matched.append(line)
            if len(self._matched) >= wanted.lines:
                self._end("until", line)

    def _end(self, name: str, line: str) -> None:
        self._is_over = True
        self._found(name, line)
