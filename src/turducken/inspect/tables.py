"""Results as tables for people (Rich), one function for each kind of result."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from turducken.inspect.chain import ChainWalk, StageWalk
from turducken.inspect.decode import flags_of
from turducken.inspect.findings import Finding, Report, Severity
from turducken.inspect.search.chains import Chain
from turducken.inspect.search.roots import Candidate
from turducken.inspect.search.vmcs import FoundVmcs
from turducken.inspect.text import leaf_sizes, outcome, size_text, step_lines
from turducken.paging import rights
from turducken.paging.compare import Difference
from turducken.paging.formats import BoundFormat
from turducken.paging.ranges import Mapping, RangeTable
from turducken.paging.scan import ScannedEntry, linear_address
from turducken.paging.survey import State
from turducken.paging.walker import Stop

_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def rights_style(attributes: int) -> str:
    """Return the colour of a permission: red what is writable and executable."""
    if attributes & rights.W and attributes & (rights.X | rights.XU):
        return "red"
    if attributes & rights.W:
        return "yellow"
    return "green" if attributes & (rights.X | rights.XU) else "cyan"


def _rights(attributes: int) -> Text:
    return Text(rights.rights_text(attributes), rights_style(attributes))


def walk_view(way: ChainWalk) -> RenderableType:
    """Show a walk with every entry of every level."""
    parts: list[RenderableType] = [_stage_table(one) for one in way.stages]
    style = "bold green" if way.output is not None else "bold red"
    parts.append(Text(f"{way.address:#x} -> {outcome(way)}", style))
    return Group(*parts)


def _stage_table(one: StageWalk) -> RenderableType:
    title = (
        f"{one.stage.name} ({one.stage.fmt.name}, root {one.stage.table_address:#x}): "
        f"input {one.address:#x}"
    )
    table = _table("level", "entry at", "value", "fields")
    for level, where, value, flags in step_lines(one):
        table.add_row(level, where, value, flags)
    parts: list[RenderableType] = [Text(title, "bold"), table]
    if one.walk.stop is Stop.PAGE:
        place = f"-> {one.walk.output(one.address):#x}"
        text = f"{place} in a page of {size_text(1 << one.walk.shift)}, "
        parts.append(Text(text + rights.describe(one.attributes) + "\n", "green"))
    else:
        parts.append(Text(f"-> {one.walk.stop.value}\n", "red"))
    return Group(*parts)


def ranges_view(table: RangeTable, limit: int) -> RenderableType:
    """Show merged ranges."""
    view = _table(
        "input", "to", "output", "size", "rights", "type", "flags", "leaves", right=["size"]
    )
    for one in table.take(slice(0, limit)):
        view.add_row(
            f"{one.start:#x}",
            f"{one.end - 1:#x}",
            f"{one.target:#x}",
            size_text(one.size),
            _rights(one.attributes),
            rights.type_text(one.attributes),
            rights.flags_text(one.attributes),
            leaf_sizes(one.shifts),
        )
    if len(table) > limit:
        return Group(view, Text(f"... and {len(table) - limit} more ranges (--limit)", "dim"))
    return view


def problems_view(mapping: Mapping, limit: int) -> RenderableType:
    """Show what is present in a table but maps nothing."""
    view = _table("input", "size", "level", "entry at", "entry", "problem", right=["size"])
    rows = mapping.problems
    for index in range(min(limit, len(rows))):
        malformed = rows.state[index] == State.MALFORMED
        view.add_row(
            f"{mapping.problem_address(index):#x}",
            size_text(mapping.problem_size(index)),
            mapping.fmt.levels[int(rows.level[index])].name,
            f"{int(rows.entry_address[index]):#x}",
            f"{int(rows.entry[index]):#x}",
            Text("malformed" if malformed else "table not in memory", "red"),
        )
    if len(rows) > limit:
        return Group(view, Text(f"... and {len(rows) - limit} more (--limit)", "dim"))
    return view


def tree_view(title: str, fmt: BoundFormat, entries: Iterable[ScannedEntry], limit: int) -> Tree:
    """Show entries as a tree, neighbours that continue each other on one line."""
    tree = Tree(Text(title, "bold"))
    branches = {-1: tree}
    for number, (first, last, count) in enumerate(_runs(fmt, entries)):
        if number == limit:
            tree.add(Text("... and more (--limit)", "dim"))
            break
        layout = fmt.entry_layout(first.level, first.entry)
        start = linear_address(fmt, first.start)
        line = Text(f"{start:#x}  {layout.name} at {first.address:#x}  {first.entry:#x}  ")
        if first.stop is Stop.NO_MEMORY:
            line.append("the source has no memory here", "red")
        elif first.stop is Stop.MALFORMED:
            line.append("malformed", "red")
        else:
            line.append(flags_of(first.entry, layout), "cyan" if first.stop is None else "green")
        if first.stop is Stop.PAGE:
            line.append(f"  -> {first.page:#x}")
        if count > 1:
            line.append(f"  ... {count} entries up to {last.address:#x}", "dim")
        parent = branches.get(first.level - 1, tree)
        branches[first.level] = parent.add(line)
    return tree
    return tree


def _runs(
    fmt: BoundFormat, entries: Iterable[ScannedEntry]
) -> Iterable[tuple[ScannedEntry, ScannedEntry, int]]:
    first: ScannedEntry | None = None
    last, count = first, 0
    for one in entries:
        if first is not None and last is not None and _continues(fmt, last, one):
            last, count = one, count + 1
            continue
        if first is not None and last is not None:
            yield first, last, count
        first = last = one
        count = 1
    if first is not None and last is not None:
        yield first, last, count


def _continues(fmt: BoundFormat, last: ScannedEntry, one: ScannedEntry) -> bool:
    step = 1 << fmt.levels[one.level].shift
    return (
        last.stop is Stop.PAGE
        and one.stop is Stop.PAGE
        and one.level == last.level
        and one.address == last.address + fmt.entry_size
        and one.entry == last.entry + step
    )


def differences_view(differences: Sequence[Difference], *, more: bool) -> RenderableType:
    """Show how two tables differ."""
    if not differences:
        return Text("no differences", "green")
    view = _table("input", "to", "size", "difference", "A", "B", right=["size"])
    for one in differences:
        view.add_row(
            f"{one.start:#x}",
            f"{one.start + one.size - 1:#x}",
            size_text(one.size),
            one.change.value,
            _side(one.target_a, one.attributes_a),
            _side(one.target_b, one.attributes_b),
        )
    return Group(view, Text("... and more (--limit)", "dim")) if more else view


def _side(target: int | None, word: int | None) -> str:
    return "-" if target is None else f"{target:#x} {rights.describe(word or 0)}"


def findings_view(report: Report) -> RenderableType:
    """Show findings, most severe first."""
    if not report.findings:
        return Text("nothing found", "green")
    order = list(Severity)
    view = _table(
        "severity", "rule", "stage", "input", "size", "entry at", "finding", right=["size"]
    )
    view.columns[-1].no_wrap = False
    for one in sorted(report.findings, key=lambda each: order.index(each.severity)):
        view.add_row(*_finding_cells(one))
    parts: list[RenderableType] = [view]
    for (stage, rule), count in report.omitted.items():
        parts.append(Text(f"... and {count} more of {rule} in {stage} (--limit)", "dim"))
    return Group(*parts)


def _finding_cells(one: Finding) -> tuple[RenderableType, ...]:
    return (
        Text(one.severity.value, _STYLE[one.severity]),
        one.rule.name,
        one.stage,
        "" if one.start is None else f"{one.start:#x}",
        size_text(one.size) if one.size else "",
        "" if one.entry_address is None else f"{one.entry_address:#x}",
        one.message,
    )


def candidates_view(candidates: Sequence[Candidate], limit: int) -> RenderableType:
    """Show plausible roots, likeliest first."""
    if not candidates:
        return Text("no plausible roots", "yellow")
    view = _table("root", "format", "or", "score", "maps", "evidence", right=["score", "maps"])
    view.columns[-1].no_wrap = False
    for one in candidates[:limit]:
        view.add_row(
            f"{one.root:#x}",
            one.format,
            ", ".join(one.also),
            f"{one.score:.1f}",
            size_text(one.mapped),
            ("a near miss: " if one.is_near_miss else "") + one.evidence,
        )
    if len(candidates) > limit:
        return Group(view, Text(f"... and {len(candidates) - limit} more (--limit)", "dim"))
    return view


def vmcs_view(found: Sequence[FoundVmcs]) -> RenderableType:
    """Show the VMCSs that were found."""
    view = _table("VMCS", "revision", "EPTP", "guest CR3", "host CR3", "host RIP", "evidence")
    view.columns[-1].no_wrap = False
    for one in found:
        values = (one.eptp, one.guest_cr3, one.host_cr3, one.host_rip)
        view.add_row(
            f"{one.address:#x}",
            f"{one.revision:#x}",
            *("?" if value is None else f"{value:#x}" for value in values),
            f"{one.layout}; {one.evidence}",
        )
    return view


def chains_view(chains: Sequence[Chain]) -> RenderableType:
    """Show the roots in guests' memory, as ``--via`` takes them."""
    if not chains:
        return Text("no tables of guests below these EPTs that are not among the above", "yellow")
    view = _table("--via", "maps", "evidence", right=["maps"])
    view.columns[-1].no_wrap = False
    for one in chains:
        view.add_row(one.via, size_text(one.found.mapped), one.found.evidence)
    return view
