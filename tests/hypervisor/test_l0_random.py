"""Random changes of EPT12 and EPT01 against a naive recomputation that shares no code with L0.

Faithfulness: what EPT02 says is EPT01(EPT12(x)), EPT12 as it was at some moment since the last
INVEPT that L1 executed for it, EPT01 as it is now. Progress: an access that the tables allow is not
refused. Containment: nothing leads to L0's memory.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from l0_bench import Bench

from turducken.address import MIB, PAGE_SIZE, Gpa1, Gpa2, Hpa
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.hypervisor.memory_control import Map, Protect, Restore, SetType, Unmap
from turducken.hypervisor.shadow.compose import (
    Denied01,
    Denied12,
    Filled,
    Misconfigured12,
    Unwatched,
)

GPA2S = [0x1000, 0x2000, 0x3FFFFF, 0x40_0000, 0x60_1000, 0x4000_0000, 0x80_0000_0000 - 0x1000]
PAGES = [n * PAGE_SIZE for n in range(0x2400, 0x2408)]
"""L1's pages that EPT12 maps by 4 KiB."""
RIGHTS = (0, 1, 2, 3, 4, 5, 6, 7)
TYPES = (0, 1, 2, 3, 4, 5, 6, 7)


# The naive side: a walk as the manual draws it, and EPT01 as a dictionary


@dataclass(frozen=True)
class Target:
    page: int
    rights: int
    kind: int


MISCONFIGURED = "misconfigured"
ABSENT = "absent"


def naive12(bench: Bench, root: int, gpa2: int) -> Target | str:
    table, rights = root, 7
    for shift in (39, 30, 21, 12):
        entry = bench.memory.load(table + (gpa2 >> shift) % 512 * 8, 8)
        low = entry & 7
        if low == 0:
            return ABSENT
        if low in (2, 6) or entry >> 46 & 0x3F:
            return MISCONFIGURED
        leaf = shift == 12 or (entry >> 7 & 1 and shift != 39)
        rights &= low
        if leaf:
            if entry >> 3 & 7 in (2, 3, 7) or (entry & (1 << shift) - 1) >> 12:
                return MISCONFIGURED
            base = entry & (1 << 46) - 1 & ~((1 << shift) - 1)
            page = (base + gpa2 % (1 << shift)) & ~0xFFF
            return Target(page, rights, entry >> 3 & 7)
        if entry >> 3 & 0xF or (shift == 39 and entry >> 7 & 1):
            return MISCONFIGURED
        table = entry & (1 << 46) - 1 & ~0xFFF
    raise AssertionError


@dataclass
class Naive01:
    hidden: range
    changed: dict[int, Target | None] = field(default_factory=dict)

    def at(self, page: int, kind: int) -> Target | None:
        if page in self.changed:
            return self.changed[page]
        return None if page in self.hidden else Target(page, 7, kind)


def naive_type(inner: int, outer: int) -> int:
    """The types of this test only: EPT01 is WB; or UC, which wins but over WC."""
    return inner if outer == MemoryType.WB or inner == MemoryType.WC else MemoryType.UC


