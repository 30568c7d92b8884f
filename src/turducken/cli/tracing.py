"""The options that make a trace, and the trace of a run."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Annotated

import typer

from turducken.cli.errors import InputError
from turducken.system import System

if TYPE_CHECKING:
    from turducken.trace import Selection

_PANEL = "The trace"
_KINDS = "exit, entry, injection, interrupt, ipi, invalidation, ept02, ept01, mode, diagnosis, stop"

TraceFile = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="Write every event there: .json for ui.perfetto.dev and chrome://tracing, "
        ".jsonl for one object in each line.",
    ),
]
Kinds = Annotated[
    list[str],
    typer.Option(
        "--trace-kind",
        metavar="KIND",
        rich_help_panel=_PANEL,
        help=f"Only these events: {_KINDS}. Repeatable.",
    ),
]
Cpus = Annotated[
    list[int],
    typer.Option(
        "--trace-cpu",
        metavar="N",
        rich_help_panel=_PANEL,
        help="Only events of this processor. Repeatable.",
    ),
]
Ranges = Annotated[
    list[str],
    typer.Option(
        "--trace-range",
        metavar="FIRST-LAST",
        rich_help_panel=_PANEL,
        help="Only events whose RIP, or another address that they tell, is in this range "
        "(hexadecimal). Repeatable.",
    ),
]
Last = Annotated[
    int | None,
    typer.Option(
        "--last",
        metavar="N",
        rich_help_panel=_PANEL,
        help="Keep only the last N events, and print them when the run fails.",
    ),
]


class TraceChoices:
    """What the user asked for, checked; `begin` follows a system."""

    def __init__(
        self,
        file: str | None,
        kinds: Sequence[str],
        cpus: Sequence[int],
        ranges: Sequence[str],
        last: int | None,
    ) -> None:
        self.file = file
        self.last = last
        self.is_wanted = file is not None or last is not None
        if not self.is_wanted:
            given = (("kind", kinds), ("cpu", cpus), ("range", ranges))
            for name, value in given:
                if value:
                    raise InputError(f"--trace-{name}: there is no --trace or --last")
            return
        self._selection = _select(kinds, cpus, ranges)
        if last is not None and last < 1:
            raise InputError(f"--last {last}: at least one is needed")
        _check_name(file)

    def begin(self, system: System, file: IO[bytes] | None) -> "Trace":
        """Record what ``system`` does from now on."""
        for cpu in self._selection.cpus:
            if not 0 <= cpu < system.options.cpus:
                raise InputError(f"--trace-cpu {cpu}: there are {system.options.cpus} processors")
        return Trace(system, self._selection, self.file, file, self.last)


class Trace:
    """The trace of one run."""

    def __init__(
        self,
        system: System,
        selection: "Selection",
        name: str | None,
        file: IO[bytes] | None,
        last: int | None,
    ) -> None:
        from turducken.trace import Recorder, make_sink

        title = f"turducken: {system.options.image.name}, {system.options.mode.value}"
        self._sink = None if name is None or file is None else make_sink(name, file, title)
        at_once = self._sink.write if self._sink is not None and last is None else None
        self._recorder: Recorder = Recorder(system, selection, at_once, last)
        self._machine = system.machine

    def finish(self) -> None:
        """Complete the file."""
        self._recorder.finish()
        if self._sink is not None:
            for record in self._recorder.last:
                self._sink.write(record)
            self._sink.close(self._machine.now)

    @property
    def lines(self) -> list[str]:
        """The events that were kept, for people."""
        return [one.line() for one in self._recorder.last]


def _select(kinds: Sequence[str], cpus: Sequence[int], ranges: Sequence[str]) -> "Selection":
    from turducken.trace import KINDS, Selection

    for one in kinds:
        if one not in KINDS:
            raise InputError(f"--trace-kind {one}: not one of {', '.join(KINDS)}")
    parsed = tuple(_parse_range(one) for one in ranges)
    return Selection(frozenset(kinds), frozenset(cpus), parsed)


def _parse_range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        found = int(first, 16), int(last, 16)
    except ValueError:
        raise InputError(f"--trace-range {text}: write FIRST-LAST, hexadecimal") from None
    if not dash or not 0 <= found[0] <= found[1]:
        raise InputError(f"--trace-range {text}: the range is empty")
    return found


def _check_name(name: str | None) -> None:
    from turducken.trace import SINKS

    if name is not None and PurePath(name).suffix.lower() not in SINKS:
        raise InputError(f"--trace {name}: its name has to end in {', '.join(SINKS)}")
