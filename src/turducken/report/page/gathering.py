"""What a report needs to know of the course of a run: gathered while it goes, in bounded space."""

from collections import Counter, OrderedDict

from turducken.report.page.bins import Bins
from turducken.system import System
from turducken.trace import Record, Recorder, Selection

_MOST_PLACES = 4000
_MOST_TROUBLES = 8
_EPT_REASONS = ("EPT violation", "EPT misconfiguration")

Way = tuple[int, str, str]
"""A VM exit's level, whom it was for, and its reason's name."""


class Gathered:
    """Follows a system from its beginning: levels and exits over time, exits by place."""

    def __init__(self, system: System) -> None:
        self._machine = system.machine
        self.bins = Bins(len(system.machine.processors))
        self.places: Counter[tuple[Way, str]] = Counter()
        """Exits by way and by the place they came from; others than the first many are left out."""
        self.troubles: OrderedDict[tuple[int, int], str] = OrderedDict()
        """The last pages that L1 got EPT exits for: processor and page, and which exit."""
        self._running = [(0, 1)] * len(system.machine.processors)
        selection = Selection(kinds=frozenset({"exit", "entry"}))
        self._recorder = Recorder(system, selection, self._on_record)

    def finish(self) -> None:
        """Close what is open: the run has ended."""
        self._recorder.finish()
        for cpu in range(len(self._running)):
            self._change(cpu, self._machine.now, self._running[cpu][1])

    def _on_record(self, record: Record) -> None:
        if record.kind == "exit" and record.runs is not None:
            self._count(record)
        if record.runs is not None:
            self._change(record.cpu, record.time, record.runs)

    def _change(self, cpu: int, time: int, level: int) -> None:
        since, before = self._running[cpu]
        self.bins.add_time(cpu, before, since, time)
        self._running[cpu] = time, level

    def _count(self, record: Record) -> None:
        way = record.level, str(record.details["for"]), record.name
        self.bins.add_exit(record.time, way)
        place = way, record.symbol or (f"{record.rip:#x}" if record.rip is not None else "?")
        if place in self.places or len(self.places) < _MOST_PLACES:
            self.places[place] += 1
        if record.name in _EPT_REASONS and way[:2] == (2, "L1"):
            key = record.cpu, record.addresses["physical"] & -0x1000
            self.troubles.pop(key, None)
            self.troubles[key] = record.name
            if len(self.troubles) > _MOST_TROUBLES:
                self.troubles.popitem(last=False)
