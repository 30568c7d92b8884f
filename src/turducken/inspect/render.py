"""Pictures of tables: which input leads to which output, as SVG or as a page of HTML around it.

Each panel is one mapping: its input space on the left, its output space on the right, and a ribbon
for every range. Spaces are compressed (a page and a gigabyte both stay visible), and a space that
appears in several panels is drawn to the same scale in all of them. No fonts, scripts or files from
elsewhere.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from turducken.inspect.findings import Finding, Report, Severity
from turducken.inspect.text import leaf_sizes, size_text
from turducken.paging import rights
from turducken.paging.ranges import Range, RangeTable

MAX_RANGES = 60
"""Ranges drawn per panel; the largest are chosen, and the picture says how many are left out."""

TOP, BOTTOM, WIDTH, LABEL, BAR = 92, 64, 470, 118, 14
LEGEND = 550
GAP = 12.0
LINE = 12.0

_COLOURS = (
    ("RWX", "#6c84b5"),
    ("RW-", "#e0a83a"),
    ("R-X", "#4f9d69"),
    ("R--", "#8fc1d4"),
    ("--X", "#8a6bbf"),
    ("other", "#b5b5b5"),
)

_STYLE = """
text { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #222; }
.title { font-size: 17px; font-weight: bold; }
.panel { font-size: 14px; font-weight: bold; }
.space { font-size: 11px; fill: #555; }
.address { font-size: 10px; fill: #444; }
.note { font-size: 11px; fill: #555; }
.fault { font-size: 11px; fill: #a4001d; font-weight: bold; }
.bar { fill: #f2f0eb; stroke: #999; stroke-width: .7; }
.used { fill: #d8d3c8; }
.ribbon { stroke-width: .8; fill-opacity: .62; }
.bad { stroke: #a4001d; stroke-width: 2; stroke-dasharray: 5 2; }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One mapping to draw: the names of its input and output spaces, and its ranges."""

    title: str
    inputs: str
    outputs: str
    ranges: RangeTable


class Scale:
    """Where the addresses of one space lie on a vertical axis."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        points = sorted({point for span in spans for point in span})
        self._points = points
        self._tops: list[float] = []
        self.used: list[tuple[int, int]] = []
        height = 0.0
        for low, high in pairwise(points):
            self._tops.append(height)
            inside = any(first <= low and high <= last for first, last in spans)
            height += _height(high - low) if inside else GAP
            if inside:
                self.used.append((low, high))
        self._tops.append(height)
        self.height = height

    def at(self, address: int) -> float:
        """Return the position of ``address``, which lies in the axis' spans."""
        index = (
            int(np.searchsorted(np.array(self._points, dtype=object), address, side="right")) - 1
        )
        index = max(0, min(index, len(self._points) - 1))
        if index == len(self._points) - 1:
            return self._tops[index]
        low, high = self._points[index], self._points[index + 1]
        part = (address - low) / (high - low)
        return self._tops[index] + part * (self._tops[index + 1] - self._tops[index])

    def labels(self) -> Iterator[tuple[float, int]]:
        """Yield positions and addresses of the boundaries that have room for a label."""
        last = -LINE
        for top, point in zip(self._tops, self._points, strict=True):
            if top - last >= LINE - 1:
                yield top, point
                last = top


def _height(size: int) -> float:
    return min(64.0, 9.0 + 3.2 * math.log2(max(1.0, size / 4096)))


@dataclass(frozen=True, slots=True)
class _Drawn:
    panel: Panel
    ranges: tuple[Range, ...]
    left_out: int


def _chosen(panel: Panel, report: Report | None) -> _Drawn:
    """Choose what to draw of a panel: what has a finding first, then by size."""
    faults = {one.start for one in _faults(panel, report)}
    parts = _cut_at(panel.ranges, faults, report, panel)
    order = sorted(parts, key=lambda one: (one.start not in faults, -one.size))
    kept = sorted(order[:MAX_RANGES])
    return _Drawn(
        panel, tuple(kept), len(panel.ranges) - len(kept) if len(parts) > MAX_RANGES else 0
    )


def _cut_at(
    ranges: RangeTable, faults: set[int | None], report: Report | None, panel: Panel
) -> list[Range]:
    """Return ranges, cut where a finding begins and ends, so that it can be seen."""
    points = sorted(
        {
            point
            for one in _faults(panel, report)
            for point in ((one.start or 0), (one.start or 0) + one.size)
        }
    )
    largest = (
        ranges.take(np.argsort(ranges.size)[::-1][: 4 * MAX_RANGES]) if len(ranges) else ranges
    )
    parts: list[Range] = []
    kept = list(largest)
    kept += [one for start in faults if (one := ranges.find(start or 0)) and one not in kept]
    for one in kept:
        inside = [point for point in points if one.start < point < one.end]
        bounds = [one.start, *inside, one.end]
        for low, high in pairwise(bounds):
            parts.append(
                one._replace(start=low, size=high - low, target=one.target + low - one.start)
            )
    return parts


def _faults(panel: Panel, report: Report | None) -> list[Finding]:
    if report is None:
        return []
    return [
        one
        for one in report.findings
        if one.stage == panel.title.lower() and one.size and one.severity is not Severity.NOTE
    ]


def render_svg(panels: Sequence[Panel], title: str, report: Report | None = None) -> str:
    """Return the picture of ``panels`` side by side; findings with a range are outlined."""
    drawn = [_chosen(one, report) for one in panels]
    scales = _scales(drawn)
    height = TOP + BOTTOM + max((one.height for one in scales.values()), default=0.0)
    faults = sorted(
        (one for panel in panels for one in _faults(panel, report)), key=lambda one: one.start or 0
    )
    height += LINE * 1.4 * min(len(faults), 12)
    width = max(WIDTH * len(panels), LEGEND) + 20
    body = [f'<text class="title" x="16" y="26">{escape(title)}</text>']
    for number, one in enumerate(drawn):
        body += _panel(one, scales, 10 + number * WIDTH, report)
    body += _legend(height - BOTTOM + 30 - LINE * 1.4 * min(len(faults), 12))
    for number, fault in enumerate(faults[:12]):
        y = height - LINE * 1.4 * (min(len(faults), 12) - number) + 4
        text = f"{fault.stage} {fault.start:#x} + {size_text(fault.size)}: {fault.message}"
        body.append(f'<text class="fault" x="16" y="{y:.0f}">{escape(text)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}">\n<style>{_STYLE}</style>\n{_PATTERN}\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


_PATTERN = (
    '<defs><pattern id="uncached" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="6" stroke="#333" '
    'stroke-width="1.6"/></pattern></defs>'
)


def _scales(drawn: Sequence[_Drawn]) -> dict[str, Scale]:
    spans: dict[str, list[tuple[int, int]]] = {}
    for one in drawn:
        for each in one.ranges:
            spans.setdefault(one.panel.inputs, []).append((each.start, each.end))
            spans.setdefault(one.panel.outputs, []).append((each.target, each.target + each.size))
    return {name: Scale(every) for name, every in spans.items()}


def _panel(one: _Drawn, scales: dict[str, Scale], x: int, report: Report | None) -> list[str]:
    left, right = x + LABEL, x + WIDTH - LABEL - BAR
    total = f"{size_text(one.panel.ranges.total)} in {len(one.panel.ranges)} ranges"
    body = [
        f'<text class="panel" x="{x + 6}" y="50">{escape(one.panel.title)}</text>',
        f'<text class="note" x="{x + 96}" y="50">{total}</text>',
    ]
    if not one.ranges:
        return [*body, f'<text class="note" x="{left}" y="{TOP}">maps nothing</text>']
    body += _axis(scales[one.panel.inputs], one.panel.inputs, left, left=True)
    body += _axis(scales[one.panel.outputs], one.panel.outputs, right, left=False)
    bad = {fault.start: fault for fault in _faults(one.panel, report)}
    wide_first = sorted(one.ranges, key=lambda each: (each.start in bad, -each.size))
    for each in wide_first:
        body += _ribbon(each, one.panel, scales, (left + BAR, right), bad.get(each.start))
    if one.left_out > 0:
        text = f"{one.left_out} smaller ranges are not drawn"
        body.append(f'<text class="note" x="{left}" y="{TOP - 26}">{text}</text>')
    return body


def _axis(scale: Scale, name: str, x: int, *, left: bool) -> list[str]:
    anchor, label_x = ("end", x - 4) if left else ("start", x + BAR + 4)
    body = [
        f'<text class="space" x="{x + BAR // 2}" y="{TOP - 12}" text-anchor="middle">'
        f"{escape(name)}</text>",
        f'<rect class="bar" x="{x}" y="{TOP}" width="{BAR}" height="{scale.height:.1f}"/>',
    ]
    for low, high in scale.used:
        top, bottom = scale.at(low), scale.at(high)
        body.append(
            f'<rect class="used" x="{x}" y="{TOP + top:.1f}" width="{BAR}" '
            f'height="{bottom - top:.1f}"/>'
        )
    for top, address in scale.labels():
        body.append(
            f'<text class="address" x="{label_x}" y="{TOP + top + 3.5:.1f}" '
            f'text-anchor="{anchor}">{address:x}</text>'
        )
    return body


def _ribbon(
    one: Range,
    panel: Panel,
    scales: dict[str, Scale],
    edges: tuple[int, int],
    fault: Finding | None,
) -> list[str]:
    inputs, outputs = scales[panel.inputs], scales[panel.outputs]
    y1, y2 = TOP + inputs.at(one.start), TOP + inputs.at(one.end)
    y3, y4 = TOP + outputs.at(one.target), TOP + outputs.at(one.target + one.size)
    x1, x2 = edges
    middle = (x1 + x2) / 2
    path = (
        f"M{x1} {y1:.1f}C{middle:.0f} {y1:.1f} {middle:.0f} {y3:.1f} {x2} {y3:.1f}"
        f"L{x2} {y4:.1f}C{middle:.0f} {y4:.1f} {middle:.0f} {y2:.1f} {x1} {y2:.1f}Z"
    )
    colour = _colour(one.attributes)
    tip = (
        f"{one.start:#x} + {size_text(one.size)} to {one.target:#x}, "
        f"{rights.describe(one.attributes)}, {leaf_sizes(one.shifts)}"
    )
    tip += f"; {fault.rule.name}: {fault.message}" if fault else ""
    css = "ribbon bad" if fault else "ribbon"
    stroke = "" if fault else f' stroke="{colour}"'
    title = f"<title>{escape(tip)}</title>"
    body = [f'<path class="{css}" d="{path}" fill="{colour}"{stroke}>{title}</path>']
    if rights.MEMORY_TYPE.describe(one.attributes).startswith("UC"):
        body.append(f'<path d="{path}" fill="url(#uncached)" fill-opacity=".35"/>')
    return body


def _colour(attributes: int) -> str:
    text = rights.rights_text(attributes)[:3]
    return dict(_COLOURS).get(text, dict(_COLOURS)["other"])


def _legend(y: float) -> list[str]:
    body, x = [], 16
    for name, colour in _COLOURS:
        body.append(
            f'<rect x="{x}" y="{y - 10:.0f}" width="12" height="12" fill="{colour}" '
            f'fill-opacity=".75"/><text class="note" x="{x + 17}" y="{y:.0f}">{name}</text>'
        )
        x += 72
    body.append(
        f'<rect x="{x}" y="{y - 10:.0f}" width="12" height="12" fill="url(#uncached)" '
        f'stroke="#999"/><text class="note" x="{x + 17}" y="{y:.0f}">uncached</text>'
    )
    return body


# The page.

_PAGE_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }
h1 { font-size: 20px; } h2 { font-size: 16px; margin-top: 28px; }
.picture { overflow-x: auto; border: 1px solid #ddd; border-radius: 6px; padding: 8px; }
table { border-collapse: collapse; font: 12px ui-monospace, Menlo, Consolas, monospace; }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid #eee; }
td.number { text-align: right; } .error { color: #a4001d; font-weight: bold; }
.warning { color: #9a6700; } .note { color: #555; }
"""

PAGE_ROWS = 500


def render_page(panels: Sequence[Panel], title: str, report: Report | None = None) -> str:
    """Return a self-contained HTML page: the picture, the findings, the ranges."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="picture">{render_svg(panels, title, report)}</div>',
    ]
    if report is not None:
        parts += ["<h2>Findings</h2>", _findings_table(report)]
    for panel in panels:
        heading = f"{panel.title}: {panel.inputs} to {panel.outputs}"
        parts += [f"<h2>{escape(heading)}</h2>", _ranges_table(panel.ranges)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_PAGE_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _findings_table(report: Report) -> str:
    if not report.findings:
        return "<p>none</p>"
    rows = [
        f'<tr><td class="{one.severity.value}">{one.severity.value}</td><td>{one.rule.name}</td>'
        f"<td>{escape(one.stage)}</td><td>{'' if one.start is None else hex(one.start)}</td>"
        f'<td class="number">{size_text(one.size) if one.size else ""}</td>'
        f"<td>{escape(one.message)}</td></tr>"
        for one in report.findings
    ]
    head = "<tr><th></th><th>rule</th><th>table</th><th>input</th><th>size</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _ranges_table(ranges: RangeTable) -> str:
    rows = [
        f'<tr><td>{one.start:#x}</td><td>{one.target:#x}</td><td class="number">'
        f"{size_text(one.size)}</td><td>{rights.rights_text(one.attributes)}</td>"
        f"<td>{rights.type_text(one.attributes)}</td><td>{leaf_sizes(one.shifts)}</td></tr>"
        for one in ranges.take(slice(0, PAGE_ROWS))
    ]
    names = ("input", "output", "size", "rights", "type", "leaves")
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    more = len(ranges) - PAGE_ROWS
    tail = f"<p>... and {more} more ranges</p>" if more > 0 else ""
    return f"<table>{head}{''.join(rows)}</table>{tail}"
