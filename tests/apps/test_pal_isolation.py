"""Hostile code on all other processors never reads or changes a byte of a registered PAL."""

import itertools

import pytest
from pal_demo import IMAGES, SHARINGS, Demo, assert_passed

from turducken.address import PAGE_SIZE
from turducken.apps.trustvisor.app import Sharing
from turducken.apps.trustvisor.pal import LentPage, Pal, PalState
from turducken.hypervisor import ShadowPolicyName, Vcpu

ATTACKS = tuple(f"isolation-pal-{a}-hostile-{b}" for a in ("l1", "l2") for b in ("l1", "l2"))
SEEDS = 200


def attack(seed: int, tlb: str) -> None:
    """One seed, with the kind of attack, the image and the sharing model taken in turn."""
    kinds = tuple(itertools.product(ATTACKS, IMAGES, SHARINGS))
    tests, image, sharing = kinds[seed % len(kinds)]
    cpus = 2 + seed % 2
    assert_passed(Demo(tests, image, cpus=cpus, sharing=sharing, tlb=tlb, seed=seed).run())


@pytest.mark.parametrize("tlb", ["keep", "random"])
@pytest.mark.parametrize("seed", [3, 16])
def test_nobody_reads_or_writes_a_registered_pal(seed: int, tlb: str) -> None:
    attack(seed, tlb)


@pytest.mark.slow
@pytest.mark.parametrize("tlb", ["keep", "random"])
@pytest.mark.parametrize("first", range(1, SEEDS, 10))
def test_nobody_reads_or_writes_a_registered_pal_with_any_schedule(first: int, tlb: str) -> None:
    for seed in range(first, first + 10):
        attack(seed, tlb)


@pytest.mark.parametrize("tests", [ATTACKS[0], ATTACKS[1]])
def test_without_the_shootdown_they_do(tests: str) -> None:
    """What shows that the attacks would notice."""
    result = Demo(tests, shootdown=False).run()
    assert result.exit_status == 1
    assert "reads of a registered PAL" in result.console
    assert "writes to a registered PAL" in result.console


class Watcher:
    """Looks, after every turn, at all tables and TLBs for ways to the pages of ready PALs."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.looked = 0
        self.ways: list[str] = []

    def turn(self) -> None:
        registry = getattr(self.demo.app, "registry", None)  # not before L0 has started
        for pal in registry.pals.values() if registry is not None else ():
            if pal.state is PalState.CHANGING:
                continue
            self.looked += 1
            for page in pal.pages:
                for vcpu in self.demo.system.hypervisor.vcpus:
                    self._look(pal, page, vcpu)

    def _look(self, pal: Pal, page: LentPage, vcpu: Vcpu) -> None:
        if vcpu.ept01.find(page.gpa1) is not None:
            self.ways.append(f"EPT01 of {vcpu.index}: {page}")
        context = vcpu.nested.current
        if context is not None and context.root12 is not None:
            table = vcpu.shadow.table_of(context.root12)
            for gpa, entry in table.leaves() if table is not None else ():
                leads = entry.value & -PAGE_SIZE & (1 << 52) - 1
                if entry.is_present and leads <= page.hpa < leads + (1 << entry.shift):
                    self.ways.append(f"EPT02 of {vcpu.index} at {gpa:#x}: {page}")
        if not vcpu.requests:
            self._look_at_tlb(pal, page, vcpu)

    def _look_at_tlb(self, pal: Pal, page: LentPage, vcpu: Vcpu) -> None:
        processor = self.demo.system.machine.processors[vcpu.index]
        assert pal.space is not None
        for tag, space in processor.tlb.spaces():
            if getattr(tag, "ep4ta", tag) == pal.space.eptp & -PAGE_SIZE:
                continue
            for mapping in itertools.chain(*(one.values() for one in space.pages.values())):
                if mapping.page <= page.hpa < mapping.page + (1 << mapping.shift):
                    self.ways.append(f"TLB of {vcpu.index} {tag}: {page}")


@pytest.mark.parametrize(
    ("sharing", "shadow"), [(Sharing.ONE, "eager"), (Sharing.COPIED, "cached")]
)
def test_no_table_and_no_tlb_leads_to_a_registered_pal(
    sharing: Sharing, shadow: ShadowPolicyName
) -> None:
    demo = Demo(ATTACKS[1], sharing=sharing, shadow=shadow)
    watcher = Watcher(demo)
    assert_passed(demo.run(watcher.turn))
    assert watcher.looked > 5
    assert not watcher.ways[:3]


def test_the_watcher_notices_a_missing_shootdown() -> None:
    demo = Demo(ATTACKS[0], shootdown=False)
    watcher = Watcher(demo)
    demo.run(watcher.turn)
    assert any("TLB of 1" in one for one in watcher.ways)
