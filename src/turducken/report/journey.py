"""Where L2's addresses went: through EPT12, EPT01 and EPT02, entry by entry, as a small table."""

from typing import Any

from rich import box
from rich.table import Table

from turducken.hypervisor.explain import Explanation, Stage
from turducken.system import Result


def journeys_table(result: Result) -> Table:
    """Return one table of all explained addresses."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("L2 address", "table", "level", "entry at", "entry", "leads to"):
        table.add_column(name, justify="left" if name in ("table", "level") else "right")
    table.add_column("rights")
    table.add_column("type")
    for number, one in enumerate(result.journeys):
        if number:
            table.add_section()
        # What follows the tables as they are is how they were when L2 used the address last.
        before = result.journeys[number - 1] if number else None
        is_earlier = one.is_past and before is not None and before.address == one.address
        _add_journey(table, one, is_earlier=is_earlier)
    return table


def _add_journey(table: Table, journey: Explanation, *, is_earlier: bool) -> None:
    name = f"{journey.address:#x}" + (" (earlier)" if is_earlier else "")
    for stage in journey.stages:
        _add_stage(table, name, stage)
        name = ""


def _add_stage(table: Table, name: str, stage: Stage) -> None:
    if not stage.entries:
        table.add_row(name, stage.table, "", "", "", stage.outcome, "", "")
    last = len(stage.entries) - 1
    for number, entry in enumerate(stage.entries):
        first = (name, stage.table) if number == 0 else ("", "")
        end = _end_of(stage) if number == last else ("", "", "")
        table.add_row(
            *first,
            entry.level.removeprefix("EPT "),
            f"{entry.address:#x}",
            f"{entry.value:016x}",
            *end,
        )


def _end_of(stage: Stage) -> tuple[str, str, str]:
    if stage.output is None:
        return stage.outcome, "", ""
    return f"{stage.output:#x}", stage.rights, stage.memory_type


def journeys_as_list(result: Result) -> list[dict[str, Any]]:
    """Return the same for JSON."""
    return [
        {
            "cpu": one.processor,
            "l2_address": one.address,
            "host_physical": one.host_physical,
            "is_past": one.is_past,
            "stages": [_stage_as_dict(stage) for stage in one.stages],
        }
        for one in result.journeys
    ]


def _stage_as_dict(stage: Stage) -> dict[str, Any]:
    return {
        "table": stage.table,
        "root": stage.root,
        "address": stage.address,
        "outcome": stage.outcome,
        "output": stage.output,
        "rights": stage.rights,
        "memory_type": stage.memory_type,
        "page_size": stage.page_size,
        "entries": [
            {"level": one.level, "address": one.address, "value": one.value}
            for one in stage.entries
        ],
    }
