"""A whole system: machine, firmware, image and, in nested mode, our hypervisor underneath."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from turducken.cpu.processor import Processor
from turducken.cpu.surroundings import Activity
from turducken.diagnosis import Diagnoses, Diagnosis, Key, Place
from turducken.hypervisor import Hypervisor, UnsuitableProcessorError
from turducken.machine.boot import BootState
from turducken.machine.firmware.rom import RomImage
from turducken.machine.machine import Machine, MachineOptions, Outcome
from turducken.symbols import Names, RunningKernel
from turducken.system import diagnosing, disks, ending, nested, start
from turducken.system.console import Console, Wanted, Watch
from turducken.system.errors import CutShort, SetupError
from turducken.system.journeys import journeys
from turducken.system.options import Mode, SystemOptions
from turducken.system.progress import Progress
from turducken.system.result import (
    ExitCount,
    ProcessorResult,
    Requester,
    Result,
    TlbTotals,
)

PROMPT_NANOSECONDS = 1_000_000
"""An unfinished line is judged when the guest has added nothing to it for so long."""

IDLE_NANOSECONDS = 60_000_000_000
"""When no processor has executed an instruction for so long, none is expected to."""


_QUANTUM, _QUANTUM_ALONE = 10_000, 1_000_000
"""Instructions for each turn: with others to wait for it, and without."""


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a run besides the guest: patterns in lines of its console, and a limit.

    ``until`` is to match ``until_count`` lines; with ``until_all``, as many different lines as
    there are processors. ``success_code`` is the debug-exit value that stands for success.
    """

    until: re.Pattern[str] | None = None
    fail_on: re.Pattern[str] | None = None
    max_instructions: int | None = None
    until_count: int = 1
    until_all: bool = False
    success_code: int = 0

    def wanted(self, processors: int) -> Wanted:
        """Return what to look for in the console of so many processors."""
        lines = processors if self.until_all else self.until_count
        return Wanted(self.until, self.fail_on, lines, self.until_all)


class System:
    """A machine with everything in it, ready to run once.

    Raises SetupError, ImageError or ProfileError where it cannot be made as asked for.
    """

    def __init__(self, options: SystemOptions) -> None:
        options.check()
        self.options = options
        self.console = Console()
        self.matched: str | None = None
        self.machine = _make_machine(options, self.console)
        self.names = Names(options.image, options.symbols, RunningKernel(self.machine.memory))
        disks.attach_virtio(self.machine, options)
        self.boot_state: BootState = start.prepare(self.machine, options)
        self.hypervisor: Hypervisor | None = None
        if options.mode is Mode.NESTED:
            self.hypervisor = nested.install(self.machine, self.boot_state, options)
        else:
            start.start(self.machine.processors[0], self.boot_state)
        self.diagnoses: Diagnoses | None = None
        if options.diagnose:
            self.diagnoses = diagnosing.collect(self.machine, self.hypervisor)
        self._progress = Progress(self.machine, self.hypervisor, self._told)
        self.host_seconds = 0.0
        self.is_running = False
        self._stops = Stops()

    def run(self, stops: Stops | None = None, on_turn: Callable[[], None] | None = None) -> Result:
        """Run to the end; ``on_turn`` is called whenever every processor has had a turn.

        Somebody outside may end the run too: with `Machine.end`, and where that does not suffice,
        with a `CutShort` raised while ``is_running``.
        """
        stops = stops or Stops()
        self._stops = stops
        watch = Watch(stops.wanted(self.options.cpus), self._found)
        lines = self.console.subscribe(watch.line)
        began = time.perf_counter()
        try:
            self._run_turns(stops, watch, on_turn)
        except CutShort:
            pass  # the machine knows the outcome
        except UnsuitableProcessorError as error:
            raise nested.explain_unsuitable(error, self.options) from None
        finally:
            self.host_seconds += time.perf_counter() - began
            self.console.unsubscribe(lines)
        for found in ending.explain_ending(self.machine, self.hypervisor, self._progress):
            self._told(*found)
        return self.result()

    def _told(self, place: Place, key: Key, make: Callable[[], Diagnosis]) -> None:
        if self.diagnoses is not None:
            self.diagnoses.report(place, self.machine.now, key, make)

    def _run_turns(self, stops: Stops, watch: Watch, on_turn: Callable[[], None] | None) -> None:
        machine = self.machine
        idle = _Idleness(self)
        looks = self.diagnoses is not None
        machine.limit_instructions(stops.max_instructions)
        try:
            self.is_running = True
            while machine.stop.outcome is None:
                machine.turn()
                if machine.stop.outcome is not None:
                    return
                idle.turn(watch)
                if looks:
                    self._progress.turn()
                if on_turn is not None:
                    on_turn()
        finally:
            self.is_running = False

    def _found(self, name: str, line: str) -> None:
        self.matched = line
        self.machine.end(Outcome(name))

    def result(self) -> Result:
        """Return what the run has come to so far."""
        machine, hypervisor = self.machine, self.hypervisor
        return Result(
            outcome=machine.stop.outcome or Outcome.LIMIT,
            code=machine.stop.code,
            requested_by=self._requester(),
            success_code=self._stops.success_code,
            matched=self.matched,
            cpus=tuple(self._processor_result(one) for one in machine.processors),
            exits=self.exit_counts(),
            tlb=_tlb_totals(machine),
            guest_nanoseconds=machine.now,
            host_seconds=self.host_seconds,
            console=self.console.text,
            journeys=tuple(journeys(machine, hypervisor, self.options)),
            unclaimed=tuple(machine.unclaimed),
            stopped=() if hypervisor is None else hypervisor.stopped,
            diagnoses=tuple(self.diagnoses.sightings) if self.diagnoses is not None else (),
        )

    def _requester(self) -> Requester | None:
        stop = self.machine.stop
        if stop.outcome not in (Outcome.RESET, Outcome.SLEEP):
            return None
        return Requester(stop.cpu, stop.rip, self.names.describe(stop.rip))

    def exit_counts(self) -> tuple[ExitCount, ...]:
        """Return the VM exits of all processors so far, by level, handler and reason."""
        if self.hypervisor is None:
            bare = _summed(one.statistics.exits for one in self.machine.processors)
            return tuple(ExitCount(2, "L1", *one) for one in bare)
        of_vcpus = [one.statistics for one in self.hypervisor.vcpus]
        ways = (
            (1, "L0", _summed(one.exits_l1 for one in of_vcpus)),
            (2, "L0", _summed(one.handled for one in of_vcpus)),
            (2, "L1", _summed(one.reflected for one in of_vcpus)),
        )
        return tuple(ExitCount(level, to, *one) for level, to, counts in ways for one in counts)

    def _processor_result(self, processor: Processor) -> ProcessorResult:
        rip = processor.state.rip
        return ProcessorResult(
            index=processor.index,
            instructions=processor.engine.executed,
            exits=dict(processor.statistics.exits),
            triple_faults=processor.statistics.triple_faults,
            rip=rip,
            place=self.names.describe(rip),
            state=state_name(processor),
        )


