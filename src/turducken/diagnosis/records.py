"""What a diagnosis says: who did what, which rule it broke, and what the rule looked at."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from turducken.bits import Kind as BitKind
from turducken.bits import Layout


class Kind(Enum):
    """What a diagnosis is about."""

    VMFAIL = "vmfail"
    """A VMX instruction failed with VMfailInvalid or VMfailValid."""
    EXCEPTION = "vmx-exception"
    """A VMX instruction raised #UD or #GP."""
    ENTRY_FAILURE = "entry-failure"
    """A VM entry ended in a VM exit: reason 33 or 34."""
    MISCONFIGURATION = "ept-misconfiguration"
    ENDLESS_VIOLATION = "endless-ept-violation"
    """The same EPT violation again and again, and nothing changes."""
    VMX_ABORT = "vmx-abort"
    TRIPLE_FAULT = "triple-fault"
    NOTHING_TO_WAKE = "nothing-to-wake"
    """A processor waits, and nothing will ever end that."""
    NO_PROGRESS = "no-progress"
    """The same VM exit at the same RIP, again and again."""
    ENDLESS_LOOP = "endless-loop"
    """A processor goes round in a few instructions, and nothing can end that."""
    LOST_EVENT = "lost-event"
    """A VM exit interrupted the delivery of an event that was never injected again."""
    UNHANDLED_EXIT = "unhandled-exit"
    """The last VM exit of a guest that was not entered again in a run that failed."""
    MSR = "msr"
    """RDMSR or WRMSR raised #GP."""
    UNANSWERED = "unanswered-access"
    """Nothing in the machine answers an access."""


HINTS = frozenset({Kind.LOST_EVENT, Kind.MSR, Kind.UNANSWERED, Kind.UNHANDLED_EXIT})
"""Kinds that alone seldom end a run."""


class Place(NamedTuple):
    """Who: a processor, the level that ran on it, and the instruction's address."""

    cpu: int
    level: int
    """1 or 2: L1 (bare, too: root operation) or its guest."""
    rip: int
    linear: int
    """The same with the base of CS: what symbols know."""


class Reading(NamedTuple):
    """Something that a rule read: a field, a register, an operand, a word of memory."""

    name: str
    value: int
    digits: int
    """How many hexadecimal digits it has."""
    decoded: str = ""
    is_subject: bool = True
    """The rule is about it; the others are the conditions under which it applies."""

    @property
    def text(self) -> str:
        """Name, value and meaning."""
        decoded = f" ({self.decoded})" if self.decoded else ""
        return f"{self.name} = {self.value:#0{self.digits + 2}x}{decoded}"


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule of the manual that did not hold."""

    id: str
    text: str
    """What the manual demands, in our words."""
    citation: str
    readings: tuple[Reading, ...] = ()
    """What the rule is about comes first."""
    allowed: str = ""
    """What would have passed."""
    is_reported: bool = True
    """It is the one whose failure the processor reports."""


Rules = tuple[BrokenRule, ...]


@dataclass(slots=True)
class Diagnosis:
    """One failure. Treat it as immutable.

    A guest may fail hundreds of times on purpose, and nobody looks: where the rules take long to
    work out, ``told`` is what does so from a copy of all that they read.
    """

    kind: Kind
    operation: str
    """What was tried: ``VMLAUNCH``, ``delivery of #PF``."""
    outcome: str
    """What came of it: ``VMfailValid 7``, ``triple fault``."""
    told: Rules | Callable[[], Rules] = ()
    notes: tuple[str, ...] = ()
    """Further lines: the chain of events, the entries of a walk."""

    @property
    def rules(self) -> Rules:
        """All rules that were broken, the reported one first."""
        if not isinstance(self.told, tuple):
            self.told = self.told()
        return self.told

    @property
    def rule(self) -> BrokenRule | None:
        """The rule whose failure the processor reports."""
        return next((one for one in self.rules if one.is_reported), None)


Key = tuple[Hashable, ...]
"""What equal failures at one place have in common; its first part tells kinds of them apart."""

Report = Callable[[Key, Callable[[], Diagnosis]], None]
"""How a failure is told: what equal ones have in common, and what makes the record.

The record is only made where there is none with that key at that place yet.
"""


def decoded_text(layout: Layout, word: int) -> str:
    """Return what is set in ``word``, in the names of its layout, reserved bits last."""
    parts = []
    for one in layout:
        if one.kind is not BitKind.FIELD or one.alias or one.name.startswith("ADDRESS"):
            continue
        if one.width == 1:
            parts += [one.name] if one.get(word) else []
        elif one.get(word) or one.values:
            parts.append(f"{one.name}={one.describe(word)}")
    wrong = word & layout.reserved_mask
    parts += [f"reserved bit {at}" for at in range(layout.width) if wrong >> at & 1][:_MOST_BITS]
    return " ".join(parts)


_MOST_BITS = 4
