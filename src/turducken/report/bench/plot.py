"""The shadow policies as a picture: time and exits of the three workloads, as SVG."""

from collections.abc import Iterable
from typing import NamedTuple

from turducken.report.bench.records import Measurement

PREFIX = "policies: "
_WIDTH, _HEIGHT = 640, 190
_LEFT, _TOP, _BAR, _GAP, _SPACE = 60, 34, 26, 6, 30
_COLOURS = ("#8a8a8a", "#3a6ea5", "#2e8b57", "#c07020", "#8e3b8e")


class Chart(NamedTuple):
    """One row of bars: a title, and for each workload the policies' figures."""

    title: str
    groups: dict[str, dict[str, float]]


def charts(measurements: Iterable[Measurement]) -> tuple[Chart, Chart]:
    """Pick time (as a multiple of bare's) and exits out of what the group `policies` measured."""
    times: dict[str, dict[str, float]] = {}
    exits: dict[str, dict[str, float]] = {}
    for one in measurements:
        if not one.group.startswith(PREFIX):
            continue
        workload = one.group.removeprefix(PREFIX)
        if one.unit == "us/round":
            times.setdefault(workload, {})[one.name] = one.ratio or 1.0
        elif one.unit == "exits/round":
            exits.setdefault(workload, {})[one.name.removesuffix(", exits")] = one.value
    return Chart("time, multiples of bare's", times), Chart("VM exits in a round", exits)


def svg(measurements: Iterable[Measurement]) -> str:
    """Return the picture; '' where the group `policies` was not measured."""
    rows = [one for one in charts(measurements) if one.groups]
    if not rows:
        return ""
    body = [_row(one, number * _HEIGHT) for number, one in enumerate(rows)]
    body.append(_legend(rows[0], len(rows) * _HEIGHT))
    size = f'width="{_WIDTH}" height="{len(rows) * _HEIGHT + 30}"'
    style = "font: 12px sans-serif"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">\n{"".join(body)}</svg>\n'
    )


def _row(chart: Chart, y: int) -> str:
    top = max(value for figures in chart.groups.values() for value in figures.values())
    room = _HEIGHT - _TOP - 30
    parts = [_text(_LEFT, y + 16, chart.title, bold=True)]
    x = _LEFT
    base = y + _TOP + room
    for workload, figures in chart.groups.items():
        begin = x
        for colour, value in zip(_COLOURS, figures.values(), strict=False):
            height = value / top * room
            parts.append(
                f'<rect x="{x}" y="{base - height:.1f}" width="{_BAR}" height="{height:.1f}"'
                f' fill="{colour}"/>\n'
            )
            parts.append(_text(x + _BAR / 2, base - height - 3, f"{value:.3g}", middle=True))
            x += _BAR + _GAP
        parts.append(_text((begin + x - _GAP) / 2, base + 16, workload, middle=True))
        x += _SPACE
    return "".join(parts)


def _legend(chart: Chart, y: int) -> str:
    names = next(iter(chart.groups.values()))
    parts = []
    for number, (colour, name) in enumerate(zip(_COLOURS, names, strict=False)):
        x = _LEFT + 110 * number
        parts.append(f'<rect x="{x}" y="{y + 5}" width="12" height="12" fill="{colour}"/>\n')
        parts.append(_text(x + 18, y + 15, name))
    return "".join(parts)


def _text(x: float, y: float, text: str, *, middle: bool = False, bold: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:.0f}"{anchor}{weight}>{text}</text>\n'
