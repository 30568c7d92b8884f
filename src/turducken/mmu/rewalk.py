"""Walks that were made before: the same entries lead to the same page.

A guest without VPIDs loses its linear mappings at each VM entry and exit, and walks to the same
pages again. What a walk found is remembered with the words of memory that it read; while they hold
what they held, and what else the walk depended on is the same, it need not be made step by step.
This is no cache of translations: the words are read each time.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from turducken.mmu.tlb import Mapping, StructureKey
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import Start

_REMEMBERED = 4096


class Origin(NamedTuple):
    """What a walk depended on besides the entries it read.

    ``ept`` is the second stage in force, ``outer`` `Space.changes` of its guest-physical mappings.
    """

    format: BoundFormat
    root: int
    start: Start | None
    ept: object = None
    outer: int = 0


class Rewalk(NamedTuple):
    """One walk: its origin, the words it read, and what it led to."""

    origin: Origin
    read: Callable[[Sequence[int]], Any]
    words: Any
    mapping: Mapping
    structures: tuple[tuple[StructureKey, Start], ...]


class Rewalks:
    """The walks under one tag. ``memory`` is made of words, and places are their indices."""

    __slots__ = ("_known", "_memory", "_seen")

    def __init__(self, memory: Sequence[int]) -> None:
        self._known: dict[int, Rewalk] = {}
        self._seen: dict[int, int] = {}
        self._memory = memory

    def find(self, page: int, origin: Origin) -> Rewalk | None:
        """Return the walk for a page (by its number) if it would go the same way now."""
        known = self._known.get(page)
        if known is None or known[0] != origin or known[1](self._memory) != known[2]:
            return None
        return known

    def is_repeated(self, page: int, outer: int) -> bool:
        """Tell whether a page was walked to before, with the same guest-physical mappings.

        Only then is a walk likely to be made once more, and worth being remembered.
        """
        seen = self._seen
        if len(seen) >= _REMEMBERED:
            seen.clear()
        before = seen.get(page)
        seen[page] = outer
        return before == outer

    def remember(
        self,
        page: int,
        origin: Origin,
        places: Sequence[int],
        mapping: Mapping,
        structures: tuple[tuple[StructureKey, Start], ...],
    ) -> None:
        """Remember a walk that has just read the words at ``places``."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        read = itemgetter(*places)
        self._known[page] = Rewalk(origin, read, read(self._memory), mapping, structures)
