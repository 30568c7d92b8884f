"""One image twice, bare and nested: whether it behaves alike.

What is compared is what L1 can see: what it writes to its console, and, on each processor, the
sequence of its L2's VM exits with reason, exit qualification and L2's RIP. The bare machine has
the processor that L0 shows L1 (`turducken.system.offered`): what L0 withholds is no difference. EPT
violations that a processor may leave out are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from turducken.cpu.processor import Processor
from turducken.hypervisor.events import Event, GivenToL1
from turducken.paging.formats import EPT
from turducken.paging.walker import Stop, walk
from turducken.system.assembly import Stops, System
from turducken.system.offered import profile_of_l1
from turducken.system.options import Mode, SystemOptions
from turducken.system.result import Result
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason
from turducken.vmx.vmcs import Vmcs

_ASYNCHRONOUS = frozenset(
    {
        ExitReason.EXTERNAL_INTERRUPT,
        ExitReason.INIT,
        ExitReason.SIPI,
        ExitReason.PREEMPTION_TIMER,
    }
)
"""Exits whose place in L2's code depends on time, which passes otherwise under L0."""


@dataclass(frozen=True, slots=True)
class SeenExit:
    """A VM exit of L2 as L1 sees it; ``rip`` is L2's, None where the exit could strike anywhere."""

    reason: int
    qualification: int
    rip: int | None


def _seen(reason: int, qualification: int, rip: int) -> SeenExit:
    return SeenExit(int(reason), int(qualification), None if reason in _ASYNCHRONOUS else rip)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs part: ``bare`` and ``nested`` are None where that run has nothing more.

    ``number`` counts lines of the console, or exits of the processor ``cpu``, from 1.
    """

    number: int
    bare: str | SeenExit | None
    nested: str | SeenExit | None
    cpu: int | None = None


@dataclass(slots=True)
class Recorded:
    """One of the two runs."""

    result: Result
    exits: list[list[SeenExit]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both runs and the first difference of each kind."""

    bare: Recorded
    nested: Recorded
    output: Difference | None
    exits: Sequence[Difference] = field(default=())
    """At most one for each processor."""

    @property
    def is_same(self) -> bool:
        """Whether no difference was found."""
        return self.output is None and not self.exits and self.has_same_end

    @property
    def has_same_end(self) -> bool:
        """Whether both runs ended in the same way."""
        bare, nested = self.bare.result, self.nested.result
        return (bare.outcome, bare.code) == (nested.outcome, nested.code)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is no difference, for systems that do several things at once and print the time.

    ``ignore`` are parts of lines (time stamps); ``unordered``: lines count in any order;
    ``console_only``: L2's exits are not compared.
    """

    ignore: Sequence[re.Pattern[str]] = ()
    unordered: bool = False
    console_only: bool = False

    def lines(self, console: str) -> list[str]:
        """Return the console's lines as they are to be compared."""
        lines = console.replace("\r", "").split("\n")
        for pattern in self.ignore:
            lines = [pattern.sub("", one) for one in lines]
        return sorted(lines) if self.unordered else lines


EXACT = Tolerance()


def compare(options: SystemOptions, stops: Stops, tolerance: Tolerance = EXACT) -> Comparison:
    """Run the image bare and nested, and compare."""
    shown = profile_of_l1(options.profile, options.offer)
    bare = _record(replace(options, mode=Mode.BARE, profile=shown), stops)
    nested = _record(replace(options, mode=Mode.NESTED), stops)
    lines = [tolerance.lines(one.result.console) for one in (bare, nested)]
    found = (
        _first_difference(both[0], both[1], cpu)
        for cpu, both in enumerate(zip(bare.exits, nested.exits, strict=True))
    )
    return Comparison(
        bare,
        nested,
        _first_difference(lines[0], lines[1]),
        () if tolerance.console_only else tuple(one for one in found if one is not None),
    )


def _record(options: SystemOptions, stops: Stops) -> Recorded:
    system = System(options)
    exits: list[list[SeenExit]] = [[] for _ in range(options.cpus)]
    if system.hypervisor is not None:
        system.hypervisor.events.subscribers.append(lambda event: _note_event(exits, event))
    else:
        for processor in system.machine.processors:
            processor.on_event = lambda *told: _note_exit(exits, *told)
    result = system.run(stops)
    return Recorded(result, exits)


def _note_exit(
    exits: list[list[SeenExit]], name: str, processor: Processor, data: tuple[object, ...]
) -> None:
    if name != "vm-exit":
        return
    reason, qualification = data
    assert isinstance(reason, int)
    assert isinstance(qualification, int)
    vmcs = processor.vmx.current
    assert vmcs is not None
    if reason == ExitReason.EPT_VIOLATION and _is_spurious(processor, vmcs, qualification):
        return
    # After a failed entry the processor still has L1's registers.
    rip = vmcs.read(f.GUEST_RIP) if reason & ENTRY_FAILURE else processor.state.rip
    exits[processor.index].append(_seen(reason, qualification, rip))


def _is_spurious(processor: Processor, vmcs: Vmcs, qualification: int) -> bool:
    """Tell whether the tables, as they are now, allow what an EPT violation was about.

    SDM 3C, "Guidelines for Use of the INVEPT Instruction": software that adds permissions may leave
    INVEPT out; the processor then may, or may not, cause one EPT violation.
    """
    address = vmcs.read(f.GUEST_PHYSICAL_ADDRESS)
    fmt = EPT.bind(processor.ept_features)
    found = walk(fmt, processor.memory, vmcs.read(f.EPTP), address)
    return found.stop is Stop.PAGE and not qualification & 7 & ~found.all_of


def _note_event(exits: list[list[SeenExit]], event: Event) -> None:
    if isinstance(event, GivenToL1):
        exits[event.processor].append(_seen(event.reason, event.qualification, event.rip))


def _first_difference(
    bare: Sequence[str | SeenExit], nested: Sequence[str | SeenExit], cpu: int | None = None
) -> Difference | None:
    for number, (one, other) in enumerate(zip_longest(bare, nested), 1):
        if one != other:
            return Difference(number, one, other, cpu)
    return None
