"""Diagnoses for people: which of them ended the run, and the texts of summary and live view."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from turducken.diagnosis import Kind, Sighting, as_dict, one_line, paragraph
from turducken.diagnosis.records import HINTS
from turducken.system import Result, System

CONSEQUENCES = frozenset(
    {Kind.TRIPLE_FAULT, Kind.NOTHING_TO_WAKE, Kind.ENDLESS_LOOP, Kind.VMX_ABORT}
)
"""What may follow from a failure that the guest did not notice."""
CLOSE_NANOSECONDS = 10_000_000
"""How long before its consequence a failure counts as its cause."""
MOST_AT_ONCE = 3
"""Lines in the live view: a guest may test failures on purpose."""
_MOST_LINES = 8


class Announcer:
    """Tells of each new diagnosis in one line as it comes up, of ``most`` at most (None: all)."""

    def __init__(self, system: System, tell: Callable[[str], None], most: int | None) -> None:
        self._system, self._tell, self._most = system, tell, most
        self._told = 0

    def __call__(self, sighting: Sighting) -> None:
        """Tell."""
        if self._most is not None and self._told >= self._most:
            return
        self._told += 1
        last = ", and so on" if self._told == self._most else ""
        self._tell(f"turducken: {short(sighting, self._system)}{last}")


def fatal_of(result: Result) -> list[Sighting]:
    """Return what probably ended a run that failed: the last diagnosis, and what led to it."""
    if result.exit_status == 0 or not result.diagnoses:
        return []
    serious = [one for one in result.diagnoses if one.diagnosis.kind not in HINTS]
    hints = [one for one in result.diagnoses if one.diagnosis.kind is not Kind.UNHANDLED_EXIT]
    last = max(serious or hints or result.diagnoses, key=lambda one: one.last)
    if last.diagnosis.kind not in CONSEQUENCES:
        return [last]
    causes = [
        one
        for one in serious
        if one.diagnosis.kind not in CONSEQUENCES
        and last.last_time - one.last_time <= CLOSE_NANOSECONDS
    ]
    return [*([max(causes, key=lambda one: one.last)] if causes else []), last]


def in_order(result: Result) -> list[Sighting]:
    """Return all diagnoses, those that ended the run first."""
    fatal = fatal_of(result)
    return [*fatal, *(one for one in result.diagnoses if one not in fatal)]


def as_list(system: System, result: Result) -> list[dict[str, Any]] | None:
    """Return what `--json` has under ``diagnoses``; None with `--explain none`."""
    if system.diagnoses is None:
        return None
    fatal = fatal_of(result)
    return [as_dict(one, system.names.describe, is_fatal=one in fatal) for one in in_order(result)]


def fatal_text(system: System, result: Result) -> RenderableType | None:
    """Return in full what ended the run; None where there is nothing."""
    fatal = fatal_of(result)
    if not fatal:
        return None
    return Group(*_paragraphs("why", fatal, system), "")


def others_text(system: System, result: Result, *, in_full: bool) -> RenderableType | None:
    """Return the rest, which the guest lived with: in full, or a line each for a few."""
    fatal = fatal_of(result)
    others = [
        one
        for one in result.diagnoses
        # What nothing answered has a table of its own.
        if one not in fatal and one.diagnosis.kind is not Kind.UNANSWERED
    ]
    if not others:
        return None
    if in_full:
        return Group(*_paragraphs("also", others, system))
    noun = "diagnosis" if len(others) == 1 else "diagnoses"
    kinds = f"{len(others)} {'further ' if fatal else ''}{noun}"
    omitted = system.diagnoses.omitted if system.diagnoses is not None else 0
    more = f", and {omitted:,} more like them" if omitted else ""
    lines = [Text(f"{kinds} that the guest lived with{more} (--explain all: in full)", style="dim")]
    for one in others[-_MOST_LINES:]:
        lines.append(Text("  " + short(one, system), style="dim"))
    if len(others) > _MOST_LINES:
        lines.insert(1, Text("  ...", style="dim"))
    return Group(*lines)


def short(one: Sighting, system: System) -> str:
    """Return one line, with how often it came up."""
    times = f" ({one.count} times)" if one.count > 1 else ""
    return one_line(one, system.names.describe) + times


def _paragraphs(label: str, some: list[Sighting], system: System) -> Iterator[Text]:
    for one in some:
        first, *rest = paragraph(one, system.names.describe)
        yield Text.assemble((f"{label}  ", "bold"), (first, "bold red"))
        yield from (Text(line) for line in rest)
