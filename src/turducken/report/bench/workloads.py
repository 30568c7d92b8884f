"""Workloads of the guest bench-amd64, timed from outside by what it writes on its console.

Time is this process's own time on a processor, so that other work on the host counts for little.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from turducken.hypervisor import ShadowPolicyName
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.system.errors import SetupError

IMAGE = "bench-amd64"
_LIMIT = Stops(max_instructions=20_000_000_000)


@dataclass(frozen=True, slots=True)
class Timing:
    """One workload, once.

    ``exits`` are VM exits of every level; ``frames`` are the most 4-KiB pages that EPT02s had.
    """

    rounds: int
    seconds: float
    instructions: int
    exits: int
    frames: int

    @property
    def rate(self) -> float:
        """Rounds a second."""
        return self.rounds / self.seconds

    @property
    def instruction_rate(self) -> float:
        """Instructions a second."""
        return self.instructions / self.seconds


def bench_options(mode: Mode, shadow: ShadowPolicyName = "cached") -> SystemOptions:
    """Return a system of one processor with the image of workloads."""
    return SystemOptions(find_image(IMAGE), mode=mode, shadow=shadow)


Attach = Callable[[System], object]
"""Puts something on a system before it runs."""


def run_workload(
    options: SystemOptions, name: str, units: int, attach: Attach | None = None
) -> Timing:
    """Run ``units`` of the workload ``name`` (see guests/bench/bench.c)."""
    system = System(replace(options, text=f"tests={name} seed={units}"))
    if attach is not None:
        attach(system)
    clock = _Clock(system)
    system.console.subscribe(clock.line)
    system.run(_LIMIT)
    if clock.timing is None:
        raise SetupError(f"the workload {name} did not end: {system.console.text.strip()}")
    return clock.timing


def best_of(
    options: SystemOptions, name: str, units: int, times: int, attach: Attach | None = None
) -> Timing:
    """Return the fastest of several runs."""
    timings = [run_workload(options, name, units, attach) for _ in range(times)]
    return min(timings, key=lambda one: one.seconds)


class _Clock:
    """Reads time and counters when the guest says that its work begins and ends."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = (0.0, 0, 0)
        self._rounds = 0
        self.timing: Timing | None = None

    def line(self, line: str) -> None:
        """Take a line of the console."""
        words = line.split()
        if words[:2] == ["#", "begin"]:
            self._rounds = int(words[3])
            self._began = self._now()
        elif words[:2] == ["#", "end"]:
            ended = self._now()
            seconds, instructions, exits = (
                after - before for after, before in zip(ended, self._began, strict=True)
            )
            self.timing = Timing(
                self._rounds, seconds, int(instructions), int(exits), self._frames()
            )

    def _now(self) -> tuple[float, int, int]:
        machine = self._system.machine
        exits = sum(sum(one.statistics.exits.values()) for one in machine.processors)
        return time.process_time(), machine.instructions, exits

    def _frames(self) -> int:
        hypervisor = self._system.hypervisor
        if hypervisor is None:
            return 0
        return sum(one.shadow_parts.frames.peak for one in hypervisor.vcpus)
