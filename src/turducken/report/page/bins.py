"""Time in equal parts, however long it turns out to be."""

from collections import Counter

MOST = 400
"""Parts at most: when there are more, each two become one."""

_FIRST_WIDTH = 1000
"""Nanoseconds."""

LEVELS = 3


class Bins:
    """How long each level ran on each processor, and which exits there were, in parts of time."""

    def __init__(self, cpus: int) -> None:
        self.width = _FIRST_WIDTH
        self.times: list[list[list[int]]] = [[] for _ in range(cpus)]
        """Nanoseconds by processor, part and level."""
        self.exits: list[Counter[tuple[int, str, str]]] = []
        self.end = 0

    def add_time(self, cpu: int, level: int, first: int, end: int) -> None:
        """Level ``level`` ran from ``first`` to ``end`` (nanoseconds)."""
        self._reach(end)
        parts, at = self.times[cpu], first
        while at < end:
            number = at // self.width
            while len(parts) <= number:
                parts.append([0] * LEVELS)
            upto = min(end, (number + 1) * self.width)
            parts[number][level] += upto - at
            at = upto

    def add_exit(self, time: int, way: tuple[int, str, str]) -> None:
        """Count an exit."""
        self._reach(time)
        number = time // self.width
        while len(self.exits) <= number:
            self.exits.append(Counter())
        self.exits[number][way] += 1

    def _reach(self, time: int) -> None:
        self.end = max(self.end, time)
        while time >= self.width * MOST:
            self.width *= 2
            self.times = [_halved_times(parts) for parts in self.times]
            self.exits = [
                sum(self.exits[at : at + 2], Counter()) for at in range(0, len(self.exits), 2)
            ]


def _halved_times(parts: list[list[int]]) -> list[list[int]]:
    return [
        [sum(each) for each in zip(*parts[at : at + 2], strict=True)]
        for at in range(0, len(parts), 2)
    ]
