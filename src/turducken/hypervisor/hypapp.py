"""What an application on L0 can hook into: derive from `Hypapp` and override what you need.

An application gets the processor (`Vcpu`) it is called on. What it needs of L1 is there: registers
in ``vcpu.processor.gpr`` and in the fields of ``vcpu.current``, memory by Gpa1 in ``vcpu.memory``,
by linear address in ``vcpu.linear``. It changes EPT01 through ``vcpu.system.control`` and can run
the guest under a table of its own (`Vcpu.run_under`).
"""

from collections.abc import Generator
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from turducken.address import Gpa1
from turducken.vmx.interface import Wait
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.hypervisor.hypervisor import Hypervisor
    from turducken.hypervisor.vcpu import Handling, Vcpu

Cpuid = tuple[int, int, int, int]


class Ept01Sharing(Enum):
    """Whether the processors have EPT01s of their own."""

    OWN = "own"
    """Each has one, and they can differ."""
    ONE = "one"
    """All use the same tables, under the same root."""
    COPIED = "copied"
    """Each has a root of its own: the two upper levels are copies, the others are shared."""


class AppGuest(Protocol):
    """A guest of an application's own, which runs in the place of L1 or L2 on one processor.

    `Vcpu.make_vmcs` makes its VMCS, `Vcpu.run_app_guest` lets it run and `Vcpu.end_app_guest` ends
    it; the state of L1 or L2 rests untouched meanwhile. The general-purpose registers are in the
    processor: saving those of the guest it stands in for is the application's affair. NMIs are for
    the guest that it stands in for: with "NMI exiting", without "virtual NMIs" and with blocking by
    NMI in its VMCS they wait. INITs come to `on_exit`, L0's own too (`Vcpu.was_kicked`).
    """

    vmcs: Vmcs
    is_launched: bool
    """Has been entered since VMCLEAR: to be set by `on_exit`."""

    def on_exit(self, vcpu: "Vcpu") -> "Generator[Wait, None, None] | None":
        """It has exited, or could not be entered: as a handler of a VM exit does."""


class Hypapp:
    """An application that does nothing.

    Hooks that return ``"Handling | Literal[False]"`` return False where the application has nothing
    to do with what happened, else None or, where it must wait, a generator for the processor to run
    (``yield from control.unmap(...)``). What they handle, L0 does not look at any more.
    """

    name = "hypapp"
    ept01_sharing: Ept01Sharing | None = None
    """What the application needs; None: whatever there is."""
    Options: ClassVar[type | None] = None
    """A dataclass of the options that users can give (`turducken.apps.options`), which the
    application is made with; None: it takes none."""

    def on_start(self, hypervisor: "Hypervisor") -> None:
        """Every processor is under L0; L1 has not run yet."""

    def on_hypercall(self, vcpu: "Vcpu") -> "Handling | Literal[False]":
        """L1 or L2 executed VMCALL; complete it with `Vcpu.skip`."""
        return False

    def on_violation(self, vcpu: "Vcpu", gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        """L1 or L2 made an access (R, W, X as 1, 2, 4) that EPT01 or `run_under`'s table refuses.

        With None as answer the guest tries again.
        """
        return False

    def on_cpuid(self, vcpu: "Vcpu", leaf: int, subleaf: int, answer: Cpuid) -> Cpuid:
        """L1 executed CPUID: return what it is to read."""
        return answer

    def on_nested_entry(self, vcpu: "Vcpu") -> None:
        """L1 is about to enter an L2."""

    def on_nested_exit(self, vcpu: "Vcpu", reason: int) -> None:
        """L1 is about to get a VM exit of its L2."""

    def on_shutdown(self, vcpu: "Vcpu", why: str) -> None:
        """A processor of L1's has stopped for good."""
