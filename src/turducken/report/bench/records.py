"""What a benchmark finds out."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio should be: at least, or at most, ``bound``."""

    bound: float
    is_upper: bool = False

    def is_met(self, ratio: float) -> bool:
        """Tell whether a ratio is as it should be."""
        return ratio <= self.bound if self.is_upper else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'<' if self.is_upper else '>'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure; ``ratio`` is the figure as a multiple of that of the measurement ``to``."""

    group: str
    name: str
    value: float
    unit: str
    to: str = ""
    ratio: float | None = None
    aim: Aim | None = None
    note: str = ""


Earlier = dict[tuple[str, str], float]
"""The figures of another run, by group and name."""


def earlier_figures(text: str) -> Earlier:
    """Read what `bench --json` wrote; `ValueError` where it is something else."""
    try:
        return {
            (str(one["group"]), str(one["name"])): float(one["value"])
            for one in json.loads(text)["measurements"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError("no record of turducken bench") from error


def measurements_as_list(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Return what `bench --json` writes."""
    return [
        {
            "group": one.group,
            "name": one.name,
            "value": one.value,
            "unit": one.unit,
            "ratio": one.ratio,
            "to": one.to or None,
            "aim": None if one.aim is None else str(one.aim),
            "met": None if one.aim is None or one.ratio is None else one.aim.is_met(one.ratio),
            "note": one.note or None,
        }
        for one in measurements
    ]
