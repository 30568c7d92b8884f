"""What L0 counts, for summaries and benchmarks."""

from dataclasses import dataclass, field

from turducken.vmx.exit_reasons import name_of


@dataclass(slots=True)
class VcpuStatistics:
    """One processor's counts. The dictionaries are by basic exit reason."""

    exits_l1: dict[int, int] = field(default_factory=dict)
    """VM exits of L1."""
    exits_l2: dict[int, int] = field(default_factory=dict)
    """VM exits of L2, all of which reach L0 first."""
    reflected: dict[int, int] = field(default_factory=dict)
    """VM exits that L1 got, by the reason that L1 saw."""
    entries: int = 0
    """L2 entries of L1."""
    invept: int = 0
    """INVEPTs that L0 executed."""
    invvpid: int = 0
    """INVVPIDs that L0 executed."""
    kicks: int = 0
    """INITs by which L0 made other processors leave their guests."""

    @property
    def handled(self) -> dict[int, int]:
        """VM exits of L2 that L0 handled without L1."""
        return {
            reason: count - self.reflected.get(reason, 0)
            for reason, count in self.exits_l2.items()
            if count > self.reflected.get(reason, 0)
        }

    def named(self) -> dict[str, dict[str, int]]:
        """Return the exits by level and reason, with names for people."""
        tables = {"L1": self.exits_l1, "L2 to L0": self.handled, "L2 to L1": self.reflected}
        return {
            level: {name_of(reason): count for reason, count in sorted(table.items())}
            for level, table in tables.items()
        }
