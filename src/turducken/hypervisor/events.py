"""What L0 tells whoever wants to know. Without a subscriber an event costs one test of a list."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from turducken.diagnosis import Diagnosis, Key

Level = Literal[1, 2]
"""Which guest a VM exit came from."""
Handler = Literal["L0", "L1", "app"]
"""Who a VM exit was for."""
Guest = Literal["L1", "L2", "app"]
"""Who runs in non-root operation; "app": a guest of a hypapp's own."""


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
class ShadowDropped:
    """The EPT02 with EPTP ``eptp02`` was emptied or given up."""

    processor: int
    eptp02: int


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


class StopKind(Enum):
    """Why a processor of L1's stopped for good."""

    TRIPLE_FAULT = "triple-fault"
    VMX_ABORT = "vmx-abort"
    ENTRY_REFUSED = "entry-refused"
    """A VM entry of L0's own does not pass the processor's checks."""
    UNEXPECTED_EXIT = "unexpected-exit"
    """A VM exit that L0's controls do not ask for."""

    @property
    def is_mistake(self) -> bool:
        """Tell whether L0 is to blame, whatever L1 did."""
        return self in (StopKind.ENTRY_REFUSED, StopKind.UNEXPECTED_EXIT)


@dataclass(frozen=True, slots=True)
class L1Stopped:
    """A processor of L1's stopped for good."""

    processor: int
    why: str
    """In words, with the broken rule's text and citation where there is one."""
    kind: StopKind
    guest: Guest
    """Whose VMCS was current; its exit information follows."""
    reason: int
    """The exit-reason field, bit 31 included."""
    qualification: int
    rip: int
    rule: str | None = None
    """The id of the check of VM entry that was not passed (`turducken.vmx.checks`)."""


Event = (
    Exited
    | GivenToL1
    | NestedEntry
    | ShadowFilled
    | ShadowDropped
    | Invalidated
    | Ept01Changed
    | Shootdown
    | L1Stopped
)


class Events:
    """Subscribers; publish only ``if events.subscribers``."""

    __slots__ = ("on_diagnosis", "subscribers")

    def __init__(self) -> None:
        self.subscribers: list[Callable[[Event], None]] = []
        self.on_diagnosis: Callable[[int, Key, Callable[[], Diagnosis]], None] | None = None
        """Told of what L1 did wrong: the processor, and what `diagnosis.Report` takes."""

    def publish(self, event: Event) -> None:
        """Tell every subscriber."""
        for one in self.subscribers:
            one(event)
