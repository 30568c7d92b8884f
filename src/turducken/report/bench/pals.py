"""What TrustVisor costs: VM exits and guest instructions of each step of a PAL's life.

pal-demo says on its console when a step begins and when it has ended (`guests/pal-demo/cost.c`).
What its step "none" takes, which is the way to user mode and back, is taken off. The figures are
counts, and the same in every run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from turducken.apps import parse_request
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.report.bench.records import Measurement
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.system.errors import SetupError

IMAGE = "pal-demo-amd64"
STEPS = {"join": "register", "call": "first call", "more": "call", "part": "unregister"}
"""pal-demo's names, and what they stand for."""
_LIMIT = Stops(max_instructions=500_000_000)
_CPUS = 2


class Count(NamedTuple):
    """Counts so far, or of a step."""

    exits: int
    instructions: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step takes: hardware's VM exits and guest instructions, of all processors."""

    level: str
    step: str
    exits: float
    instructions: float


def costs(sharing: str, shadow: ShadowPolicyName) -> list[Cost]:
    """Run pal-demo's steps from L1 and from L2 with two processors, of which one is idle."""
    options = SystemOptions(
        find_image(IMAGE),
        mode=Mode.NESTED,
        cpus=_CPUS,
        text="tests=cost",
        shadow=shadow,
        apps=[parse_request(f"trustvisor:sharing={sharing}")],
    )
    system = System(options)
    counter = _Counter(system)
    system.console.subscribe(counter.line)
    result = system.run(_LIMIT)
    if result.exit_status:
        raise SetupError(f"{IMAGE} did not get to its end: {result.console.strip()[-200:]}")
    return counter.costs()


class _Counter:
    """Reads the counters when the guest says that a step begins and ends."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = Count(0, 0)
        self._count = 1
        self._steps: dict[tuple[str, str], tuple[int, Count]] = {}

    def line(self, line: str) -> None:
        """Take a line of the console."""
        words = line.split()
        if words[:2] == ["#", "begin"]:
            self._count = int(words[4])
            self._began = self._now()
        elif words[:2] == ["#", "end"]:
            now = self._now()
            taken = Count(*(after - before for after, before in zip(now, self._began, strict=True)))
            self._steps[words[2], words[3]] = self._count, taken

    def _now(self) -> Count:
        machine = self._system.machine
        exits = sum(sum(one.statistics.exits.values()) for one in machine.processors)
        return Count(exits, sum(one.engine.instructions for one in machine.processors))

    def costs(self) -> list[Cost]:
        """Return the steps' costs, each per round, without what "nothing" costs."""
        found = []
        for (level, step), (count, taken) in self._steps.items():
            if step not in STEPS:
                continue
            _, nothing = self._steps[level, "none"]
            exits, instructions = (a - b for a, b in zip(taken, nothing, strict=True))
            found.append(Cost(level, STEPS[step], exits / count, instructions / count))
        return found


def pals() -> Iterator[Measurement]:
    """Registering, calling and taking back PALs, per sharing model and shadow policy."""
    for sharing in ("one", "copied"):
        for number, shadow in enumerate(POLICIES):
            for one in costs(sharing, shadow):
                if one.level == "L1" and number:
                    continue  # there is no EPT02 in it
                yield from _measurements(one, sharing, shadow)


def _measurements(cost: Cost, sharing: str, shadow: ShadowPolicyName) -> Iterator[Measurement]:
    group = f"PALs from {cost.level}, sharing {sharing}"
    if cost.level == "L2":
        group += f", EPT02 {shadow}"
    yield Measurement(group, cost.step, cost.exits, "exits")
    yield Measurement(group, cost.step, cost.instructions, "instructions")
