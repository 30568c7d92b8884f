"""Diagnoses of a run, each once, with how often it came up."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from turducken.diagnosis.records import Diagnosis, Key, Place

MOST, MOST_OF_A_KIND = 2000, 24
"""Different diagnoses that are kept, in all and of one instruction; others are only counted."""


@dataclass(slots=True)
class Sighting:
    """A diagnosis, where it was met first, and how often it came up.

    ``first`` and ``last`` number all reports of the run, from 1; ``time`` is the guest time of the
    first one in nanoseconds, ``last_time`` that of the last one.
    """

    diagnosis: Diagnosis
    place: Place
    time: int
    first: int
    last: int
    last_time: int = 0
    count: int = 1


class Diagnoses:
    """Collects reports; ``on_new`` is told of each diagnosis when it comes up first."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Place, Key], Sighting] = {}
        self._kept: dict[tuple[Place, Hashable], list[tuple[Place, Key]]] = {}
        self._reports = 0
        self.omitted = 0
        """Reports that were not kept, because there were too many different ones."""
        self.on_new: list[Callable[[Sighting], None]] = []

    def report(self, place: Place, time: int, key: Key, make: Callable[[], Diagnosis]) -> None:
        """Count a failure; make its record where there is none yet."""
        self._reports += 1
        whole = (place, key)
        known = self._by_key.get(whole)
        if known is not None:
            known.count += 1
            known.last, known.last_time = self._reports, time
            return
        kept = self._kept.setdefault((place, key[0]), [])
        if len(kept) >= MOST_OF_A_KIND or len(self._by_key) >= MOST:
            # The newest gives way to what is newer still: what came last is never missing.
            self.omitted += 1
            del self._by_key[kept.pop() if kept else next(reversed(self._by_key))]
        kept.append(whole)
        sighting = Sighting(make(), place, time, self._reports, self._reports, time)
        self._by_key[whole] = sighting
        for tell in self.on_new:
            tell(sighting)

    @property
    def sightings(self) -> list[Sighting]:
        """All, in the order in which they came up first."""
        return list(self._by_key.values())
