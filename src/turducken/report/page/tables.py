"""The tables at the end of a run: where pages lead, and single addresses entry by entry."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from turducken.address import Gpa2
from turducken.hypervisor.explain import Explanation, Stage, explain, read_stage
from turducken.inspect.chain import Stage as ChainStage
from turducken.inspect.check import check_shadow
from turducken.inspect.decode import flags_of, layout_for
from turducken.inspect.findings import Report
from turducken.inspect.render import Panel, render_svg
from turducken.inspect.text import leaf_sizes, size_text
from turducken.inspect.through import ChainMap
from turducken.paging import rights
from turducken.paging.formats import EPT, BoundFormat, Features
from turducken.paging.ranges import RangeTable
from turducken.report.page.gathering import Gathered
from turducken.report.page.markup import details, table, tag, text
from turducken.report.words import plural
from turducken.system import Result, System
from turducken.system.snapshot import roots_of

_MOST_RANGES = 400
_MOST_ADDRESSES = 8
_MAPS = (
    ("EPT12", "L2-physical", "L1-physical"),
    ("EPT01", "L1-physical", "host-physical"),
    ("EPT02", "L2-physical", "host-physical"),
)


@dataclass(frozen=True, slots=True)
class _Roots:
    """The tables of one processor at the end; None where there is none."""

    cpu: int
    ept12: int | None
    ept01: int | None = None
    ept02: int | None = None


def _format(system: System) -> BoundFormat:
    profile = system.options.profile
    return EPT.bind(
        Features(
            maxphyaddr=profile.cpu.physical_address_bits,
            pages_1gib=profile.ept.pages_1gib,
            pages_2mib=profile.ept.pages_2mib,
            execute_only=profile.ept.execute_only,
        )
    )


def _roots(system: System) -> Iterator[_Roots]:
    """Return the tables of each processor (none of a run that ended before it began)."""
    known = roots_of(system)
    for one in system.machine.processors:
        name = f"cpu{one.index}"
        if system.hypervisor is None:
            yield _Roots(one.index, known.get(f"{name}.ept"))
        else:
            names = (f"{name}.ept12", f"{name}.ept01", f"{name}.ept02")
            yield _Roots(one.index, *(known.get(each) for each in names))


def maps(system: System) -> str:
    """Return a picture of each processor's tables, and their ranges; those that are equal once."""
    parts, seen = [], set()
    for one in _roots(system):
        if one.ept12 is None or (one.ept12, one.ept01) in seen:
            continue
        seen.add((one.ept12, one.ept01))
        parts.append(tag("h3", f"cpu{one.cpu}"))
        parts += _maps_of(system, one)
    return "".join(parts)


def _maps_of(system: System, roots: _Roots) -> Iterator[str]:
    fmt, memory = _format(system), system.machine.memory
    ept12 = ChainStage("ept12", fmt, roots.ept12 or 0)
    findings = None
    if roots.ept01 is None:
        ranges = [ChainMap(memory, [ept12]).mapping().ranges]
        panels = [Panel("EPT", "guest-physical", "physical", ranges[0])]
    else:
        inner = ChainMap(memory, [ept12, ChainStage("ept01", fmt, roots.ept01)])
        ranges = [inner.mapping(0).ranges, inner.mapping(1).ranges]
        if roots.ept02 is not None:
            ranges.append(
                ChainMap(memory, [ChainStage("ept02", fmt, roots.ept02)]).mapping().ranges
            )
            findings = Report()
            check_shadow(ranges[2], ranges[0], ranges[1], findings)
        panels = [Panel(*names, each) for names, each in zip(_MAPS, ranges, strict=False)]
    yield f'<div class="picture">{render_svg(panels, system.options.image.name, findings)}</div>'
    for panel in panels:
        count = plural(len(panel.ranges), "range")
        title = f"{panel.title}: {panel.inputs} to {panel.outputs}, {count}"
        yield details(title, _ranges(panel.ranges))


def _ranges(ranges: RangeTable) -> str:
    rows = [
        (
            f"{one.start:#x}",
            f"{one.target:#x}",
            size_text(one.size),
            rights.rights_text(one.attributes),
            rights.type_text(one.attributes),
            leaf_sizes(one.shifts),
        )
        for one in ranges.take(slice(0, _MOST_RANGES))
    ]
    more = len(ranges) - _MOST_RANGES
    tail = tag("p", f"and {more:,} more", "note") if more > 0 else ""
    head = ("from", "to", "size", "rights", "type", "leaves")
    return table(head, rows, frozenset({0, 1, 2})) + tail


def ways(system: System, result: Result, gathered: Gathered) -> str:
    """Return, side by side, the entries on the way of addresses in trouble and of watched ones."""
    parts = []
    for (cpu, address), reason in reversed(gathered.troubles.items()):
        found = _explain(system, cpu, address)
        if found is not None:
            parts.append(_way(found, f"the last {reason} that L1 got on cpu{cpu}"))
    if not parts or system.hypervisor is not None:
        shown = {address for _, address in gathered.troubles}
        for one in result.journeys:
            if one.address not in shown:
                parts.append(_way(one, "watched" + (", as it was" if one.is_past else "")))
    return "".join(parts[:_MOST_ADDRESSES])


def _explain(system: System, cpu: int, address: int) -> Explanation | None:
    if system.hypervisor is not None:
        return explain(system.hypervisor, Gpa2(address), cpu)
    root = roots_of(system).get(f"cpu{cpu}.ept")
    if root is None:
        return None
    stage = read_stage("EPT", _format(system), system.machine.memory, root, address)
    return Explanation(cpu, Gpa2(address), (stage,))


def _way(one: Explanation, why: str) -> str:
    title = tag("h3", f"{one.address:#x} {tag('span', text(why), 'note')}")
    return title + tag("div", "".join(_stage(stage) for stage in one.stages), "trees")


def _stage(stage: Stage) -> str:
    rows: list[Sequence[object]] = []
    for entry in stage.entries:
        layout = layout_for(entry.level.lower().replace(" ", "."), entry.value)
        level = entry.level.removeprefix("EPT ")
        flags = flags_of(entry.value, layout)
        rows.append((level, f"{entry.address:#x}", f"{entry.value:016x}", flags))
    if stage.output is None:
        end = tag("span", text(stage.outcome), "bad")
    else:
        end = text(f"{stage.output:#x}  {stage.rights} {stage.memory_type}")
    head = f"{stage.table}, root {stage.root:#x}: {stage.address:#x} → {end}"
    return tag("div", tag("p", head) + table(("level", "at", "entry", ""), rows))
