"""Rules about memory types: against where there is RAM, against MTRRs, against each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from turducken.arch.memory_types import MemoryType
from turducken.inspect.regions import region_table, target_union
from turducken.paging.compose import outside, within
from turducken.paging.ranges import Range, RangeTable, merge
from turducken.paging.readers import Words, distinct
from turducken.paging.walker import Stop, walk

if TYPE_CHECKING:
    from turducken.inspect.check import Checker

_CACHED = (MemoryType.WB, MemoryType.WT, MemoryType.WP)


class TypeRules:
    """The rules about memory types of one stage; findings go to its checker's report."""

    def __init__(self, checker: "Checker") -> None:
        self._checker = checker
        self._ram = checker.ram
        around = checker.around
        self._types = [(kind, region_table(one)) for kind, one in around.types]
        self._devices = region_table(around.devices)

    def run(self) -> None:
        """Apply them all."""
        self._check_types()
        self._check_against_mtrrs()
        self._check_large_pages()
        self._check_aliases()
        self._check_tails()

    def _of_kinds(self, *kinds: MemoryType) -> RangeTable:
        ranges = self._checker.mapping.ranges
        kind = ranges.attributes >> np.uint32(8) & np.uint32(7)
        return ranges.take(np.isin(kind, [int(one) for one in kinds]))

    def _check_against_mtrrs(self) -> None:
        """Report what an EPT makes of devices and of RAM against the MTRRs.

        With EPT the MTRRs have no say in a guest's accesses: SDM 3C, "Memory Type Used for
        Translated Guest-Physical Addresses". So an EPT has to repeat what they give.
        """
        if not self._checker.stage.fmt.is_ept:
            return
        cached = self._of_kinds(*_CACHED)
        on_device = within(cached, self._devices)
        self._checker.add_ranges(
            "type-against-mtrr", merge(on_device), "{type} at {target:#x}, which is a device"
        )
        uncached = self._of_kinds(MemoryType.UC)
        for kind, regions in self._types:
            if kind is MemoryType.UC:
                text = "{type} at {target:#x}, which the MTRRs make UC: a device, not RAM"
                wrong = outside(cached, self._devices) if len(self._devices) else cached
            elif kind is MemoryType.WB and self._ram is not None:
                text = "{type} over RAM at {target:#x}, which the MTRRs make WB"
                wrong = within(uncached, self._ram)
            else:
                continue
            self._checker.add_ranges("type-against-mtrr", merge(within(wrong, regions)), text)

    def _check_large_pages(self) -> None:
        """Report large pages of an EPT that cover memory of more than one type."""
        if len(self._types) < 2 or not self._checker.stage.fmt.is_ept:
            return
        starts = np.concatenate([regions.start for _, regions in self._types])
        for one, edge in self._crossings(distinct(starts[starts > 0])):
            self._page_at(one, edge, "large-page-types", "a boundary of the MTRRs' types")

    def _check_types(self) -> None:
        """Compare memory types with where there is RAM."""
        if self._ram is None:
            return
        ranges = self._checker.mapping.ranges
        kind = ranges.attributes >> np.uint32(8) & np.uint32(7)
        uncached = (kind == MemoryType.UC) | (kind == MemoryType.UC_MINUS)
        doubtful = ~uncached & (kind != MemoryType.WB)
        over_ram = within(ranges.take(uncached), self._ram)
        self._checker.add_ranges("uc-over-ram", merge(over_ram), "{type} over RAM at {target:#x}")
        over_ram = within(ranges.take(doubtful), self._ram)
        self._checker.add_ranges("type-doubtful", merge(over_ram), "{type} over RAM at {target:#x}")
        beyond = outside(ranges.take(kind == MemoryType.WB), self._ram)
        text = "{type} at {target:#x}, where there is no RAM"
        self._checker.add_ranges("cached-outside-ram", beyond, text)

    def _check_aliases(self) -> None:
        """Report memory that is mapped with more than one memory type."""
        ranges = self._checker.mapping.ranges
        kind = ranges.attributes >> np.uint32(8) & np.uint32(7)
        present = np.flatnonzero(np.bincount(kind)).tolist()
        if len(present) < 2:
            return
        targets = {one: target_union(ranges.take(kind == one)) for one in present}
        for position, one in enumerate(present):
            for other in present[position + 1 :]:
                both = within(targets[one], targets[other])
                for overlap in both:
                    if not self._checker.report.has_room("alias-types", self._checker.stage.name):
                        break
                    self._alias(overlap.target, overlap.size, (one, other))

    def _alias(self, target: int, size: int, kinds: tuple[int, int]) -> None:
        starts = [self._input_of(target, kind) for kind in kinds]
        names = [MemoryType(kind).name for kind in kinds]
        self._checker.add(
            "alias-types",
            f"{target:#x} + {size:#x} is {names[0]} at input {starts[0]:#x} and {names[1]} at "
            f"input {starts[1]:#x}",
            start=starts[0],
            size=size,
            entry_address=self._checker.entry_address(starts[0]),
        )

    def _input_of(self, target: int, kind: int) -> int:
        ranges = self._checker.mapping.ranges
        kinds = ranges.attributes >> np.uint32(8) & np.uint32(7)
        hit = (ranges.target <= np.uint64(target)) & (kinds == kind)
        hit &= np.uint64(target) - ranges.target < ranges.size
        index = int(np.flatnonzero(hit)[0])
        return int(ranges.start[index]) + target - int(ranges.target[index])

    def _check_tails(self) -> None:
        """Report large pages of which one end is RAM and the other is not."""
        if self._ram is None or not len(self._ram):
            return
        edges = distinct(np.concatenate((self._ram.start, self._ram.last + np.uint64(1))))
        for one, edge in self._crossings(edges):
            self._page_at(one, edge, "large-page-tail", "the edge of RAM")

    def _crossings(self, edges: Words) -> Iterator[tuple[Range, int]]:
        """Yield each range with large pages that has one of ``edges`` inside, and the edge."""
        ranges = self._checker.mapping.ranges
        large = ranges.take(ranges.shifts >= np.uint64(1 << 13))
        first = np.searchsorted(edges, large.target, side="right")
        last = np.searchsorted(edges, large.target + (large.size - np.uint64(1)), side="right")
        for index in np.flatnonzero(last > first).tolist():
            (one,) = large.take(slice(index, index + 1))
            for edge in edges[first[index] : last[index]].tolist():
                yield one, edge

    def _page_at(self, one: Range, edge: int, rule: str, what: str) -> None:
        """Report the page of a range that contains ``edge``, if it begins before it."""
        checker = self._checker
        if not checker.report.has_room(rule, checker.stage.name):
            return
        address = one.start + edge - one.target
        found = walk(checker.stage.fmt, checker.memory, checker.stage.root, address)
        if found.stop is Stop.PAGE and found.shift > 12 and found.page < edge:
            checker.add(
                rule,
                f"the page of {1 << found.shift:#x} bytes at {found.page:#x} crosses {what} at "
                f"{edge:#x}",
                start=address - (edge - found.page),
                size=1 << found.shift,
                entry_address=found.steps[-1].address,
            )
