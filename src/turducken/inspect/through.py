"""Whole chains at once: merged ranges, bulk reading of tables that lie behind translations."""

from collections.abc import Sequence

import numpy as np

from turducken.inspect.chain import Stage, Through
from turducken.memory import Memory
from turducken.paging.compose import Composition, compose
from turducken.paging.inventory import take_inventory
from turducken.paging.ranges import DEFAULT_MAX_RANGES, Mapping, RangeTable, map_ranges
from turducken.paging.readers import Bools, TableReader, Words, reader_of

MIN_RANGES = 1 << 19
REPETITIONS = 8


class ThroughReader:
    """Reads tables whose addresses are inputs of a chain that ``ranges`` maps to ``memory``."""

    def __init__(self, memory: Memory, ranges: RangeTable) -> None:
        self._reader = reader_of(memory)
        self._ranges = ranges

    def read_tables(self, addresses: Words, count: int, size: int) -> tuple[Words, Bools]:
        """See `turducken.paging.readers.TableReader`. A table never crosses a page."""
        places, mapped = translate_all(self._ranges, addresses)
        if mapped.all():
            return self._reader.read_tables(places, count, size)
        entries = np.zeros((len(addresses), count), dtype=np.uint64)
        some, exist = self._reader.read_tables(places[mapped], count, size)
        entries[mapped] = some
        exists = mapped.copy()
        exists[mapped] = exist
        return entries, exists


class BulkThrough(Through):
    """`Through` for tools that read many tables."""

    def __init__(self, memory: Memory, stages: Sequence[Stage], ranges: RangeTable) -> None:
        super().__init__(memory, stages)
        self._ranges = ranges

    def table_reader(self) -> TableReader:
        """Return the bulk reader: see `turducken.paging.readers.HasReader`."""
        return ThroughReader(self.source, self._ranges)


def translate_all(ranges: RangeTable, addresses: Words) -> tuple[Words, Bools]:
    """Return where each address leads (0 where nowhere), and whether it leads anywhere."""
    if not len(ranges):
        return np.zeros_like(addresses), np.zeros(len(addresses), dtype=np.bool_)
    index = np.maximum(np.searchsorted(ranges.start, addresses, side="right") - 1, 0)
    mapped = (addresses >= ranges.start[index]) & (addresses <= ranges.last[index])
    moved = addresses - ranges.start[index]
    return np.where(mapped, ranges.target[index] + moved, np.uint64(0)), mapped


class ChainMap:
    """Everything that a chain maps, stage by stage; worked out when first asked for."""

    def __init__(
        self, memory: Memory, stages: Sequence[Stage], *, accessed_dirty: bool = False
    ) -> None:
        self.memory = memory
        self.stages = tuple(stages)
        self._accessed_dirty = accessed_dirty
        self._mappings: dict[int, Mapping] = {}
        self._composed: dict[int, Composition] = {}

    def memory_below(self, number: int) -> Memory:
        """Return the output space of stage ``number``, in which its tables lie."""
        outer = self.stages[number + 1 :]
        if not outer:
            return self.memory
        return BulkThrough(self.memory, outer, self.composed(number + 1).ranges)

    def mapping(self, number: int = 0) -> Mapping:
        """Return what stage ``number`` maps, from its input to its output."""
        if number not in self._mappings:
            stage, memory = self.stages[number], self.memory_below(number)
            # Tables that are used over and over may well be garbage: their repetitions are limited.
            entries = take_inventory(stage.fmt, memory, stage.root).count << 9
            self._mappings[number] = map_ranges(
                stage.fmt,
                memory,
                stage.root,
                pat=stage.pat,
                accessed_dirty=self._accessed_dirty,
                max_ranges=min(DEFAULT_MAX_RANGES, max(MIN_RANGES, REPETITIONS * entries)),
            )
        return self._mappings[number]

    def composed(self, number: int = 0) -> Composition:
        """Return what stages from ``number`` on map together, to the source's memory."""
        if number not in self._composed:
            inner = self.mapping(number).ranges
            if number == len(self.stages) - 1:
                self._composed[number] = Composition(inner, RangeTable())
            else:
                self._composed[number] = compose(inner, self.composed(number + 1).ranges)
        return self._composed[number]

    @property
    def truncated(self) -> bool:
        """Tell whether a limit was reached in any stage that was looked at."""
        mapped = any(one.truncated for one in self._mappings.values())
        return mapped or any(one.truncated for one in self._composed.values())
