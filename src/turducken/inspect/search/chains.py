"""Chains of translations: the tables of guests below the EPTs that were found.

What an EPT maps is a guest's memory; in it lie that guest's own tables, and where the guest is a
hypervisor, EPTs for guests of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from turducken.inspect.chain import ChainOptions, parse_chain
from turducken.inspect.errors import InspectError
from turducken.inspect.search.pages import space_of
from turducken.inspect.search.roots import Candidate, find_roots
from turducken.inspect.through import BulkThrough, ChainMap, translate_all
from turducken.memory import Memory
from turducken.paging.ranges import RangeTable

DEPTH = 2
"""EPTs below each other: a guest's, and its guest's."""
MAX_EPTS = 16
_NAMES = {"EPT": "ept:ept", "EPT 5-level": "ept:ept-5"}
SEARCHED = ("EPT", "4-level", "5-level", "PAE")
_LEAST = 1 << 16


@dataclass(frozen=True, slots=True)
class Chain:
    """A root inside the memory that a chain of EPTs gives a guest."""

    found: Candidate
    outer: tuple[int, ...]
    """The roots of the EPTs around it, inner to outer."""

    @property
    def via(self) -> str:
        """The chain as ``--via`` takes it."""
        count = len(self.outer)
        names = [f"ept{count - 1 - n}=" for n in range(count)] if count > 1 else ["ept="]
        outer = ",".join(f"{name}{root:#x}" for name, root in zip(names, self.outer, strict=True))
        inner = _NAMES.get(self.found.format) or f"cr3:{self.found.format.lower()}"
        return f"{inner}={self.found.root:#x},{outer}"


def find_chains(
    memory: Memory, candidates: Sequence[Candidate], options: ChainOptions
) -> list[Chain]:
    """Return the tables of guests below the EPTs among ``candidates``, the likeliest first.

    A table that is seen at its own address in the source is one of those found already, and is not
    listed again: an EPT that maps memory one to one would repeat them all.
    """
    return list(_below(memory, candidates, (), options))


def _below(
    memory: Memory,
    candidates: Sequence[Candidate],
    outer: tuple[int, ...],
    options: ChainOptions,
) -> Iterator[Chain]:
    epts = [one for one in candidates if one.format == "EPT" and not one.is_near_miss]
    for ept in epts[:MAX_EPTS]:
        roots = (ept.root, *outer)
        names = ",".join(f"ept{number}={root:#x}" for number, root in enumerate(roots))
        stages = parse_chain(names, options)
        chain = ChainMap(memory, stages)
        ranges = chain.composed().ranges
        if ranges.total < _LEAST:
            continue
        try:
            space = space_of(memory, ranges)
        except InspectError:
            continue  # too scattered
        inside = BulkThrough(memory, stages, ranges)
        found = [one for one in find_roots(inside, space, SEARCHED) if not _is_at_home(one, ranges)]
        yield from (Chain(one, roots) for one in found)
        if len(roots) < DEPTH:
            yield from _below(memory, found, roots, options)


def _is_at_home(one: Candidate, ranges: RangeTable) -> bool:
    """Tell whether a guest sees the root at the very address that it has in the source."""
    place, mapped = translate_all(ranges, np.array([one.root], dtype=np.uint64))
    return bool(mapped[0]) and int(place[0]) == one.root
