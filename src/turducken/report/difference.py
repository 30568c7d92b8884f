"""A comparison of a bare and a nested run, for people and as JSON."""

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turducken.report.words import outcome_in_words, short_time
from turducken.system import Result
from turducken.system.comparison import Comparison, Difference, Recorded, SeenExit
from turducken.vmx.exit_reasons import ENTRY_FAILURE, name_of

_CONTEXT = 3


def comparison_view(found: Comparison) -> RenderableType:
    """Return what the two runs were, and where they part."""
    parts: list[RenderableType] = [_runs(found), ""]
    if found.is_same:
        parts.append(Text("no difference", style="green"))
    if found.output is not None:
        parts += [Text(f"the output differs in line {found.output.number}", style="bold red")]
        parts += [_lines(found), ""]
    for one in found.exits:
        cpu = one.cpu or 0
        text = f"the exits that L1 sees on cpu{cpu} differ from number {one.number} on"
        parts += [Text(text, style="bold red"), _exits(found, one), ""]
    if not found.has_same_end:
        parts.append(Text("the runs end differently", style="bold red"))
    return Group(*parts)


def _runs(found: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "outcome", "lines", "exits to L1", "time"):
        table.add_column(name, justify="left" if name in ("", "outcome") else "right")
    for name, run in (("bare", found.bare), ("nested", found.nested)):
        result = run.result
        exits = sum(len(one) for one in run.exits)
        cells = (str(result.console.count("\n")), f"{exits:,}", short_time(result.host_seconds))
        table.add_row(name, outcome_in_words(result), *cells)
    return table


def _lines(found: Comparison) -> Table:
    assert found.output is not None
    bare, nested = (one.result.console.split("\n") for one in (found.bare, found.nested))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("line", "bare", "nested"):
        table.add_column(name, justify="right" if name == "line" else "left")
    for index in _around(found.output.number):
        cells = (
            Text(run[index].rstrip("\r")) if index < len(run) else "" for run in (bare, nested)
        )
        table.add_row(str(index + 1), *cells, style=_mark(index, found.output))
    return table


def _line(run: list[str], index: int) -> str:
    return run[index].rstrip("\r") if index < len(run) else ""


def _exits(found: Comparison, difference: Difference) -> Table:
    cpu = difference.cpu or 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("exit", "bare", "nested"):
        table.add_column(name, justify="right" if name == "exit" else "left")
    for index in _around(difference.number):
        cells = (_exit(run, cpu, index) for run in (found.bare, found.nested))
        table.add_row(str(index + 1), *cells, style=_mark(index, difference))
    return table


def _around(number: int) -> range:
    return range(max(0, number - 1 - _CONTEXT), number + _CONTEXT)


def _mark(index: int, difference: Difference) -> str:
    return "bold" if index == difference.number - 1 else ""


def _exit(run: Recorded, cpu: int, index: int) -> str:
    exits = run.exits[cpu]
    return exit_in_words(exits[index]) if index < len(exits) else ""


def exit_in_words(seen: SeenExit) -> str:
    """Return an exit as ``EPT violation (qualification 0x181) at 0x104a10``."""
    name = name_of(seen.reason)
    if seen.reason & ENTRY_FAILURE and "failure" not in name:
        name = f"entry failure: {name}"
    detail = f" (qualification {seen.qualification:#x})" if seen.qualification else ""
    return f"{name}{detail}" + ("" if seen.rip is None else f" at {seen.rip:#x}")


def comparison_as_dict(found: Comparison) -> dict[str, Any]:
    """Return what `compare --json` writes."""
    return {
        "same": found.is_same,
        "output": _difference_as_dict(found.output),
        "exits": [_difference_as_dict(one) for one in found.exits],
        "bare": _run_as_dict(found.bare),
        "nested": _run_as_dict(found.nested),
    }


def _run_as_dict(run: Recorded) -> dict[str, Any]:
    result: Result = run.result
    return {
        "outcome": result.outcome.value,
        "guest_exit_code": result.code,
        "instructions": result.instructions,
        "exits": [len(one) for one in run.exits],
        "host_seconds": round(result.host_seconds, 6),
        "console": result.console,
    }


def _difference_as_dict(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    sides = {"bare": _side(one.bare), "nested": _side(one.nested)}
    return {"number": one.number, "cpu": one.cpu, **sides}


def _side(side: str | SeenExit | None) -> str | dict[str, int | None] | None:
    if isinstance(side, SeenExit):
        return {
            "reason": int(side.reason),
            "qualification": side.qualification,
            "rip": side.rip,
        }
    return side
