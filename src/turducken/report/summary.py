"""The end of a run, for people: how it ended, what it cost, and the exits that it took."""

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turducken.report import diagnoses
from turducken.report.journey import journeys_table
from turducken.report.state import state_text
from turducken.report.words import outcome_in_words, plural, short_number, short_time
from turducken.system import Mode, Result, System
from turducken.vmx.exit_reasons import name_of

_LEAST_ROWS = 20
_MOST_UNCLAIMED = 6


def summary(
    system: System, result: Result, *, explain: str = "fatal", whole_vmcs: bool = False
) -> RenderableType:
    """Return the whole summary: what ended the run first, what the guest lived with last.

    Where the processors stand is part of it where the run failed, or all of the VMCS is wanted.
    """
    why = diagnoses.fatal_text(system, result)
    others = diagnoses.others_text(system, result, in_full=explain == "all")
    parts: list[RenderableType] = [*([why] if why else []), _facts(system, result)]
    if result.exits:
        parts.append(_exits(result))
    if result.journeys:
        parts.append(journeys_table(result))
    if result.unclaimed:
        parts.append(_unclaimed(system, result))
    if result.exit_status or whole_vmcs:
        parts.append(state_text(system, whole_vmcs=whole_vmcs))
    if others is not None:
        parts.append(others)
    return Group("", *parts)


def _facts(system: System, result: Result) -> Table:
    options = system.options
    shadow = f", EPT02 {options.shadow}" if options.mode is Mode.NESTED else ""
    apps = "".join(f", {one.text}" for one in options.apps)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    style = "green" if result.exit_status == 0 else "red"
    grid.add_row("outcome", Text(outcome_in_words(result), style=style))
    grid.add_row(
        "system",
        f"{options.image.name}, {options.mode.value}, {plural(options.cpus, 'processor')}, "
        f"profile {options.profile.name}, TLB {options.tlb}{shadow}{apps}",
    )
    grid.add_row(
        "run",
        f"{short_number(result.instructions)} instructions, "
        f"{short_time(result.guest_nanoseconds / 1e9)} of guest time in "
        f"{short_time(result.host_seconds)} ({result.mips:.1f} million instructions/s)",
    )
    grid.add_row("TLB", _tlb(result))
    if result.exit_status:
        for cpu in result.cpus:
            place = f" ({cpu.place})" if cpu.place else ""
            grid.add_row(f"cpu{cpu.index}", f"{cpu.state}, at {cpu.rip:#x}{place}")
    return grid


def _tlb(result: Result) -> str:
    totals = result.tlb
    causes = sorted(totals.invalidations.items(), key=lambda one: -one[1])
    told = ", ".join(f"{cause} {count:,}" for cause, count in causes)
    return f"{totals.hits:,} hits, {totals.misses:,} misses; invalidations: {told or 'none'}"


def _exits(result: Result) -> Columns:
    """Return tables of exits by reason, with a column for each way that exits took."""
    ways = sorted({(one.level, one.handler) for one in result.exits})
    counts = {(one.level, one.handler, one.reason): one.count for one in result.exits}
    reasons = sorted({one.reason for one in result.exits})
    height = max(_LEAST_ROWS, -(-len(reasons) // 2))
    tables = []
    for start in range(0, len(reasons), height):
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("VM exits")
        for level, handler in ways:
            table.add_column(f"L{level} to {handler}", justify="right")
        for reason in reasons[start : start + height]:
            cells = (counts.get((*way, reason), 0) for way in ways)
            table.add_row(name_of(reason), *(f"{count:,}" if count else "" for count in cells))
        tables.append(table)
    return Columns(tables)


def _unclaimed(system: System, result: Result) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("accesses that nothing answered")
    for name in ("address", "bytes", "value", "cpu"):
        table.add_column(name, justify="right")
    table.add_column("from")
    for one in result.unclaimed[:_MOST_UNCLAIMED]:
        place = system.names.describe(one.rip)
        where = f"{one.rip:#x}" + (f" ({place})" if place else "")
        cells = (one.size, f"{one.value:#x}", one.cpu, where)
        table.add_row(one.kind.value, f"{one.address:#x}", *(str(cell) for cell in cells))
    if len(result.unclaimed) > _MOST_UNCLAIMED:
        table.add_row(f"and {len(result.unclaimed) - _MOST_UNCLAIMED} more")
    return table
