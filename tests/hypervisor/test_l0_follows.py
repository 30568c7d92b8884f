"""What L0 has worked out from L1's memory follows EPT01; and many roots fit into little memory."""

import pytest
from l0_bench import Bench

from turducken.address import PAGE_SIZE, Gpa1, Gpa2, Hpa
from turducken.cli.entry import run
from turducken.hypervisor import ShadowPolicyName
from turducken.hypervisor.context import Context
from turducken.hypervisor.ept01 import RWX
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs_fields import VmcsField

TARGET = Hpa(0x30_0000)
ROOTS = 0x280_0000

TRANSLATED = [
    ("io-bitmaps", f.IO_BITMAP_A),
    ("io-bitmaps", f.IO_BITMAP_B),
    ("tpr-shadow", f.VIRTUAL_APIC_ADDRESS),
    ("apic-access-exit", f.APIC_ACCESS_ADDRESS),
    ("vmcs-shadowing-reads", f.VMCS_LINK_POINTER),
]


def bench_after(test: str) -> tuple[Bench, Context]:
    """Return an L0 whose last L2 was that of one of lhv's tests."""
    bench = Bench(text=f"tests={test}")
    context = bench.vcpu.nested.current
    assert context is not None
    return bench, context


def enter(bench: Bench, context: Context) -> None:
    """L1 enters the L2 again: VMCS02 is made ready."""
    bench.vcpu.nested._prepare(context, context.vmcs12)
    bench.vcpu.nested._load_guest(context)


@pytest.mark.parametrize(("test", "field"), TRANSLATED, ids=lambda one: getattr(one, "name", one))
@pytest.mark.parametrize("in_l2", [True, False])
def test_translated_addresses_follow_ept01(test: str, field: VmcsField, *, in_l2: bool) -> None:
    bench, context = bench_after(test)
    enter(bench, context)
    page = Gpa1(context.vmcs12.read(field))
    assert context.vmcs02.read(field) == page  # EPT01 is the identity
    bench.vcpu.in_l2 = in_l2
    bench.run(bench.control.map(bench.vcpu, page, PAGE_SIZE, TARGET, RWX))
    if not in_l2:
        enter(bench, context)
    assert context.vmcs02.read(field) == TARGET
    bench.vcpu.in_l2 = in_l2
    bench.run(bench.control.restore(bench.vcpu, page, PAGE_SIZE))
    if not in_l2:
        enter(bench, context)
    assert context.vmcs02.read(field) == page


@pytest.mark.parametrize(
    ("test", "field"), TRANSLATED[:4], ids=lambda one: getattr(one, "name", one)
)
def test_an_address_that_leads_nowhere_leads_to_nothing_of_l1s(test: str, field: VmcsField) -> None:
    """Where L1 has no memory, bitmaps are ones and what is written is lost."""
    bench, context = bench_after(test)
    page = Gpa1(context.vmcs12.read(field))
    bench.run(bench.control.unmap(bench.vcpu, page, PAGE_SIZE))
    enter(bench, context)
    there = context.vmcs02.read(field)
    assert there in bench.hypervisor.frames.region
    if field is not f.VIRTUAL_APIC_ADDRESS:
        assert bench.memory.read(there, PAGE_SIZE) == b"\xff" * PAGE_SIZE


def test_a_bitmap_that_l1_may_only_read_is_read() -> None:
    bench, context = bench_after("io-bitmaps")
    page = Gpa1(context.vmcs12.read(f.IO_BITMAP_A))
    bench.run(bench.control.protect(bench.vcpu, page, PAGE_SIZE, 1))
    enter(bench, context)
    assert context.vmcs02.read(f.IO_BITMAP_A) == page


def test_msr_bitmaps_are_merged_from_where_ept01_leads() -> None:
    bench, context = bench_after("msr-bitmap")
    page = Gpa1(context.vmcs12.read(f.MSR_BITMAPS))
    bench.memory.write(TARGET, b"\xff" * PAGE_SIZE)
    bench.run(bench.control.map(bench.vcpu, page, PAGE_SIZE, TARGET, RWX))
    enter(bench, context)
    merged = context.vmcs02.read(f.MSR_BITMAPS)
    assert bench.memory.read(merged, PAGE_SIZE) == b"\xff" * PAGE_SIZE
    bench.memory.write(TARGET, bytes(PAGE_SIZE))
    enter(bench, context)
    own = bench.memory.read(bench.hypervisor.msr_bitmap, PAGE_SIZE)
    assert bench.memory.read(merged, PAGE_SIZE) == own


# Many roots


def roots_with_a_page(bench: Bench, count: int) -> list[int]:
    """Return EPT12s that map Gpa2 1000h each to another page."""
    roots = []
    for number in range(count):
        root = ROOTS + number * 4 * PAGE_SIZE
        for level in range(4):
            table = root + level * PAGE_SIZE
            bench.memory.write(table, bytes(PAGE_SIZE))
            below = table + PAGE_SIZE if level < 3 else (0x240_0000 + number * PAGE_SIZE) | 0x30
            bench.memory.store(table + (8 if level == 3 else 0), 8, below | RWX)
        roots.append(root)
    return roots


@pytest.mark.parametrize("policy", ["cached", "eager", "lazy"])
def test_hundreds_of_roots_in_turn_in_little_memory(policy: ShadowPolicyName) -> None:
    bench = Bench(policy)
    frames = bench.vcpu.shadow_parts.frames
    frames.limit = frames.in_use + 40
    roots = roots_with_a_page(bench, 300)
    for _ in range(2):
        for number, root in enumerate(roots):
            bench.vcpu.shadow.leave()
            bench.use_ept12(root=root)
            assert bench.fill(Gpa2(0x1000)) == 0x240_0000 + number * PAGE_SIZE
            assert frames.in_use <= frames.limit
    assert (bench.vcpu.shadow.statistics.evictions > 300) == (policy != "lazy")


def test_roots_that_are_used_again_are_kept() -> None:
    bench = Bench("cached")
    roots = roots_with_a_page(bench, 16)
    for _ in range(3):
        for root in roots:
            bench.use_ept12(root=root)
            if bench.lookup02(Gpa2(0x1000)) is None:
                bench.fill(Gpa2(0x1000))
    fills = bench.vcpu.shadow.statistics.fills
    for root in roots:
        bench.use_ept12(root=root)
        assert bench.lookup02(Gpa2(0x1000)) is not None
    assert bench.vcpu.shadow.statistics.fills == fills
    assert bench.vcpu.shadow.statistics.evictions == 0


# What L0 needs


def test_a_processor_that_l0_cannot_use_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "lhv-amd64", "--profile", "minimal", "--mode", "nested"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
