"""TLB policies: every one is legal, and repeatable by its seed.

The manual lets a processor drop any mapping at any time. So an access may lead wherever the tables
led at some moment since the last operation that had to drop its mapping - and nowhere else.
"""

import random
from collections.abc import Callable

import pytest
from mmu_support import GUEST, RWX, Rig

from turducken.mmu.followed import FollowedTlb, broadcast
from turducken.mmu.policy import POLICIES, Finite, Keep, Random, make_policy
from turducken.mmu.tlb import Space, Tlb

PAGES = [0x10_0000 + 0x1000 * n for n in range(12)]
STEPS = 400


class Story:
    """A guest whose tables change, with and without invalidation, and what it may see."""

    def __init__(self, tlb: str, seed: int, *, with_stops: bool = True) -> None:
        self.rig = Rig(make_policy(tlb, seed, 0))
        self.guest, self.ept = self.rig.guest_table(), self.rig.ept()
        self.rig.configure(self.guest, self.ept, vpid=1)
        self.choose = random.Random(99)
        self.with_stops = with_stops
        self.legal = {page: set[int]() for page in PAGES}
        self.now: dict[int, int] = {}
        for page in PAGES:
            self.remap(page)
        self.seen: list[int] = []

    def remap(self, page: int) -> None:
        target = self.choose.randrange(0x100, 0x400) << 12
        self.guest.map(page, target, 0x1000, RWX)
        self.now[page] = GUEST + target
        self.legal[page].add(GUEST + target)

    def access(self, page: int) -> None:
        place = self.rig.where(page)
        assert place in self.legal[page]
        self.seen.append(place)

    def invalidate(self, page: int) -> None:
        how = self.choose.randrange(4)
        if how == 0:
            self.rig.tlb.invlpg(1, 0, page)
        elif how == 1:
            self.rig.tlb.invvpid_address(1, page)
        elif how == 2:
            self.rig.tlb.invept_single(self.ept.root)
        else:
            self.rig.tlb.flush_vpid(0, "VM exit")
            self.rig.policy.crossed(self.rig.tlb)
        for one in PAGES if how == 2 else [page] if how < 2 else []:
            self.legal[one] = {self.now[one]}

    def tell(self) -> list[int]:
        for _ in range(STEPS):
            page = self.choose.choice(PAGES)
            step = self.choose.choice((self.remap, self.access, self.access, self.invalidate))
            step(page)
            if self.with_stops:
                self.rig.policy.stopped(self.rig.tlb)
        return self.seen


