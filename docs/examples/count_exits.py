"""Counts L2's VM exits that L1 gets, and says so when a processor stops or L1 asks.

    turducken run lhv-amd64 --app docs/examples/count_exits.py:every=100 --cmdline tests=ept

An example of an application on turducken's L0: see docs/hypapps.md.
"""

import sys
from collections import Counter
from dataclasses import dataclass

from turducken.hypervisor import Hypapp, Vcpu
from turducken.vmx.exit_reasons import name_of


@dataclass(frozen=True)
class Options:
    """What can be given behind the colon."""

    every: int = 1000
    """Tell after so many exits."""


class CountExits(Hypapp):
    """Nothing but hooks that look."""

    name = "count-exits"
    Options = Options

    def __init__(self, options: Options) -> None:
        self.every = options.every
        self.entries = 0
        self.exits: Counter[str] = Counter()

    def on_nested_entry(self, vcpu: Vcpu) -> None:
        """L1 enters an L2."""
        self.entries += 1

    def on_nested_exit(self, vcpu: Vcpu, reason: int) -> None:
        """L1 gets an exit."""
        self.exits[name_of(reason)] += 1
        if not self.exits.total() % self.every:
            self.tell()

    def on_shutdown(self, vcpu: Vcpu, why: str) -> None:
        """L1's processor is gone."""
        self.tell()

    def tell(self) -> None:
        """Print what was counted."""
        counts = ", ".join(f"{count} {name}" for name, count in self.exits.most_common(3))
        print(f"[{self.name}] {self.entries} entries of L2; exits: {counts}", file=sys.stderr)
