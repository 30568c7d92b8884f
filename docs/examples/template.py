"""A template: copy it, keep the hooks you need, and run it.

    turducken run IMAGE --app my_app.py:greeting=hello,loud=on

Every hook is described in `turducken.hypervisor.Hypapp`, and in docs/hypapps.md.
"""

import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from turducken.address import Gpa1
from turducken.hypervisor import Hypapp, Hypervisor, Vcpu
from turducken.vmx.interface import Wait


@dataclass(frozen=True)
class Options:
    """What users can give: bool (on, off), int, str, or an Enum with text as values."""

    greeting: str = "hello"
    loud: bool = False


class MyApp(Hypapp):
    """Say what it does."""

    name = "my-app"
    Options = Options

    def __init__(self, options: Options) -> None:
        self.greeting = options.greeting.upper() if options.loud else options.greeting

    def on_start(self, hypervisor: Hypervisor) -> None:
        """Every processor is under L0; L1 has not run yet."""
        self.control = hypervisor.control
        count = len(hypervisor.vcpus)
        print(f"[{self.name}] {self.greeting}: {count} processors", file=sys.stderr)

    def on_hypercall(self, vcpu: Vcpu) -> Generator[Wait, None, None] | Literal[False] | None:
        """VMCALL of L1 or L2. False: not ours. Complete it with `vcpu.skip`."""
        return False

    def on_violation(
        self, vcpu: Vcpu, gpa1: Gpa1, access: int
    ) -> Generator[Wait, None, None] | Literal[False] | None:
        """An access (R, W, X: 1, 2, 4) that EPT01 refuses. False: not ours. None: try again."""
        return False

    def on_cpuid(
        self, vcpu: Vcpu, leaf: int, subleaf: int, answer: tuple[int, int, int, int]
    ) -> tuple[int, int, int, int]:
        """What L1 is to read."""
        return answer

    def on_nested_entry(self, vcpu: Vcpu) -> None:
        """L1 is about to enter an L2."""

    def on_nested_exit(self, vcpu: Vcpu, reason: int) -> None:
        """L1 is about to get a VM exit of its L2."""

    def on_shutdown(self, vcpu: Vcpu, why: str) -> None:
        """A processor of L1's has stopped for good."""
