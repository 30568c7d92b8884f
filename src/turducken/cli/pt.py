"""``turducken pt``: look at page tables and EPTs in dumps and stopped machines.

``python -m turducken.cli.pt`` is the same on its own. Every command opens a source and prints
either tables for people or, with ``--json``, the records that docs/pt.md describes.
"""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from turducken.inspect import records, tables
from turducken.inspect.chain import Stage, Through, is_canonical_for, walk_chain
from turducken.inspect.check import Checker, Surroundings, check_shadow, inputs_of, without_video
from turducken.inspect.decode import LAYOUTS
from turducken.inspect.decode import decode as decode_value
from turducken.inspect.dumps import parse_number
from turducken.inspect.errors import InspectError
from turducken.inspect.export import export as export_memory
from turducken.inspect.find import SEARCHED, find_roots, space_of
from turducken.inspect.findings import Report
from turducken.inspect.moved import MovedMemory
from turducken.inspect.opening import SOURCE_HELP, AnySource, Reading, open_source, parse_regions
from turducken.inspect.render import Panel, render_page, render_svg
from turducken.inspect.source import Region
from turducken.inspect.text import hexdump, size_text
from turducken.inspect.through import BulkThrough, ChainMap
from turducken.memory import Memory, MemoryHoleError, PhysicalMemory
from turducken.paging.build import build
from turducken.paging.compare import compare
from turducken.paging.encode import CannotEncodeError, eptp
from turducken.paging.formats import EPT
from turducken.paging.ranges import RangeTable
from turducken.paging.scan import scan
from turducken.paging.table import BumpAllocator, OutOfTablesError

app = typer.Typer(
    help="Look at page tables and EPTs, in dumps and stopped machines.", no_args_is_help=True
)

BAD_USAGE = 2
_USER_ERRORS = (InspectError, CannotEncodeError, OutOfTablesError, OSError)

Via = Annotated[
    str,
    typer.Option(
        "--via",
        metavar="NAME[:FORMAT][=VALUE],...",
        help="The translations, inner to outer: cr3=0x1000,ept12=0x201e,ept01=0x301e. "
        "Names that a snapshot knows need no value.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Show at most this many rows.")]
Regions = list[str] | None
Ram = Annotated[
    Regions,
    typer.Option("--ram", metavar="FIRST-END", help="Where there is RAM (default: the source)."),
]
Hypervisor = Annotated[
    Regions,
    typer.Option("--hypervisor", metavar="FIRST-END", help="Memory that nobody may reach."),
]
Ept01 = Annotated[str, typer.Option("--ept01", help="EPTP of EPT01, or the source's name of it.")]
Ept12 = Annotated[str, typer.Option("--ept12", help="EPTP of EPT12, which is in L1's memory.")]
Ept02 = Annotated[str, typer.Option("--ept02", help="EPTP of EPT02, the shadow.")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")]


# What all commands share: the source, how it is read, how results are shown.


@dataclass(frozen=True, slots=True)
class Session:
    """An open source, and how a command was asked to read it and to print."""

    source: AnySource
    reading: Reading
    as_json: bool

    def stages(self, via: str, option: str = "--via") -> list[Stage]:
        """Return the stages of a chain that must not be empty."""
        stages = self.reading.chain(via, self.source)
        if not stages:
            known = ", ".join(sorted(self.source.roots))
            there = f" (the source knows {known})" if known else ""
            raise InspectError(f"{option} is missing: which table?{there}")
        return stages

    def show(self, record: records.Record, *views: RenderableType) -> None:
        """Print a result, and warnings about the source."""
        _print(record, views, as_json=self.as_json)
        for warning in self.source.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _print(record: records.Record, views: tuple[RenderableType, ...], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, indent=2))
        return
    # Not cut to 80 columns where nobody's terminal is.
    console = Console() if sys.stdout.isatty() else Console(width=240)
    for view in views:
        console.print(view)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough
        raise typer.Exit(0) from None
    except MemoryHoleError as hole:
        _fail(f"the source has no memory at {hole.address:#x}")
    except _USER_ERRORS as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"turducken pt: {message}", file=sys.stderr)
    raise typer.Exit(BAD_USAGE)


