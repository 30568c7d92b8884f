"""MTRRs as memory types, VPIDs, and the explanation of an address."""

import pytest
from l0_bench import Bench
from nested_rig import Rig, Run

from turducken.address import GIB, MIB, PAGE_SIZE, Gpa1, Gpa2
from turducken.arch import msr
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor.events import Exited, ShadowFilled
from turducken.hypervisor.explain import explain
from turducken.hypervisor.mtrr import Mtrrs
from turducken.hypervisor.vpids import Vpids

UC, WC, WT, WP, WB = (int(getattr(MemoryType, one)) for one in ("UC", "WC", "WT", "WP", "WB"))
ENABLED, FIXED = 1 << 11, 1 << 10


def mtrrs(values: dict[int, int], variable: int = 4) -> Mtrrs:
    values = {msr.IA32_MTRRCAP: variable | 1 << 8, **values}
    return Mtrrs(lambda index: values.get(index, 0), 36)


def variable(number: int, base: int, size: int, kind: int) -> dict[int, int]:
    mask = (1 << 36) - size | 1 << 11
    first = msr.IA32_MTRR_PHYSBASE0 + 2 * number
    return {first: base | kind, first + 1: mask}


def test_disabled_mtrrs_make_everything_uc() -> None:
    types = mtrrs({msr.IA32_MTRR_DEF_TYPE: WB}).map()
    assert types.type_of(0) == types.type_of(GIB) == UC
    assert types.uniform_type(0, 1 << 36) == UC


def test_default_variable_and_fixed_ranges() -> None:
    values = {
        msr.IA32_MTRR_DEF_TYPE: ENABLED | FIXED | UC,
        msr.IA32_MTRR_FIX64K_00000: WB * 0x0101_0101_0101_0101,
        msr.IA32_MTRR_FIX16K_80000: WB * 0x0101_0101_0101_0101,
        msr.IA32_MTRR_FIX4K_C0000: 0x05_05_05_05_05_05_05_05,
        **variable(0, 0, 256 * MIB, WB),
    }
    types = mtrrs(values).map()
    expected = {0: WB, 0x9FFFF: WB, 0xA0000: UC, 0xC0000: WP, 0xC8000: UC, MIB: WB, 256 * MIB: UC}
    assert {address: types.type_of(address) for address in expected} == expected
    assert types.uniform_type(0, 2 * MIB) is None
    assert types.uniform_type(2 * MIB, 2 * MIB) == WB


@pytest.mark.parametrize(
    ("first", "second", "both"), [(WB, UC, UC), (WB, WT, WT), (WT, WB, WT), (WB, WB, WB)]
)
def test_overlapping_ranges(first: int, second: int, both: int) -> None:
    values = {
        msr.IA32_MTRR_DEF_TYPE: ENABLED | WP,
        **variable(0, 0, 16 * MIB, first),
        **variable(1, 8 * MIB, 8 * MIB, second),
    }
    types = mtrrs(values).map()
    assert [types.type_of(one * MIB) for one in (0, 8, 16)] == [first, both, WP]


def test_no_two_guests_share_a_vpid() -> None:
    flushed: list[int] = []
    vpids = Vpids(flushed.append)
    seen = {vpids.own, vpids.of(0)} | {vpids.of(vpid12) for vpid12 in range(1, 0x1_0000)}
    # There are two more guests than VPIDs: the ones given first were taken again, and flushed.
    assert len(seen) == 0xFFFF
    assert 0 not in seen
    assert len(flushed) == 2
    assert len({vpids.own, vpids.of(0), *vpids.all_known()}) == 2 + len(vpids.all_known())


def test_an_explanation_goes_through_all_three_tables() -> None:
    bench = Bench()
    bench.map12(0x1234000, 0x1235000, 5, MemoryType.WT)
    bench.fill(Gpa2(0x1234008))
    found = explain(bench.hypervisor, Gpa2(0x1234008))
    assert [one.table for one in found.stages] == ["EPT12", "EPT01", "EPT02"]
    assert [one.output for one in found.stages] == [0x1235008] * 3
    assert [one.rights for one in found.stages] == ["R-X", "RWX", "R-X"]
    assert [one.memory_type for one in found.stages] == ["WT", "WB", "WT"]
    assert found.host_physical == 0x1235008
    assert not found.is_past
    entry = found.stages[0].entries[-1]
    assert bench.vcpu.memory.load(entry.address, 8) == entry.value


def test_an_explanation_of_nothing() -> None:
    bench = Bench()
    found = explain(bench.hypervisor, Gpa2(0x7777_0000))
    assert found.stages[0].outcome == "not present"
    assert found.host_physical is None
    hidden = bench.hypervisor.frames.region.start
    bench.map12(0x1234000, hidden)
    found = explain(bench.hypervisor, Gpa2(0x1234000))
    assert found.stages[0].output == hidden
    assert found.stages[1].output is None
    assert found.stages[2].output is None


def test_a_watched_address_is_explained_after_it_was_dropped() -> None:
    rig = Rig(Run(text="tests=ept-note-page", shadow="lazy"))
    rig.hypervisor.watch(0x1234000)
    rig.run()
    found = explain(rig.hypervisor, Gpa2(0x1234000))
    assert found.is_past
    assert found.stages[2].output == found.host_physical


def test_events_tell_of_exits_and_fills() -> None:
    rig = Rig(Run(text="tests=ept-note-page"))
    seen: list[object] = []
    rig.hypervisor.events.subscribers.append(seen.append)
    rig.run()
    fills = [one for one in seen if isinstance(one, ShadowFilled)]
    exits = [one for one in seen if isinstance(one, Exited)]
    assert any(one.gpa2 == 0x1234000 and one.shift == 12 for one in fills)
    assert {one.level for one in exits} == {1, 2}
    assert {one.handler for one in exits if one.level == 2} == {"L0", "L1"}
    counted = rig.hypervisor.vcpus[0].statistics
    assert sum(counted.exits_l2.values()) == sum(one.level == 2 for one in exits)


def test_l1_mtrr_writes_reach_ept01() -> None:
    bench = Bench()
    vcpu = bench.vcpu
    place = vcpu.ept01.find(Gpa1(0x1234000))
    assert place is not None
    default = vcpu.processor.rdmsr(msr.IA32_MTRR_DEF_TYPE) or 0
    assert vcpu.write_msr(msr.IA32_MTRR_DEF_TYPE, default & ~ENABLED)
    place = vcpu.ept01.find(Gpa1(0x1234000))
    assert place is not None
    assert place.entry >> 3 & 7 == UC
    assert vcpu.write_msr(msr.IA32_MTRR_DEF_TYPE, default)
    assert not vcpu.write_msr(msr.IA32_MTRR_DEF_TYPE, 0xFF)


def test_l1_cannot_move_its_apic_over_l0() -> None:
    bench = Bench()
    base = bench.vcpu.processor.rdmsr(msr.IA32_APIC_BASE) or 0
    hidden = bench.hypervisor.frames.region.start + 4 * PAGE_SIZE
    assert not bench.vcpu.write_msr(msr.IA32_APIC_BASE, hidden | base & 0xFFF)
