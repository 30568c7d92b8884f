"""What the manual leaves open: how long a processor really keeps what it may keep.

"Software should not rely on ... the processor may invalidate at any time" (SDM 3C, "Caching
Translation Information"). A policy decides; every choice it makes is legal, and repeatable.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from turducken.mmu.tlb import Mapping, Space, Tlb


class TlbPolicy(Protocol):
    """Decides what is dropped although it need not be."""

    name: str
    acts_when_stopped: bool
    """`stopped` does something, so it must be called each time."""
    acts_when_added: bool
    """`added` does something: it may tell one mapping from another that is equal to it."""

    def added(self, tlb: Tlb, space: Space, address: int, mapping: Mapping) -> None:
        """A mapping was added to ``space``."""

    def stopped(self, tlb: Tlb) -> None:
        """The processor stopped running guest code for a moment."""

    def crossed(self, tlb: Tlb) -> None:
        """A VM entry or VM exit was made."""

    def evicted(self) -> bool:
        """Tell, once, whether something was dropped since the last question."""


class Keep:
    """Retain all that may be retained."""

    name = "keep"
    acts_when_stopped = False
    acts_when_added = False

    def added(self, tlb: Tlb, space: Space, address: int, mapping: Mapping) -> None:
        """Keep it."""

    def stopped(self, tlb: Tlb) -> None:
        """Keep all."""

    def crossed(self, tlb: Tlb) -> None:
        """Keep all."""

    def evicted(self) -> bool:
        """Nothing ever is."""
        return False


class Drop(Keep):
    """Walk always: nothing outlives the run of instructions that needed it."""

    name = "drop"
    acts_when_stopped = True

    def stopped(self, tlb: Tlb) -> None:
        """Drop all."""
        tlb.forget_everything()


class Finite(Keep):
    """A limited number of page mappings, the oldest giving way, as real parts have."""

    name = "finite"
    acts_when_added = True

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._order: deque[tuple[Space, int, int, Mapping]] = deque()
        self._evicted = False

    def added(self, tlb: Tlb, space: Space, address: int, mapping: Mapping) -> None:
        """Let the oldest mapping go when there are too many."""
        self._order.append((space, mapping.shift, address >> mapping.shift, mapping))
        if len(self._order) <= self._capacity:
            return
        old_space, shift, number, old = self._order.popleft()
        if old_space.remove(shift, number, old):
            old_space.forget_structures()
            self._evicted = True

    def evicted(self) -> bool:
        """Tell whether a mapping gave way."""
        was, self._evicted = self._evicted, False
        return was


class Random(Keep):
    """Drop everything, or one space, at moments chosen by a seeded generator."""

    name = "random"
    acts_when_stopped = True

    def __init__(self, seed: int, *, one_in: int = 4) -> None:
        self._random = random.Random(seed)
        self._one_in = one_in

    def stopped(self, tlb: Tlb) -> None:
        """Sometimes drop all, sometimes each space with even odds."""
        if self._random.randrange(self._one_in):
            return
        if self._random.randrange(2):
            tlb.forget_everything()
            return
        tlb.forget_spaces(lambda: bool(self._random.randrange(2)))


class Transitions(Keep):
    """Drop everything at every VM entry and VM exit, as Bochs does."""

    name = "transitions"

    def crossed(self, tlb: Tlb) -> None:
        """Drop all."""
        tlb.forget_everything()


class Broadcast(Keep):
    """Each invalidating instruction acts on all processors, as under KVM.

    KVM translates for a guest hypervisor by tables that its processors share, so what one of them
    invalidates is gone for all. Whoever has several TLBs connects them
    (`turducken.mmu.followed.broadcast`); each for itself keeps everything.
    """

    name = "broadcast"


def make_policy(name: str, seed: int, processor: int) -> TlbPolicy:
    """Return a new policy by name for one processor; `ValueError` for an unknown name."""
    makers: dict[str, Callable[[], TlbPolicy]] = {
        "keep": Keep,
        "drop": Drop,
        "finite": Finite,
        "random": lambda: Random(seed * 0x1_0001 + processor),
        "transitions": Transitions,
        "broadcast": Broadcast,
    }
    if name not in makers:
        raise ValueError(f"unknown TLB policy {name!r} (one of {', '.join(makers)})")
    return makers[name]()


POLICIES = ("keep", "drop", "finite", "random", "transitions", "broadcast")
"""The names that `make_policy` knows."""
