"""Faults planted in L0, seen from outside: each is noticed, and nothing where none is planted.

Every fault is also the faulty form of a scenario of the zoo (tests/zoo).
"""

from collections.abc import Callable

import pytest
from l0_bench import Bench
from nested_rig import Rig, Run, StuckError

from turducken.address import PAGE_SIZE, Gpa1, Gpa2, Hpa
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor import Hypervisor, Offer
from turducken.hypervisor.ept01 import RWX
from turducken.paging import rights
from turducken.vmx import vmcs_fields as f
from turducken.zoo.planted import PLANTED

LIMIT = 60_000_000


def type_is_wrong(l0: type[Hypervisor]) -> bool:
    bench = Bench(l0=l0)
    bench.map12(0x1234000, 0x1234000, RWX, MemoryType.WT)
    word = bench.attributes02(Gpa2(0x1234000))
    return rights.MEMORY_TYPE.get(word) != MemoryType.WT


def change_is_not_followed(l0: type[Hypervisor]) -> bool:
    bench = Bench(l0=l0)
    bench.map12(0x1234000, 0x1234000)
    assert bench.fill(Gpa2(0x1234000)) is not None
    bench.run(bench.control.unmap(bench.vcpu, Gpa1(0x1234000), PAGE_SIZE))
    return bench.lookup02(Gpa2(0x1234000)) is not None


def addresses_are_not_followed(l0: type[Hypervisor]) -> bool:
    bench = Bench(l0=l0, text="tests=io-bitmap*")
    context = bench.vcpu.nested.current
    assert context is not None
    page = context.vmcs12.read(f.IO_BITMAP_A)
    bench.vcpu.in_l2 = True
    target = Hpa(0x30_0000)
    bench.run(bench.control.map(bench.vcpu, Gpa1(page), PAGE_SIZE, target, RWX))
    return context.vmcs02.read(f.IO_BITMAP_A) != target


def one_shadow_stays(l0: type[Hypervisor]) -> bool:
    bench = Bench(l0=l0)
    bench.map12(0x1234000, 0x1234000)
    for flags in (False, True):
        bench.use_ept12(accessed_dirty=flags)
        assert bench.fill(Gpa2(0x1234000)) is not None
    bench.vcpu.shadow.invept(bench.ept12)
    stay = []
    for flags in (False, True):
        bench.use_ept12(accessed_dirty=flags)
        stay.append(bench.lookup02(Gpa2(0x1234000)))
    return stay != [None, None]


def vpids_are_shared(l0: type[Hypervisor]) -> bool:
    bench = Bench(l0=l0)
    vpids = bench.vcpu.vpids
    return len({vpids.own, vpids.of(0), vpids.of(1), vpids.of(2)}) < 4


def pdptes_are_wrong(l0: type[Hypervisor]) -> bool:
    """Tell whether tests of lhv's fail where an L2 with PAE paging has no EPT, or L0 does."""
    offer = Offer(ept=False, unrestricted_guest=False)
    rig = Rig(Run("lhv-i386-pae", "tests=mode-*,vmcall", l0=l0, offer=offer))
    rig.watch_exits()
    try:
        text = rig.run(LIMIT)
    except StuckError:
        return True
    return "not ok" in text or "tests passed" not in text


NOTICES: dict[str, Callable[[type[Hypervisor]], bool]] = {
    "wrong_memory_type": type_is_wrong,
    "shadow_left_behind": change_is_not_followed,
    "addresses_left_behind": addresses_are_not_followed,
    "one_of_several_shadows": one_shadow_stays,
    "shared_vpid": vpids_are_shared,
    "pdptes_from_wrong_cr3": pdptes_are_wrong,
}


@pytest.mark.parametrize("name", NOTICES)
def test_a_planted_fault_is_noticed(name: str) -> None:
    assert NOTICES[name](PLANTED[name])


@pytest.mark.parametrize("name", NOTICES)
def test_nothing_is_noticed_without_it(name: str) -> None:
    assert not NOTICES[name](Hypervisor)