@pytest.mark.parametrize("tlb", POLICIES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_policy_is_legal(tlb: str, seed: int) -> None:
    Story(tlb, seed).tell()


@pytest.mark.parametrize("tlb", POLICIES)
def test_a_policy_repeats_itself(tlb: str) -> None:
    assert Story(tlb, 5).tell() == Story(tlb, 5).tell()


def test_seeds_differ_under_random_only() -> None:
    def differ(tlb: str) -> bool:
        return len({tuple(Story(tlb, seed).tell()) for seed in range(4)}) > 1

    assert {tlb: differ(tlb) for tlb in POLICIES} == {
        "keep": False,
        "drop": False,
        "finite": False,
        "random": True,
        "transitions": False,
        "broadcast": False,
    }


def test_keep_shows_the_oldest_and_drop_the_newest() -> None:
    for tlb in ("keep", "drop"):
        story = Story(tlb, 0)
        page = PAGES[0]
        story.access(page)
        first = story.now[page]
        for _ in range(5):
            story.remap(page)
            story.rig.policy.stopped(story.rig.tlb)
        story.access(page)
        assert story.seen[-1] == (first if tlb == "keep" else story.now[page])


def test_drop_keeps_mappings_for_as_long_as_the_code_runs() -> None:
    story = Story("drop", 0, with_stops=False)
    story.access(PAGES[0])
    before = story.seen[-1]
    story.remap(PAGES[0])
    story.access(PAGES[0])
    assert story.seen[-1] == before
    story.rig.policy.stopped(story.rig.tlb)
    assert sum(len(space) for _, space in story.rig.tlb.spaces()) == 0


@pytest.mark.parametrize("capacity", [1, 3, 8])
def test_finite_holds_no_more_than_its_capacity(capacity: int) -> None:
    policy = Finite(capacity)
    rig = Rig(policy)
    table = rig.table()
    table.map(PAGES[0], 0x1000, 0x1000 * len(PAGES), RWX)
    rig.configure(table)
    for number, page in enumerate(PAGES):
        rig.access(page)
        held = [one for one in PAGES if rig.mmu.tlb.linear_space(rig.mmu.tag).find(one)]
        assert held == PAGES[max(0, number + 1 - capacity) : number + 1]
        assert policy.evicted() == (number >= capacity)
        assert not policy.evicted()


def test_finite_counts_an_invalidated_mapping_no_more() -> None:
    rig = Rig(Finite(2))
    table = rig.table()
    table.map(PAGES[0], 0x1000, 0x3000, RWX)
    rig.configure(table)
    rig.access(PAGES[0])
    rig.tlb.invlpg(0, 0, PAGES[0])
    rig.access(PAGES[0])
    rig.access(PAGES[1])
    space = rig.tlb.linear_space(rig.mmu.tag)
    # The first mapping is the oldest in line, but it is not there to give way for.
    assert space.find(PAGES[1])
    assert len(space) == 2


def test_random_drops_all_some_or_nothing() -> None:
    kept = set()
    for seed in range(40):
        rig = Rig(Random(seed))
        table = rig.table()
        table.map(PAGES[0], 0x1000, 0x1000, RWX)
        for pcid in range(4):
            rig.configure(table, pcid=pcid)
            rig.access(PAGES[0])
        rig.policy.stopped(rig.tlb)
        kept.add(sum(len(space) for _, space in rig.tlb.spaces()))
    assert {0, 4} < kept


def test_transitions_drops_everything_at_a_transition_and_only_there() -> None:
    story = Story("transitions", 0)
    page = PAGES[0]
    story.access(page)
    first = story.now[page]
    story.remap(page)
    story.rig.policy.stopped(story.rig.tlb)
    story.access(page)
    assert story.seen[-1] == first
    story.rig.policy.crossed(story.rig.tlb)
    assert not list(story.rig.tlb.spaces())
    story.access(page)
    assert story.seen[-1] == story.now[page]


Operation = Callable[[Tlb, Rig], None]
INSTRUCTIONS: dict[str, Operation] = {
    "INVLPG": lambda tlb, _: tlb.invlpg(1, 0, PAGES[0]),
    "INVPCID 0": lambda tlb, _: tlb.invpcid_address(1, 0, PAGES[0]),
    "INVPCID 1": lambda tlb, _: tlb.flush_pcid(1, 0, "INVPCID"),
    "INVPCID 2": lambda tlb, _: tlb.flush_vpid(1, "INVPCID"),
    "INVPCID 3": lambda tlb, _: tlb.flush_non_global(1),
    "INVVPID 0": lambda tlb, _: tlb.invvpid_address(1, PAGES[0]),
    "INVVPID 1": lambda tlb, _: tlb.flush_vpid(1, "INVVPID"),
    "INVVPID 2": lambda tlb, _: tlb.invvpid_all(),
    "INVVPID 3": lambda tlb, _: tlb.invvpid_retaining_globals(1),
    "INVEPT 1": lambda tlb, rig: tlb.invept_single(rig.mmu.tag.ep4ta),
    "INVEPT 2": lambda tlb, _: tlb.invept_all(),
}
OTHERS: dict[str, Operation] = {
    "MOV CR3": lambda tlb, _: tlb.flush_pcid(1, 0),
    "MOV CR4": lambda tlb, _: tlb.flush_pcid_and_globals(1, 0, "MOV CR4"),
    "MOV CR0": lambda tlb, _: tlb.flush_vpid(1, "MOV CR0"),
    "page fault": lambda tlb, rig: tlb.page_fault(rig.mmu.tag, PAGES[0]),
    "EPT violation": lambda tlb, rig: tlb.ept_violation(rig.mmu.tag, 0x1000, PAGES[0]),
}


def pair() -> tuple[FollowedTlb, Rig]:
    """Return one processor's TLB, and the rig of another that has used `PAGES`[0]."""
    rig = Rig(make_policy("broadcast", 0, 1), tlb=FollowedTlb)
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(PAGES[0], 0x1000, 0x1000, RWX)
    rig.configure(guest, ept, vpid=1)
    rig.access(PAGES[0])
    one = FollowedTlb(lambda: None)
    assert isinstance(rig.tlb, FollowedTlb)
    broadcast([one, rig.tlb])
    return one, rig


def combined(rig: Rig) -> int:
    return len(rig.tlb.linear_space(rig.mmu.tag))


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_broadcast_invalidates_on_the_other_processor(name: str) -> None:
    one, rig = pair()
    assert combined(rig) == 1
    INSTRUCTIONS[name](one, rig)
    assert combined(rig) == 0


@pytest.mark.parametrize("name", OTHERS)
def test_broadcast_leaves_the_other_processor_what_no_instruction_takes(name: str) -> None:
    one, rig = pair()
    OTHERS[name](one, rig)
    assert combined(rig) == 1


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown TLB policy 'none'"):
        make_policy("none", 0, 0)


def test_processors_with_one_seed_choose_differently() -> None:
    def moments(processor: int) -> list[int]:
        rig = Rig(make_policy("random", 7, processor))
        table = rig.table()
        table.map(PAGES[0], 0x1000, 0x1000, RWX)
        rig.configure(table)
        found = []
        for moment in range(50):
            rig.access(PAGES[0])
            rig.policy.stopped(rig.tlb)
            if not any(len(space) for _, space in rig.tlb.spaces()):
                found.append(moment)
        return found

    assert moments(0) == moments(0)
    assert moments(0) != moments(1)


class Inventive(Keep):
    """A fault: brings back what an operation has dropped."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Space, object]] = {}

    def added(self, tlb: Tlb, space: Space, address: int, mapping: object) -> None:
        self.held.setdefault(address >> 12, (space, mapping))

    def stopped(self, tlb: Tlb) -> None:
        for number, (space, mapping) in self.held.items():
            space.add(number << 12, mapping)  # type: ignore[arg-type]


def test_a_policy_that_brings_mappings_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., object] = lambda *_: Inventive()  # noqa: E731
    monkeypatch.setattr("test_mmu_policies.make_policy", make)
    with pytest.raises(AssertionError):
        Story("keep", 1).tell()
