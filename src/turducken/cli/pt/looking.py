"""``turducken pt walk, dump, read, find``: what is there."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from turducken.cli.output import written_file
from turducken.cli.pt.printing import progress
from turducken.cli.pt.session import (
    Limit,
    Session,
    Via,
    command,
)
from turducken.inspect import records, tables
from turducken.inspect.chain import Through, is_canonical_for, walk_chain
from turducken.inspect.errors import InspectError
from turducken.inspect.numbers import parse_number
from turducken.inspect.search.chains import find_chains
from turducken.inspect.search.judge import SEARCHED
from turducken.inspect.search.pages import space_of
from turducken.inspect.search.roots import find_roots
from turducken.inspect.search.vmcs import find_vmcs
from turducken.inspect.text import hexdump, size_text
from turducken.inspect.through import BulkThrough, ChainMap
from turducken.memory import Memory, MemoryHoleError
from turducken.paging.scan import scan

app = typer.Typer(add_completion=False)


@command(app, "walk")
def walk(
    session: Session,
    address: Annotated[str, typer.Argument(help="An address of the innermost guest.")],
    via: Via,
) -> None:
    """Follow an address through its translations, entry by entry."""
    stages = session.stages(via)
    number = parse_number(address, "ADDRESS")
    if not is_canonical_for(stages[0], number):
        bits = stages[0].fmt.address_bits
        raise InspectError(f"{number:#x} is not an address of {bits}-bit {stages[0].fmt.name}")
    way = walk_chain(session.source, stages, number)
    session.show(records.chain_walk(way), tables.walk_view(way))


@command(app, "dump")
def dump(
    session: Session,
    via: Via,
    tree: Annotated[bool, typer.Option("--tree", help="Show entries instead of ranges.")] = False,
    flags: Annotated[
        bool, typer.Option("--flags", help="Tell accessed and dirty pages apart.")
    ] = False,
    limit: Limit = 1000,
) -> None:
    """List what a table maps: the first of --via, read through the others."""
    stages = session.stages(via)
    chain = ChainMap(session.source, stages, accessed_dirty=flags)
    mapping = chain.mapping()
    record = {
        "stage": stages[0].name,
        "format": stages[0].fmt.name,
        "root": records.number(stages[0].root),
        "mapped_bytes": mapping.ranges.total,
        "tables": mapping.tables_read,
        "truncated": mapping.truncated,
        "range_count": len(mapping.ranges),
        "ranges": records.ranges(mapping.ranges, limit),
        "problem_count": len(mapping.problems),
        "problems": records.problems(mapping, limit),
    }
    title = f"{stages[0].name}: {stages[0].fmt.name}, root {stages[0].table_address:#x}"
    if tree:
        entries = scan(stages[0].fmt, chain.memory_below(0), stages[0].root)
        shown = list(islice(entries, limit * 64))
        record["entries"] = [
            {
                "level": stages[0].fmt.levels[one.level].name,
                "start": records.number(one.start),
                "address": records.number(one.address),
                "value": records.number(one.entry),
                "kind": one.stop.value if one.stop else "table",
            }
            for one in shown[:limit]
        ]
        views: list[RenderableType] = [tables.tree_view(title, stages[0].fmt, shown, limit)]
    else:
        views = [title, tables.ranges_view(mapping.ranges, limit)]
        if len(mapping.problems):
            views.append(tables.problems_view(mapping, limit))
    summary = (
        f"{size_text(mapping.ranges.total)} in {len(mapping.ranges)} ranges, "
        f"{mapping.tables_read} tables" + (", cut short by a limit" if mapping.truncated else "")
    )
    session.show(record, *views, summary)


@command(app, "read", "there is a hole: not all of it could be read")
def read(
    session: Session,
    address: Annotated[str, typer.Argument(help="An address of the innermost guest.")],
    length: Annotated[str, typer.Argument(help="How many bytes (K, M, G are understood).")] = "256",
    via: Via = "",
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the bytes to this file.")
    ] = None,
) -> None:
    """Read bytes at an address, through any chain (none: the source's own addresses)."""
    start, count = parse_number(address, "ADDRESS"), parse_number(length, "LENGTH")
    if count > 1 << 30:
        raise InspectError(f"{size_text(count)} is too much to read at once; use export")
    stages = session.reading.chain(via, session.source)
    memory = Through(session.source, stages) if stages else session.source
    data, hole = b"", None
    try:
        data = memory.read(start, count)
    except MemoryHoleError as stop:
        hole = stop.address
        data = memory.read(start, hole - start)
    if output is not None:
        with written_file("--output", str(output)) as stream:
            stream.write(data)
    lines = [] if output is not None else list(hexdump(start, data))
    record: records.Record = {
        "address": records.number(start),
        "length": len(data),
        "data": data.hex(),
        "hole": records.number(hole),
        "reason": None,
    }
    if hole is not None:
        way = walk_chain(session.source, stages, hole)
        record["reason"] = way.reason if way.stopped else "the source has no memory there"
        lines.append(f"{hole:#x}: {record['reason']}")
    session.show(record, "\n".join(lines))
    if hole is not None:
        raise typer.Exit(1)


@command(app, "find")
def find(
    session: Session,
    via: Via = "",
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"Only this: {', '.join(SEARCHED)} (repeatable)."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Near misses too: pages with more garbage in them.")
    ] = False,
    with_chains: Annotated[
        bool,
        typer.Option("--chains", help="Search the memory of the guests below each EPT, too."),
    ] = False,
    limit: Limit = 50,
) -> None:
    """Find roots of tables, and VMCSs, from structure alone; with --via, in a guest's memory."""
    names = {name.lower(): name for name in SEARCHED}
    wrong = [one for one in formats or [] if one.lower() not in names]
    if wrong:
        raise InspectError(f"--format {wrong[0]}: not known; one of {', '.join(SEARCHED)}")
    wanted = [names[one.lower()] for one in formats or SEARCHED]
    memory: Memory = session.source
    if via:
        stages = session.stages(via)
        chain = ChainMap(session.source, stages)
        ranges = chain.composed().ranges
        memory = BulkThrough(session.source, stages, ranges)
        space = space_of(session.source, ranges)
    else:
        space = space_of(session.source)
    with progress("searching") as tick:
        found = find_roots(memory, space, wanted, near_misses=everything, on_progress=tick)
    vmcss = [] if formats else find_vmcs(memory, space, found)
    chains = find_chains(memory, found, session.options) if with_chains else []
    record = {
        "candidates": [records.candidate(one) for one in found[:limit]],
        "count": len(found),
        "vmcs": [records.found_vmcs(one) for one in vmcss],
        "chains": [records.found_chain(one) for one in chains],
    }
    views = [tables.candidates_view(found, limit)]
    views += [tables.vmcs_view(vmcss)] if vmcss else []
    views += [tables.chains_view(chains)] if with_chains else []
    session.show(record, *views)
