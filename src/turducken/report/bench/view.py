"""Measurements as lines of text, printed as they come."""

from turducken.report.bench.records import Measurement


def heading(group: str) -> str:
    """Return the line above a group."""
    return f"\n{group}"


def row(one: Measurement) -> str:
    """Return a measurement's line: name, figure, ratio, whether it is as it should be, note."""
    text = f"  {one.name:46} {one.value:>11,.{_digits(one.value)}f} {one.unit:17}"
    if one.ratio is not None:
        text += f" {one.ratio:8.3g} x {one.to}"
    if one.aim is not None and one.ratio is not None:
        verdict = "as aimed for" if one.aim.is_met(one.ratio) else "missed"
        text += f" (aim {one.aim}: {verdict})"
    if one.note:
        text += f"; {one.note}" if one.ratio is not None else f" {one.note}"
    return text.rstrip()


def change(now: float, before: float) -> str:
    """Return what a line says of a figure that was ``before`` then."""
    if not before:
        return f"; was {before:g}"
    return f"; was {before:,.{_digits(before)}f}, now {now / before:.3g} times that"


def _digits(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 10 else 3
