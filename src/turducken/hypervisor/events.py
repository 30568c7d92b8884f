"""What L0 tells whoever wants to know. Without a subscriber an event costs one test of a list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Level = Literal[1, 2]
"""Which guest a VM exit came from."""
Handler = Literal["L0", "L1", "app"]
"""Who a VM exit was for."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A VM exit of ``level``, and whom it was given to."""

    processor: int
    level: Level
    reason: int
    qualification: int
    rip: int
    handler: Handler


@dataclass(frozen=True, slots=True)
class GivenToL1:
    """L1 is about to run after a VM exit of its L2, or a failed entry: what it reads of it."""

    processor: int
    reason: int
    """The exit-reason field of VMCS12, bit 31 included."""
    qualification: int
    rip: int


@dataclass(frozen=True, slots=True)
class NestedEntry:
    """L1 entered L2: the VMCS12 at Gpa1 ``vmcs12`` with its EPTP (None without EPT)."""

    processor: int
    vmcs12: int
    eptp12: int | None


@dataclass(frozen=True, slots=True)
class ShadowFilled:
    """EPT02 got a leaf: Gpa2 ``gpa2``, its size, the entry, and the Gpa1 page behind it."""

    processor: int
    gpa2: int
    shift: int
    entry: int
    gpa1: int


@dataclass(frozen=True, slots=True)
class Invalidated:
    """L1 executed INVEPT or INVVPID with operands that the processor accepts."""

    processor: int
    instruction: Literal["INVEPT", "INVVPID"]
    kind: int
    operand: int
    address: int = 0
    """Of INVVPID."""


@dataclass(frozen=True, slots=True)
class Ept01Changed:
    """The API changed EPT01 for ``processors``, from Gpa1 ``start`` on for ``size`` bytes."""

    processor: int
    processors: tuple[int, ...]
    start: int
    size: int
    what: str


@dataclass(frozen=True, slots=True)
class Shootdown:
    """A processor asked others to invalidate and waited for ``waited`` of them."""

    processor: int
    others: tuple[int, ...]
    waited: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class L1Stopped:
    """A processor of L1's stopped for good: a triple fault or a VMX abort."""

    processor: int
    why: str


Event = (
    Exited
    | GivenToL1
    | NestedEntry
    | ShadowFilled
    | Invalidated
    | Ept01Changed
    | Shootdown
    | L1Stopped
)


class Events:
    """Subscribers; publish only ``if events.subscribers``."""

    __slots__ = ("subscribers",)

    def __init__(self) -> None:
        self.subscribers: list[Callable[[Event], None]] = []

    def publish(self, event: Event) -> None:
        """Tell every subscriber."""
        for one in self.subscribers:
            one(event)
