"""``turducken pt diff, check``: whether it is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import typer

from turducken.arch.memory_types import MemoryType
from turducken.cli.pt.session import (
    Ept01,
    Ept02,
    Ept12,
    Hypervisor,
    Limit,
    Ram,
    Session,
    Via,
    command,
)
from turducken.inspect import records, tables
from turducken.inspect.chain import Stage
from turducken.inspect.check import Checker, Surroundings, check_against, check_shadow
from turducken.inspect.errors import InspectError
from turducken.inspect.findings import Report
from turducken.inspect.mtrr import TypedRegion, parse_e820, parse_mtrr
from turducken.inspect.opening import machine_roots, open_source, parse_regions
from turducken.inspect.regions import inputs_of, region_table, without_video
from turducken.inspect.source import Region
from turducken.inspect.through import ChainMap
from turducken.paging.compare import compare
from turducken.paging.ranges import RangeTable

app = typer.Typer(add_completion=False)


@command(app, "diff", "they differ")
def diff(
    session: Session,
    via: Via,
    other: Annotated[
        str, typer.Option("--with", metavar="CHAIN", help="The other table (default: --via).")
    ] = "",
    other_source: Annotated[
        str, typer.Option("--in", metavar="SOURCE", help="Where the other table is.")
    ] = "",
    limit: Limit = 1000,
) -> None:
    """Compare two tables: of two chains, or of one chain in two sources (exit status 1: differ)."""
    first = ChainMap(session.source, session.stages(via)).composed().ranges
    if not other and not other_source:
        raise InspectError("compare with what? Say --with CHAIN, --in SOURCE, or both")
    with open_source(other_source or session.source.name) as second_source:
        stages = session.reading.chain(other or via, second_source)
        if not stages:
            raise InspectError("--with names no table")
        second = ChainMap(second_source, stages).composed().ranges
    found = list(islice(compare(first, second), limit + 1))
    record = {
        "equal": not found,
        "differences": [records.difference(one) for one in found[:limit]],
        "more": len(found) > limit,
    }
    view = tables.differences_view(found[:limit], more=len(found) > limit)
    session.show(record, view)
    if found:
        raise typer.Exit(1)


@command(app, "check", "errors were found")
def check(
    session: Session,
    via: Via = "",
    ept01: Ept01 = "",
    ept12: Ept12 = "",
    ept02: Ept02 = "",
    ram: Ram = None,
    hypervisor: Hypervisor = None,
    mtrr: Annotated[
        str,
        typer.Option(
            "--mtrr",
            metavar="LIST|FILE",
            help="Memory types by the MTRRs: default=TYPE,FIRST-END=TYPE,... or a file with that "
            "or with Linux' /proc/mtrr (default: the snapshot's).",
        ),
    ] = "",
    e820: Annotated[
        str,
        typer.Option(
            "--e820", metavar="FILE", help="The memory map that Linux prints when it starts."
        ),
    ] = "",
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="FIRST-END", help="Memory that is a device's."),
    ] = None,
    spp: Annotated[
        bool, typer.Option("--spp", help="Sub-page write permissions are on (EPT, bit 61).")
    ] = False,
    hlat: Annotated[
        bool,
        typer.Option("--hlat", help="The table is that of HLAT paging (bit 11 restarts the walk)."),
    ] = False,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="SNAPSHOT.cpuN",
            help="Compare with what that processor of a machine translates with.",
        ),
    ] = "",
    limit: Limit = 20,
) -> None:
    """Look for mistakes in a table, or in a shadow of two (exit status 1: errors found)."""
    report = Report(limit)
    mapped = parse_e820(e820) if e820 else None
    around = _Around(
        mapped if ram is None else parse_regions(ram, "--ram"),
        parse_regions(hypervisor or [], "--hypervisor"),
        _types(session, mtrr),
        parse_regions(device or [], "--device"),
        spp,
        hlat,
    )
    shadow = [ept01, ept12, ept02]
    if any(shadow):
        _check_shadow(session, shadow, around, report)
    else:
        stages = session.stages(via)
        checker = _check_stage(session, stages, around, report)
        if against:
            _check_against(session, stages, against, checker)
    session.show(records.report(report), tables.findings_view(report))
    if report.has_errors:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Around:
    """What the options tell of the source's memory."""

    ram: list[Region] | None
    hypervisor: list[Region]
    types: list[TypedRegion]
    devices: list[Region]
    has_sub_pages: bool
    is_hlat: bool


def _types(session: Session, mtrr: str) -> list[TypedRegion]:
    if mtrr:
        return parse_mtrr(mtrr)
    known = session.source.mtrrs or ()
    return [TypedRegion(base, size, MemoryType(kind)) for base, size, kind in known]


def _check_stage(session: Session, stages: list[Stage], around: _Around, report: Report) -> Checker:
    chain = ChainMap(session.source, stages)
    ram: Sequence[Region] | None = around.ram
    known = session.source.ram or session.source.regions
    if ram is None and known is not None:
        ram = without_video(known)
    # Regions are the source's; the first stage leads to the inputs of the others.
    behind = chain.composed(1).ranges if len(stages) > 1 else None

    def seen(regions: Sequence[Region]) -> RangeTable:
        return region_table(regions) if behind is None else inputs_of(behind, regions)

    by_type = {
        kind: seen([Region(one.base, one.size) for one in around.types if one.type is kind])
        for kind in sorted({one.type for one in around.types})
    }
    surroundings = Surroundings(
        None if ram is None else seen(ram),
        seen(around.hypervisor),
        list(by_type.items()),
        seen(around.devices),
        around.has_sub_pages,
        around.is_hlat,
    )
    checker = Checker(stages[0], chain.memory_below(0), surroundings, report)
    checker.run()
    return checker


def _check_shadow(session: Session, values: Sequence[str], around: _Around, report: Report) -> None:
    first, second, third = session.shadow(values)
    one = _check_stage(session, [first], around, report)
    two = _check_stage(session, [second, first], around, report)
    three = _check_stage(session, [third], around, report)
    one.check_tables_reachable(three.inventory.all_tables, "the shadow's")
    check_shadow(three.mapping.ranges, two.mapping.ranges, one.mapping.ranges, report)


def _check_against(session: Session, stages: list[Stage], against: str, checker: Checker) -> None:
    path, dot, cpu = against.rpartition(".")
    if not dot or not cpu.startswith("cpu") or not cpu[3:].isdigit():
        raise InspectError(f"--against {against!r}: write SNAPSHOT.cpuN")
    with open_source(path) as machine:
        text = machine_roots(machine, cpu, is_ept=stages[0].fmt.is_ept)
        theirs = session.reading.chain(text, machine)
        there = ChainMap(machine, theirs).composed().ranges
        mine = ChainMap(session.source, stages).composed().ranges
        check_against(mine, there, text, checker)
