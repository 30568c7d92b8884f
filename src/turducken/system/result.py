"""What a run came to: plain records, for whoever reports them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turducken.diagnosis import Sighting
from turducken.hypervisor.events import L1Stopped
from turducken.hypervisor.explain import Explanation
from turducken.machine.machine import Outcome, Unclaimed

SUCCESSES = frozenset({Outcome.UNTIL})
_LIMITS = frozenset({Outcome.LIMIT, Outcome.TIMEOUT})
SUCCESS_STATUS, FAILURE_STATUS, LIMIT_STATUS = 0, 1, 3
SIGNAL_STATUS = 128
"""Plus the number of the signal that ended the run."""


@dataclass(frozen=True, slots=True)
class ProcessorResult:
    """What one processor did and where it stands; ``exits`` are counts by basic exit reason."""

    index: int
    instructions: int
    exits: Mapping[int, int]
    triple_faults: int
    rip: int
    place: str | None
    """The image's symbol that RIP is in, where that can be told."""
    state: str


@dataclass(frozen=True, slots=True)
class Requester:
    """The processor and instruction that asked for something; ``place`` is its symbol, if any."""

    cpu: int
    rip: int
    place: str | None


@dataclass(frozen=True, slots=True)
class TlbTotals:
    """All processors' TLBs together; ``invalidations`` counts operations by what caused them."""

    hits: int
    misses: int
    dropped: int
    invalidations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ExitCount:
    """How many VM exits with ``reason`` came from ``level`` (1 or 2) and were for ``handler``."""

    level: int
    handler: str
    reason: int
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a run. Everything but ``host_seconds`` is the same whenever the inputs are."""

    outcome: Outcome
    code: int
    matched: str | None
    """The line that a pattern matched."""
    cpus: Sequence[ProcessorResult]
    exits: Sequence[ExitCount]
    tlb: TlbTotals
    guest_nanoseconds: int
    host_seconds: float
    console: str
    journeys: Sequence[Explanation] = field(default=())
    """Where L2's addresses went (nested mode)."""
    unclaimed: Sequence[Unclaimed] = field(default=())
    requested_by: Requester | None = None
    """Who reset the machine or let it sleep, where that ended the run."""
    success_code: int = 0
    """The debug-exit value that stands for success."""
    stopped: Sequence[L1Stopped] = field(default=())
    """Processors of L1's that L0 has given up, and why (nested mode)."""
    diagnoses: Sequence[Sighting] = field(default=())
    """Why things failed, in the order in which they came up first."""

    @property
    def instructions(self) -> int:
        """Instructions of all processors."""
        return sum(one.instructions for one in self.cpus)

    @property
    def mips(self) -> float:
        """Millions of guest instructions for each second of the host's."""
        return self.instructions / max(self.host_seconds, 1e-9) / 1e6

    @property
    def exit_status(self) -> int:
        """The status for a shell: 0 success, 1 failure, 3 a limit, 128 and a signal's number."""
        if self.outcome in _LIMITS:
            return LIMIT_STATUS
        if self.outcome is Outcome.INTERRUPTED:
            return SIGNAL_STATUS + self.code
        if self.outcome is Outcome.GUEST_EXIT:
            return SUCCESS_STATUS if self.code == self.success_code else FAILURE_STATUS
        return SUCCESS_STATUS if self.outcome in SUCCESSES else FAILURE_STATUS