class World:
    def __init__(self, policy: ShadowPolicyName, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(policy)
        bench = self.bench
        self.ept01 = Naive01(bench.hypervisor.frames.region)
        self.roots = [int(bench.ept12), int(bench.ept12) + 16 * MIB - PAGE_SIZE]
        bench.memory.write(self.roots[1], bytes(PAGE_SIZE))
        self.root = self.roots[0]
        # What EPT12 has said since the last INVEPT, for each root and address.
        self.said: dict[tuple[int, int], set[Target]] = {}
        self.note()

    def now(self, gpa2: int) -> Target | str | None:
        """EPT01(EPT12(x)); None where EPT01 refuses."""
        inner = naive12(self.bench, self.root, gpa2)
        return self.outer(inner) if isinstance(inner, Target) else inner

    def outer(self, inner: Target) -> Target | None:
        kind = self.bench.vcpu.ept01.types.type_of(inner.page)
        outer = self.ept01.at(inner.page, kind)
        if outer is None or not inner.rights & outer.rights:
            return None
        return Target(outer.page, inner.rights & outer.rights, naive_type(inner.kind, outer.kind))

    def note(self) -> None:
        for root in self.roots:
            for gpa2 in GPA2S:
                inner = naive12(self.bench, root, gpa2)
                if isinstance(inner, Target):
                    self.said.setdefault((root, gpa2), set()).add(inner)

    # Operations

    def write12(self) -> None:
        """L1 writes an entry of EPT12, at any level, from tables that exist or grow."""
        bench = self.bench
        gpa2 = self.random.choice(GPA2S)
        shift = self.random.choice((12, 12, 12, 21, 30, 39))
        kind = self.random.choice((0, 4, 6, 6, 6, 6, self.random.choice(TYPES)))
        right = self.random.choice((7, 7, 7, 5, 3, 1, self.random.choice(RIGHTS)))
        bench.ept12 = Gpa1(self.root)
        where = self.grow(gpa2, shift)
        if where is None:
            return
        if shift == 39:
            value = self.random.choice((0, bench.memory.load(where, 8) ^ 4))
        elif shift == 12:
            hidden = self.ept01.hidden
            target = self.random.choice([*PAGES, hidden.start, hidden.stop - PAGE_SIZE, 1 << 44])
            value = self.random.choice((0, target | kind << 3 | right, target | kind << 3 | 7))
        else:
            leaf = self.random.choice((0, 0, 1 << shift)) | kind << 3 | right | 0x80
            value = self.random.choice((0, leaf, bench.memory.load(where, 8) & ~7 | right))
        self.store12(where, value)

    def grow(self, gpa2: int, shift: int) -> int | None:
        table = self.root
        for level in (39, 30, 21, 12):
            where = table + (gpa2 >> level & 511) * 8
            if level == shift:
                return where
            entry = self.bench.memory.load(where, 8)
            if entry & 0x80 and level < 39:
                return None
            if not entry & ~0xFFF or entry >> 46:
                entry = self.bench._table() | 7
                self.store12(where, entry)
            table = entry & (1 << 46) - 1 & ~0xFFF
        raise AssertionError

    def store12(self, where: int, value: int) -> None:
        """A store by L1: where a policy watches the page, it exits first."""
        bench = self.bench
        page = Gpa1(where & -PAGE_SIZE)
        if bench.vcpu.ept01.is_withheld(page):
            bench.run(bench.hypervisor.watch_tables.release(bench.vcpu, frozenset({page})))
        bench.memory.store(where, 8, value)
        self.note()

    def invept(self) -> None:
        root = self.random.choice([*self.roots, None])
        self.bench.vcpu.shadow.leave()  # it is L1 that executes INVEPT
        self.bench.vcpu.shadow.invept(root)
        self.bench.use_ept12(root=self.root)
        for key in list(self.said):
            if root is None or key[0] == root:
                del self.said[key]
        self.note()

    def switch(self) -> None:
        self.bench.vcpu.shadow.leave()
        self.root = self.random.choice(self.roots)
        self.bench.use_ept12(root=self.root)

    def change01(self) -> None:
        page = self.random.choice(PAGES)
        right = self.random.choice((7, 5, 3, 1))
        bench, changed = self.bench, self.ept01.changed
        old = self.ept01.at(page, MemoryType.WB)
        what = self.random.randrange(5)
        if what == 0:
            change: Unmap | Protect | Map | Restore | SetType = Unmap(Gpa1(page), PAGE_SIZE)
            changed[page] = None
        elif what == 1:
            change = Protect(Gpa1(page), PAGE_SIZE, right)
            changed[page] = None if old is None else Target(old.page, right, old.kind)
        elif what == 2:
            target = self.random.choice(PAGES)
            change = Map(Gpa1(page), PAGE_SIZE, Hpa(target), right)
            changed[page] = Target(target, right, MemoryType.WB)
        elif what == 3:
            change = SetType(Gpa1(page), PAGE_SIZE, MemoryType.UC)
            changed[page] = None if old is None else Target(old.page, old.rights, MemoryType.UC)
        else:
            change = Restore(Gpa1(page), PAGE_SIZE)
            changed.pop(page, None)
        bench.run(bench.control.apply(bench.vcpu, [change]))

    def access(self) -> None:
        """L2 touches an address: through EPT02, or with a violation first."""
        gpa2, right = Gpa2(self.random.choice(GPA2S)), self.random.choice((1, 2, 4))
        there = self.in_ept02(gpa2)
        if there is not None and there.rights & right:
            return  # what is in EPT02 is judged by `check`
        expected = self.now(gpa2)
        found = self.violation(gpa2, right)
        if expected == MISCONFIGURED:
            assert isinstance(found, Misconfigured12)
        elif expected == ABSENT:
            assert isinstance(found, Denied12)
            assert not found.allowed
        else:
            inner = naive12(self.bench, self.root, gpa2)
            assert isinstance(inner, Target)
            if not inner.rights & right:
                assert isinstance(found, Denied12)
                assert found.allowed & 7 == inner.rights
            elif expected is None or not expected.rights & right:  # type: ignore[union-attr]
                assert isinstance(found, Denied01)
            else:
                assert isinstance(found, Filled)
                assert self.in_ept02(gpa2) == expected

    def violation(self, gpa2: Gpa2, right: int) -> object:
        bench = self.bench
        found = bench.compose(gpa2, right)
        if isinstance(found, Unwatched):
            bench.run(bench.hypervisor.watch_tables.watch(bench.vcpu, found.tables))
            found = bench.compose(gpa2, right)
        return found

    def in_ept02(self, gpa2: Gpa2) -> Target | None:
        target = naive12(self.bench, self.bench.eptp02 & ~0xFFF, gpa2)
        assert target != MISCONFIGURED
        return target if isinstance(target, Target) else None

    # Judgement

    def check(self) -> None:
        for gpa2 in GPA2S:
            there = self.in_ept02(Gpa2(gpa2))
            if there is None:
                continue
            assert there.page not in self.ept01.hidden
            assert there in set(self.allowed(gpa2)), hex(gpa2)

    def allowed(self, gpa2: int) -> Iterator[Target]:
        for inner in self.said.get((self.root, gpa2), ()):
            outer = self.outer(inner)
            if outer is not None:
                # Rights that EPT01 only adds need no invalidation: fewer are right too.
                for rights in range(1, 8):
                    if not rights & ~outer.rights:
                        yield Target(outer.page, rights, outer.kind)

    def step(self) -> None:
        operations = (
            [self.access] * 8
            + [self.write12] * 6
            + [self.invept, self.switch]
            + [self.change01] * 2
        )
        self.random.choice(operations)()
        self.check()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(6))
def test_random_changes(policy: ShadowPolicyName, seed: int) -> None:
    world = World(policy, seed)
    for _ in range(250):
        world.step()


def test_writeprotect_needs_no_invept() -> None:
    """Under `writeprotect` EPT02 never says what EPT12 no longer says."""
    world = World("writeprotect", 1)
    world.invept = lambda: None  # type: ignore[method-assign]
    for _ in range(400):
        world.said.clear()
        world.note()
        world.step()


def test_lazy_keeps_nothing() -> None:
    world = World("lazy", 1)
    for _ in range(200):
        world.step()
        world.bench.vcpu.shadow.leave()
        assert all(world.in_ept02(Gpa2(one)) is None for one in GPA2S)
        world.bench.use_ept12(root=world.root)
