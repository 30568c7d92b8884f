"""A walk that was made before is not made again, and gives what making it would give.

Two MMUs over equal memories are driven alike; one of them remembers walks.
"""

import random

import pytest
from mmu_support import GUEST, LONG, MIB, RWX, Rig

from turducken.mmu.policy import Keep
from turducken.mmu.rights import FETCH, READ, WRITE, AccessMode
from turducken.mmu.tlb import Mapping
from turducken.paging.formats import PAGING_32, PAGING_PAE, BoundFormat, Features
from turducken.paging.rights import make_attributes
from turducken.paging.table import PageTable
from turducken.paging.walker import walk

_FORMATS = {
    "4-level": LONG,
    "PAE": PAGING_PAE.bind(Features()),
    "32-bit": PAGING_32.bind(Features(nx=False)),
}
_PAGES = [4 * MIB + 0x1000 * n for n in range(6)] + [6 * MIB, 6 * MIB + 0x5000]
_USER = make_attributes("RWX", user=True)


def _flip(table: PageTable, address: int, bit: int) -> None:
    """Change a bit of the last entry that a walk for ``address`` reads."""
    step = walk(table.fmt, table.memory, table.root, address).steps[-1]
    table.memory.store(step.address, table.fmt.entry_size, step.entry ^ 1 << bit)


class _NotRemembering(Keep):
    acts_when_added = True


class _Pair:
    def __init__(self, fmt: BoundFormat, *, has_ept: bool, accessed_dirty: bool) -> None:
        self.rigs = (Rig(), Rig(_NotRemembering()))
        self.tables, self.epts = [], []
        for rig in self.rigs:
            table = rig.guest_table(fmt) if has_ept else rig.table(fmt)
            table.map(4 * MIB, 4 * MIB, MIB, _USER, max_shift=12)
            table.map(6 * MIB, 6 * MIB, 2 * MIB, _USER)
            self.tables.append(table)
            self.epts.append(rig.ept() if has_ept else None)
        self.accessed_dirty = accessed_dirty
        self.configure(AccessMode(wp=True, nx=True))

    def configure(self, mode: AccessMode) -> None:
        for rig, table, ept in zip(self.rigs, self.tables, self.epts, strict=True):
            rig.configure(table, ept, mode=mode, accessed_dirty=self.accessed_dirty)

    def compare(self, address: int, kind: int, *, user: bool) -> None:
        found = [one.access(address, kind, user=user) for one in self.rigs]
        assert found[0] == found[1]
        first, second = (one.tlb.statistics for one in self.rigs)
        assert (first.hits, first.misses) == (second.hits, second.misses)

    def edit(self, choose: random.Random) -> None:
        """Change a bit of an entry that some walk may read, in both memories alike."""
        address, bit = choose.choice(_PAGES), choose.choice([0, 1, 2, 5, 6])
        for table in self.tables:
            _flip(table, address, bit)

    def edit_ept(self, choose: random.Random) -> None:
        gpa, bit = choose.choice([*_PAGES, MIB]), choose.choice([1, 2, 8, 9])
        for ept in self.epts:
            if ept is not None:
                _flip(ept, gpa, bit)

    def invalidate(self, choose: random.Random) -> None:
        address, what = choose.choice(_PAGES), choose.randrange(4)
        for rig in self.rigs:
            if what < 2:
                rig.tlb.flush_vpid(0, "VM entry")
            elif what == 2:
                rig.tlb.invlpg(0, 0, address)
            else:
                rig.tlb.invept_all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stages", ["one stage", "two stages", "two stages with A/D flags"])
@pytest.mark.parametrize("name", _FORMATS)
def test_it_makes_no_difference(name: str, stages: str, seed: int) -> None:
    choose = random.Random(seed)
    pair = _Pair(_FORMATS[name], has_ept="two" in stages, accessed_dirty="A/D" in stages)
    for _ in range(400):
        what = choose.randrange(10)
        if what == 0:
            pair.edit(choose)
        elif what == 1:
            pair.edit_ept(choose)
        elif what < 5:
            pair.invalidate(choose)
        elif what == 5:
            pair.configure(
                AccessMode(wp=choose.random() < 0.5, nx=True, smep=choose.random() < 0.5)
            )
        else:
            kind = choose.choice([READ, WRITE, FETCH])
            pair.compare(choose.choice(_PAGES), kind, user=choose.random() < 0.5)
    first, second = (bytes(one.memory.bytes) for one in pair.rigs)
    assert first == second


def test_an_entry_that_has_changed_is_seen_at_once() -> None:
    rig = Rig()
    table = rig.table()
    table.map(4 * MIB, 4 * MIB, 0x1000, RWX, max_shift=12)
    rig.configure(table)
    assert isinstance(rig.access(4 * MIB), Mapping)
    table.map(4 * MIB, 8 * MIB, 0x1000, RWX, max_shift=12)
    rig.tlb.flush_vpid(0, "VM exit")
    found = rig.access(4 * MIB)
    assert isinstance(found, Mapping)
    assert found.page == 8 * MIB


def test_a_changed_second_stage_is_seen_after_its_invalidation() -> None:
    rig = Rig()
    table, ept = rig.guest_table(), rig.ept()
    table.map(4 * MIB, 4 * MIB, 0x1000, RWX, max_shift=12)
    rig.configure(table, ept)
    assert isinstance(rig.access(4 * MIB), Mapping)
    ept.map(4 * MIB, GUEST + 8 * MIB, 0x1000, RWX, max_shift=12)
    rig.tlb.invept_all()
    found = rig.access(4 * MIB)
    assert isinstance(found, Mapping)
    assert found.page == GUEST + 8 * MIB
