"""The timeline as pictures: levels on each processor, and exits, over guest time."""

from collections import Counter
from collections.abc import Sequence

from turducken.report.page.bins import Bins
from turducken.report.page.gathering import Way
from turducken.report.page.markup import Markup, tag, text
from turducken.report.words import plural, short_time

_LEVEL_NAMES = ("L0", "L1", "L2")
_MOST_CPUS = 16
MOST_WAYS = 6
"""Kinds of exits with a colour of their own."""


def timeline(bins: Bins) -> str:
    """Return the levels of each processor, one above the other, and the exits below."""
    if not bins.end:
        return ""
    count = -(-bins.end // bins.width)
    ran = {level for times in bins.times for part in times for level in (0, 1, 2) if part[level]}
    parts = [_legend([(f"l{level}", _LEVEL_NAMES[level]) for level in sorted(ran)])]
    for cpu, times in enumerate(bins.times[:_MOST_CPUS]):
        parts.append(_row(f"cpu{cpu}", _levels(times, bins.width, count), "levels"))
    ways = main_ways(bins.exits)
    if ways:
        named = [(f"w{number}", way_in_words(way)) for number, way in enumerate(ways)]
        parts.append(_legend([*named, ("w-other", "other exits")]))
        most = max(sum(one.values()) for one in bins.exits)
        parts.append(_row("exits", _exits(bins.exits, ways, count, most), "bars"))
    middle, end = (short_time(one / 1e9) for one in (bins.end / 2, bins.end))
    axis = f"<span>0</span><span>{middle}</span><span>{end} of guest time</span>"
    parts.append(f'<div class="row"><span></span><div class="axis">{axis}</div></div>')
    note = f"Each column is {short_time(bins.width / 1e9)}."
    if ways:
        most = max(sum(one.values()) for one in bins.exits)
        note += f" The highest has {plural(most, 'exit')}."
    return "".join(parts) + tag("p", note, "note")


def main_ways(exits: Sequence[Counter[Way]]) -> list[Way]:
    """Return the kinds of exits that came most often."""
    total: Counter[Way] = sum(exits, Counter())
    return [way for way, _ in total.most_common(MOST_WAYS)]


def way_in_words(way: Way) -> str:
    """Return ``L2 to L0: EPT violation``."""
    level, handler, name = way
    return f"L{level} to {handler}: {name}"


def _row(label: str, picture: str, css: str) -> str:
    return f'<div class="row"><span>{label}</span><div class="{css}">{picture}</div></div>'


def _svg(width: int, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} 100" preserveAspectRatio="none" shape-rendering="crispEdges" '
        f'aria-hidden="true">{body}</svg>'
    )


def _levels(times: Sequence[Sequence[int]], width: int, count: int) -> str:
    body = []
    for number, part in enumerate(times):
        at = 100.0
        # L0's time is short: it lies on top, where it is seen.
        for level in (1, 2, 0):
            height = 100 * part[level] / width
            if height > 0:
                at -= height
                body.append(
                    f'<rect class="l{level}" x="{number}" y="{at:.2f}" width="1" '
                    f'height="{height:.2f}"/>'
                )
    return _svg(count, "".join(body))


def _exits(exits: Sequence[Counter[Way]], ways: Sequence[Way], count: int, most: int) -> str:
    body = []
    for number, part in enumerate(exits):
        at = 100.0
        shown = [(f"w{place}", part[way]) for place, way in enumerate(ways)]
        shown.append(("w-other", sum(part.values()) - sum(one for _, one in shown)))
        rects = []
        for css, value in shown:
            if value:
                height = 100 * value / most
                at -= height
                rects.append(
                    f'<rect class="{css}" x="{number}" y="{at:.2f}" width="1" '
                    f'height="{height:.2f}"/>'
                )
        if rects:
            told = ", ".join(f"{way_in_words(way)} {value:,}" for way, value in part.most_common(5))
            body.append(f"<g><title>{text(told)}</title>{''.join(rects)}</g>")
    return _svg(count, "".join(body))


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    parts = [f'<span><i class="{css}"></i>{text(name)}</span>' for css, name in entries]
    return Markup(f'<div class="legend">{"".join(parts)}</div>')