class _Idleness:
    """Notices that nothing happens any more: a prompt waits, or the processors do for good."""

    def __init__(self, system: System) -> None:
        self._machine = system.machine
        self._console = system.console
        self._written = self._executed = -1
        self._written_at = self._executed_at = 0
        self._is_judged = True

    def turn(self, watch: Watch) -> None:
        """Look, after a turn of the machine."""
        now = self._machine.clock.now
        self._look_at_console(now, watch)
        self._look_at_processors(now)

    def _look_at_console(self, now: int, watch: Watch) -> None:
        written = len(self._console.data)
        if written != self._written:
            self._written, self._written_at, self._is_judged = written, now, False
        elif not self._is_judged and now - self._written_at >= PROMPT_NANOSECONDS:
            self._is_judged = True
            watch.unfinished(self._console.unfinished)

    def _look_at_processors(self, now: int) -> None:
        executed = self._machine.instructions
        if executed != self._executed:
            self._executed, self._executed_at = executed, now
        elif now - self._executed_at >= IDLE_NANOSECONDS:
            self._machine.end(Outcome.HALTED)


def _summed(parts: Iterable[Mapping[int, int]]) -> list[tuple[int, int]]:
    """Return reasons and counts of several processors together, in the order of the reasons."""
    counts: dict[int, int] = {}
    for part in parts:
        for reason, count in part.items():
            counts[reason & 0xFFFF] = counts.get(reason & 0xFFFF, 0) + count
    return sorted(counts.items())


def _make_machine(options: SystemOptions, console: Console) -> Machine:
    ram = nested.ram_size(options) if options.mode is Mode.NESTED else options.memory
    wanted = MachineOptions(
        profile=options.profile,
        memory=ram,
        concealed=ram - options.memory,
        cpus=options.cpus,
        tlb=options.tlb,
        seed=options.seed,
        quantum=_QUANTUM if options.cpus > 1 else _QUANTUM_ALONE,
        native=options.native,
        observed=options.observed,
        rom=options.image.data if isinstance(options.image, RomImage) else b"",
        ide=disks.ide_drives(options),
        serial=options.serial,
    )
    try:
        return Machine(wanted, console.put, options.firmware_log)
    except (OSError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SetupError(f"{options.memory} bytes of memory: this host refuses: {reason}") from None


def _tlb_totals(machine: Machine) -> TlbTotals:
    parts = [one.tlb.statistics for one in machine.processors]
    invalidations: dict[str, int] = {}
    for part in parts:
        for cause, count in part.invalidations.items():
            invalidations[cause] = invalidations.get(cause, 0) + count
    return TlbTotals(
        hits=sum(one.hits for one in parts),
        misses=sum(one.misses for one in parts),
        dropped=sum(one.dropped for one in parts),
        invalidations=invalidations,
    )


_STATES = {
    Activity.ACTIVE: "running",
    Activity.HLT: "halted",
    Activity.SHUTDOWN: "shut down",
    Activity.WAIT_FOR_SIPI: "waits for a start-up IPI",
}


def state_name(processor: Processor) -> str:
    """Return what a processor is doing, for people."""
    if processor.root is not None and processor.guest is None:
        return "L0 waits" if processor.is_idle else "running"
    return _STATES[processor.activity]


def level_of(system: System, processor: Processor) -> str:
    """Return who runs on a processor: L0, L1 or L2."""
    hypervisor = system.hypervisor
    if hypervisor is None:
        return "L1" if processor.guest is None else "L2"
    if processor.guest is None:
        return "L0"
    in_l2 = any(one.in_l2 for one in hypervisor.vcpus if one.index == processor.index)
    return "L2" if in_l2 else "L1"
