"""Diagnoses as text and as JSON."""

from collections.abc import Callable, Iterator
from typing import Any

from turducken.diagnosis.collector import Sighting
from turducken.diagnosis.records import BrokenRule, Place, Reading

Describe = Callable[[int], str | None]
"""Gives the name of the function at a linear address, with offset and line where known."""

MOST_OTHER_RULES = 12
_MOST_READINGS = 2


def who(place: Place, describe: Describe) -> str:
    """Return ``L1 on cpu0 at 0x100234 (start+0x4, main.c:7)``."""
    name = describe(place.linear)
    at = f"{place.rip:#x}" if place.rip == place.linear else f"{place.rip:#x} ({place.linear:#x})"
    return f"L{place.level} on cpu{place.cpu} at {at}" + (f" ({name})" if name else "")


def one_line(sighting: Sighting, describe: Describe) -> str:
    """Return what happened and the rule, in one line."""
    one = sighting.diagnosis
    rule = one.rule
    parts = [f"{who(sighting.place, describe)}: {one.operation}: {one.outcome}"]
    if rule is not None:
        parts.append(f"{rule.id}: {rule.text}")
        parts += [one.text for one in rule.readings if one.is_subject][:_MOST_READINGS]
    return "; ".join(parts)


def paragraph(sighting: Sighting, describe: Describe) -> list[str]:
    """Return everything, as lines; those that belong to another are indented."""
    one = sighting.diagnosis
    times = f" ({sighting.count} times)" if sighting.count > 1 else ""
    lines = [f"{one.operation}: {one.outcome}{times}", f"  by {who(sighting.place, describe)}"]
    others = [rule for rule in one.rules if not rule.is_reported]
    for rule in one.rules:
        if rule.is_reported:
            lines += _rule_lines(rule, "rule")
    lines += [f"  {note}" for note in one.notes]
    if others:
        lines.append("  also broken, which the processor does not get to report:")
        for rule in others[:MOST_OTHER_RULES]:
            lines.append(f"    {rule.id}: {rule.text}")
            lines += [f"      {reading.text}" for reading in rule.readings if reading.is_subject]
        if len(others) > MOST_OTHER_RULES:
            lines.append(f"    and {len(others) - MOST_OTHER_RULES} more (--json has all)")
    return lines


def _rule_lines(rule: BrokenRule, label: str) -> Iterator[str]:
    yield f"  {label} {rule.id}: {rule.text}"
    for reading in rule.readings:
        yield f"    {'' if reading.is_subject else 'since '}{reading.text}"
    if rule.allowed:
        yield f"    allowed: {rule.allowed}"
    if rule.citation:
        yield f"    {rule.citation}"


def as_dict(sighting: Sighting, describe: Describe, *, is_fatal: bool = False) -> dict[str, Any]:
    """Return what `--json` has for a diagnosis: docs/json.md."""
    one, place = sighting.diagnosis, sighting.place
    return {
        "kind": one.kind.value,
        "fatal": is_fatal,
        "count": sighting.count,
        "cpu": place.cpu,
        "level": f"L{place.level}",
        "rip": place.rip,
        "linear": place.linear,
        "symbol": describe(place.linear),
        "guest_seconds": sighting.time / 1e9,
        "operation": one.operation,
        "outcome": one.outcome,
        "rules": [_rule_as_dict(rule) for rule in one.rules],
        "notes": list(one.notes),
    }


def _rule_as_dict(rule: BrokenRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "text": rule.text,
        "citation": rule.citation,
        "reported": rule.is_reported,
        "fields": [_reading_as_dict(one) for one in rule.readings],
        "allowed": rule.allowed,
    }


def _reading_as_dict(reading: Reading) -> dict[str, Any]:
    return {
        "name": reading.name,
        "value": reading.value,
        "hex": f"{reading.value:#0{reading.digits + 2}x}",
        "decoded": reading.decoded,
        "is_subject": reading.is_subject,
    }
