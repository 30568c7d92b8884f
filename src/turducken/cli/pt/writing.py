"""``turducken pt compose, export, render``: what is there, in another form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from turducken.cli.output import written_file
from turducken.cli.pt.session import Ept01, Ept02, Ept12, Limit, Output, Session, Via, command
from turducken.inspect import records, tables
from turducken.inspect.chain import Stage
from turducken.inspect.check import check_shadow
from turducken.inspect.errors import InspectError
from turducken.inspect.export import export as export_memory
from turducken.inspect.findings import Report
from turducken.inspect.moved import MovedMemory
from turducken.inspect.numbers import parse_number
from turducken.inspect.render import Panel, render_page, render_svg
from turducken.inspect.text import size_text
from turducken.inspect.through import ChainMap
from turducken.memory import PhysicalMemory
from turducken.paging.build import build
from turducken.paging.encode import eptp
from turducken.paging.formats import EPT
from turducken.paging.ranges import RangeTable
from turducken.paging.table import BumpAllocator

app = typer.Typer(add_completion=False)


@command(app, "compose")
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
    with written_file("--table", str(output)) as stream:
        stream.write(room.bytes[:size])
    return root, size


@command(app, "export")
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
    with written_file("OUTPUT", str(output)) as stream:
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


_PICTURES = {".svg": render_svg, ".html": render_page, ".htm": render_page}


@command(app, "render")
def render(
    session: Session,
    output: Output,
    via: Via = "",
    ept01: Ept01 = "",
    ept12: Ept12 = "",
    ept02: Ept02 = "",
) -> None:
    """Draw where a table, or a whole chain, leads: SVG or, by the file's name, HTML."""
    draw = _PICTURES.get(output.suffix.lower())
    if draw is None:
        raise InspectError(f"OUTPUT {output}: its name has to end in {', '.join(_PICTURES)}")
    panels, report = _panels(session, via, (ept01, ept12, ept02))
    text = draw(panels, Path(session.source.name).name, report)
    with written_file("OUTPUT", str(output)) as stream:
        stream.write(text.encode())
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
    first, second, third = session.shadow(shadow)
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
