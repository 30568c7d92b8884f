"""``turducken pt diff, check``: whether it is right."""

from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import typer

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
from turducken.inspect.check import Checker, Surroundings, check_shadow, inputs_of, without_video
from turducken.inspect.errors import InspectError
from turducken.inspect.findings import Report
from turducken.inspect.opening import open_source, parse_regions
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
    limit: Limit = 20,
) -> None:
    """Look for mistakes in a table, or in a shadow of two (exit status 1: errors found)."""
    report = Report(limit)
    own = parse_regions(hypervisor or [], "--hypervisor")
    given = None if ram is None else parse_regions(ram, "--ram")
    shadow = [ept01, ept12, ept02]
    if any(shadow):
        _check_shadow(session, shadow, (given, own), report)
    else:
        stages = session.stages(via)
        _check_stage(session, stages, (given, own), report)
    session.show(records.report(report), tables.findings_view(report))
    if report.has_errors:
        raise typer.Exit(1)


_Regions = tuple[list[Region] | None, list[Region]]


def _check_stage(
    session: Session, stages: list[Stage], regions: _Regions, report: Report
) -> Checker:
    chain = ChainMap(session.source, stages)
    ram: RangeTable | Sequence[Region] | None
    own: RangeTable | Sequence[Region]
    ram, own = regions
    known = session.source.ram or session.source.regions
    if ram is None and known is not None:
        ram = without_video(known)
    if len(stages) > 1:
        # Regions are the source's; the first stage leads to the inputs of the others.
        behind = chain.composed(1).ranges
        ram = None if ram is None else inputs_of(behind, ram)
        own = inputs_of(behind, own)
    checker = Checker(stages[0], chain.memory_below(0), Surroundings(ram, own), report)
    checker.run()
    return checker


def _check_shadow(
    session: Session, values: Sequence[str], regions: _Regions, report: Report
) -> None:
    first, second, third = session.shadow(values)
    one = _check_stage(session, [first], regions, report)
    two = _check_stage(session, [second, first], regions, report)
    three = _check_stage(session, [third], regions, report)
    one.check_tables_reachable(three.inventory.all_tables, "the shadow's")
    check_shadow(three.mapping.ranges, two.mapping.ranges, one.mapping.ranges, report)
