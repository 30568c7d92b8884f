"""What every shadow policy does, and what it is made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from turducken.address import Gpa1, Gpa2
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.frames import FrameShare
from turducken.hypervisor.shadow.compose import Composer, Composition, EptView
from turducken.memory import PhysicalMemory
from turducken.paging import entries as e

ShadowPolicyName = Literal["lazy", "cached", "eager", "writeprotect"]

_EPTP_BASE = e.EPTP.make(MT=MemoryType.WB, WALK=3)


class Root12(NamedTuple):
    """What distinguishes one EPT12 from another: its EPTP, and how it is read."""

    eptp: int
    view: EptView

    @property
    def ep4ta(self) -> int:
        """EPTP bits 51:12, which INVEPT goes by."""
        return self.eptp & e.EP4TA_MASK


class Watched(Protocol):
    """Pages of EPT12 that L1 cannot write without `ShadowPolicy.tables_changed` (Gpa1)."""

    pages: set[Gpa1]
    unwatchable: set[Gpa1]
    """Pages that are written in ways which cannot be followed."""
    is_exhausted: bool
    """No more pages can be watched."""
    has_aliases: bool
    """A watched page may be written under another address."""


@dataclass(slots=True)
class ShadowStatistics:
    """What a policy did."""

    fills: int = 0
    """Leaves written to EPT02s."""
    drops: int = 0
    """Times that an EPT02 was emptied or given up."""
    roots: int = 0
    """EPT02s made."""
    evictions: int = 0
    """EPT02s given up for want of memory."""


@dataclass(frozen=True, slots=True)
class ShadowParts:
    """What a policy works with, all of one processor's."""

    memory: PhysicalMemory
    frames: FrameShare
    """What this processor's EPT02s may occupy together."""
    composer: Composer
    invept: Callable[[int], None]
    """Invalidate what the processor holds for an EPTP (single-context INVEPT)."""
    watched: "Watched"
    statistics: ShadowStatistics = field(default_factory=ShadowStatistics)


class ShadowPolicy(Protocol):
    """One processor's EPT02s."""

    name: str
    statistics: ShadowStatistics

    def enter(self, root12: Root12) -> int:
        """L2 is about to be entered from L1 with this EPT12: return the EPTP to use."""

    def fill(self, gpa2: Gpa2, access: int) -> Composition:
        """L2's access met nothing in EPT02: put there what EPT12 and EPT01 say, and return it."""

    def leave(self) -> None:
        """L1 runs again."""

    def invept(self, ep4ta: int | None) -> None:
        """L1 executed INVEPT for an EPT12 (None: for all)."""

    def ept01_changed(self) -> None:
        """EPT01 has taken something away, or given it another place or type."""

    def writing_withheld(self, pages: frozenset[Gpa1]) -> None:
        """L1 has lost its write right to these pages, and so have its L2s."""

    def tables_changed(self, pages: frozenset[Gpa1]) -> None:
        """Somebody is about to write these pages of EPT12, which the policy had watched."""

    def table_of(self, root12: Root12) -> EptTable | None:
        """Return the EPT02 that stands for an EPT12 at the moment, for tools."""


def eptp02(table: EptTable, root12: Root12) -> int:
    """Return the EPTP for an EPT02: A/D flags as in EPT12's, so that accesses count alike."""
    return table.root | _EPTP_BASE | root12.eptp & e.EPTP_AD
