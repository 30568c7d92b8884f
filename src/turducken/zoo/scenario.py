"""What a scenario is: a mistake that broke real hypervisors, in a form with it and one without."""

from dataclasses import dataclass
from enum import Enum

from turducken.address import MIB

ZOO_IMAGE = "zoo-amd64"


class Form(Enum):
    """With the mistake, or without it."""

    FAULTY = "faulty"
    FIXED = "fixed"


class Culprit(Enum):
    """Who makes the mistake."""

    L0 = "L0"
    """Our own hypervisor, in which a fault is planted (`turducken.zoo.planted`)."""
    TABLES = "L1"
    """A hypervisor that changes its guest's tables."""
    GUEST = "guest"
    """A guest, or whoever loads its state."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario; its texts are for people, in whole sentences.

    The faulty form is caught by ``failure``, a part of a line that the guest prints or that
    `turducken.zoo.evidence` adds (empty: nothing shows without the sanitizer), and by ``rule``, the
    sanitizer's finding (None: no invalidation is missing). ``program`` are tests of ``image`` that
    the guest runs; where it is empty, the guest is the zoo's own and runs the scenario of this
    name.
    """

    name: str
    culprit: Culprit
    title: str
    story: str
    """The real bug behind it."""
    faulty: str
    """What goes wrong in the faulty form, and how it shows."""
    fixed: str
    """What the fixed form does instead."""
    failure: str = ""
    rule: str | None = None
    fault: str | None = None
    """The mistake of `PLANTED` that the faulty form plants in L0."""
    program: str = ""
    image: str = ZOO_IMAGE
    cpus: int = 1
    memory: int = 64 * MIB
    """Bytes of RAM that the guest has."""
    needs_app: bool = False
    """L0 has an application on it (`turducken.zoo.app`)."""

    def command_line(self, form: Form) -> str:
        """Return what the guest is told."""
        if self.program:
            return f"tests={self.program}"
        if self.culprit is Culprit.L0:
            return f"scenario={self.name}"
        return f"scenario={self.name} form={form.value}"