def _reads_source(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    base: Annotated[str, typer.Option("--base", help="A raw dump's first address.")] = "0",
    paging: Annotated[
        str, typer.Option("--paging", help="How cr3 is read: 4-level, 5-level, pae, 32-bit.")
    ] = "4-level",
    maxphyaddr: Annotated[
        int | None,
        typer.Option("--maxphyaddr", help="Physical-address bits (default: snapshot's, or 52)."),
    ] = None,
    pat: Annotated[str | None, typer.Option("--pat", help="IA32_PAT, if not as at reset.")] = None,
    no_execute_only: Annotated[
        bool, typer.Option("--no-execute-only", help="The processor has no execute-only pages.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Let a gdb remote run on afterwards.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold the parameters that every command with a source has; see `_command`."""


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: it gets a `Session` for its source, and the shared options."""
    shared = inspect.signature(_reads_source).parameters
    first, options = shared["source"], [one for key, one in shared.items() if key != "source"]

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        required = [one for one in own if one.default is one.empty]
        optional = [one for one in own if one.default is not one.empty]
        parameters = [first, *required, *optional, *options]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            mine = {one.name: values[one.name] for one in own}
            reading = Reading(
                paging=values["paging"],
                maxphyaddr=values["maxphyaddr"],
                pat=values["pat"],
                no_execute_only=values["no_execute_only"],
            )
            with (
                _one_line_errors(),
                open_source(
                    values["source"], base=values["base"], resume=values["resume"]
                ) as source,
            ):
                function(Session(source, reading, values["as_json"]), **mine)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return app.command(name)(run)

    return register


# The commands.


@_command("walk")
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


@_command("dump")
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


@_command("read")
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
        output.write_bytes(data)
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


@_command("diff")
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


@_command("compose")
def compose(
    session: Session,
    via: Via,
    output: Annotated[
        Path | None,
        typer.Option("--table", help="Write a real EPT that maps the same, as a raw dump."),
    ] = None,
    at: Annotated[
        str, typer.Option("--at", help="The address of the written dump's first byte.")
    ] = "0",
    limit: Limit = 1000,
) -> None:
    """Make one mapping of a whole chain, such as EPT02 of EPT12 and EPT01."""
    stages = session.stages(via)
    chain = ChainMap(session.source, stages)
    both = chain.composed()
    record = {
        "stages": [one.name for one in stages],
        "mapped_bytes": both.ranges.total,
        "range_count": len(both.ranges),
        "ranges": records.ranges(both.ranges, limit),
        "unmapped_bytes": both.unmapped.total,
        "unmapped": records.ranges(both.unmapped, limit),
        "truncated": chain.truncated,
    }
    views: list[RenderableType] = [tables.ranges_view(both.ranges, limit)]
    if len(both.unmapped):
        views += ["mapped by the first stage, but by none behind it:"]
        views += [tables.ranges_view(both.unmapped, limit)]
    if output is not None:
        base = parse_number(at, "--at")
        root, size = _write_table(both.ranges, base, output, session)
        record["eptp"] = records.number(eptp(root))
        views.append(f"{output}: {size_text(size)}, EPTP {eptp(root):#x} (--base {base:#x})")
    session.show(record, *views)


def _write_table(ranges: RangeTable, base: int, output: Path, session: Session) -> tuple[int, int]:
    fmt = EPT.bind(session.reading.options(session.source).features)
    room = PhysicalMemory(2 << 30)
    pages = BumpAllocator(base, base + room.size)
    root = build(fmt, MovedMemory(room, base), ranges, pages)
    size = pages.next - base
    with open(output, "wb") as stream:
        stream.write(room.bytes[:size])
    return root, size


@_command("check")
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


def _three(session: Session, values: Sequence[str]) -> list[Stage]:
    """Return EPT01, EPT12 and EPT02, given as values or by a source's names."""
    if not all(values):
        raise InspectError("a shadow takes --ept01, --ept12 and --ept02, all three")
    stages = []
    for name, value in zip(("ept01", "ept12", "ept02"), values, strict=True):
        text = f"{name}={value}" if value[0].isdigit() else f"{value}:ept"
        (stage,) = session.reading.chain(text, session.source)
        stages.append(replace(stage, name=name))
    return stages


def _check_shadow(
    session: Session, values: Sequence[str], regions: _Regions, report: Report
) -> None:
    first, second, third = _three(session, values)
    one = _check_stage(session, [first], regions, report)
    two = _check_stage(session, [second, first], regions, report)
    three = _check_stage(session, [third], regions, report)
    one.check_tables_reachable(three.inventory.all_tables, "the shadow's")
    check_shadow(three.mapping.ranges, two.mapping.ranges, one.mapping.ranges, report)


@_command("find")
def find(
    session: Session,
    via: Via = "",
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"Only this: {', '.join(SEARCHED)} (repeatable)."),
    ] = None,
    limit: Limit = 50,
) -> None:
    """Find roots of tables from structure alone; with --via, in a guest's memory."""
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
    found = find_roots(memory, space, wanted)
    record = {"candidates": [records.candidate(one) for one in found[:limit]], "count": len(found)}
    session.show(record, tables.candidates_view(found, limit))


@_command("export")
def export(
    session: Session,
    output: Output,
    via: Via,
    kind: Annotated[str, typer.Option("--format", help="raw, elf or lime.")] = "elf",
) -> None:
    """Write a guest's physical memory, read through its tables, as a dump of its own."""
    chain = ChainMap(session.source, session.stages(via))
    ranges = chain.composed().ranges
    if not len(ranges):
        raise InspectError("nothing to export: the chain maps nothing")
    with open(output, "wb") as stream:
        written, lost = export_memory(session.source, ranges, kind, stream)
    record = {
        "output": str(output),
        "format": kind,
        "bytes": written,
        "missing_bytes": lost,
        "truncated": chain.truncated,
    }
    text = f"{output}: {size_text(written)}"
    text += f"; {size_text(lost)} are mapped but not in the source" if lost else ""
    session.show(record, text)


@_command("render")
def render(
    session: Session,
    output: Output,
    via: Via = "",
    ept01: Ept01 = "",
    ept12: Ept12 = "",
    ept02: Ept02 = "",
) -> None:
    """Draw where a table, or a whole chain, leads: SVG or, by the file's name, HTML."""
    panels, report = _panels(session, via, (ept01, ept12, ept02))
    title = Path(session.source.name).name
    text = render_svg(panels, title, report)
    if output.suffix.lower() in (".html", ".htm"):
        text = render_page(panels, title, report)
    output.write_text(text, encoding="utf-8")
    session.show(
        {"output": str(output), "panels": [one.title for one in panels]},
        f"{output}: {', '.join(one.title for one in panels)}",
    )


def _panels(session: Session, via: str, shadow: Sequence[str]) -> tuple[list[Panel], Report | None]:
    if not any(shadow):
        stages = session.stages(via)
        chain = ChainMap(session.source, stages)
        panels = []
        for number, stage in enumerate(stages):
            spaces = _space(number, stages), _space(number + 1, stages)
            panels.append(Panel(stage.name, *spaces, chain.mapping(number).ranges))
        return panels, None
    report = Report()
    first, second, third = _three(session, shadow)
    inner = ChainMap(session.source, [second, first])
    direct = ChainMap(session.source, [third])
    one, two, three = inner.mapping(1).ranges, inner.mapping(0).ranges, direct.mapping().ranges
    check_shadow(three, two, one, report)
    return [
        Panel("EPT12", "L2-physical", "L1-physical", two),
        Panel("EPT01", "L1-physical", "host-physical", one),
        Panel("EPT02", "L2-physical", "host-physical", three),
    ], report


def _space(number: int, stages: list[Stage]) -> str:
    """Name the address space before stage ``number`` (or behind the last one)."""
    if number == len(stages):
        return "memory"
    return "linear" if not stages[number].fmt.is_ept else f"input of {stages[number].name}"


@app.command("decode")
def decode(
    value: Annotated[str, typer.Argument(help="The value of an entry or register.")],
    kind: Annotated[
        str, typer.Option("--as", metavar="KIND", help=f"One of: {', '.join(LAYOUTS)}.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take an entry or a register apart, field by field."""
    with _one_line_errors():
        decoded = decode_value(parse_number(value, "VALUE"), kind)
        _print(records.decoded(decoded), (tables.decoded_view(decoded),), as_json=as_json)


if __name__ == "__main__":
    app()
