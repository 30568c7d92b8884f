"""L1 and L2 on two processors do what they like, in any order; Hypothesis looks for an order that
shows L0 wrong.

L2's accesses go through a processor's MMU and its TLB, which keeps all that it may. The judgement
is a naive one: what an access reaches is EPT01(EPT12(x)), EPT01 as it is now, EPT12 as it was at
some moment since this processor's L1 executed INVEPT for it; L1 gets a violation only of what EPT12
now refuses, and a misconfiguration only where there is one.
"""

import functools
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from l0_bench import Bench
from test_l0_random import MISCONFIGURED, Naive01, Target, naive12, naive_type

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor import POLICIES, Hypervisor, ShadowPolicyName, Vcpu, l2_exits
from turducken.hypervisor.memory_control import Change, Map, Protect, Restore, SetType, Unmap
from turducken.hypervisor.shadow.cached import CachedShadow
from turducken.hypervisor.shadow.compose import EptView
from turducken.hypervisor.shadow.policy import Root12
from turducken.hypervisor.shadow.writeprotect import WriteProtectShadow
from turducken.mmu.faults import EptViolation
from turducken.mmu.mmu import EptSetup, Mmu
from turducken.mmu.policy import Keep
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.mmu.tlb import Mapping
from turducken.paging.formats import EPT, Features
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.interface import Wait
from turducken.zoo.planted import PLANTED

GPA2S = [0x1000, 0x2000, 0x60_1000]
PAGES = [n * PAGE_SIZE for n in range(0x2400, 0x2404)]
TABLES = range(0x280_0000, 0x3F0_0000, PAGE_SIZE)
RIGHT = {READ: 1, WRITE: 2, FETCH: 4}
TRIES = 30
PLENTY = 1000
LITTLE = 6
"""Enough for one EPT02 with two of three addresses."""
CPUS = 2

ADDRESS = st.sampled_from(GPA2S)
CPU = st.integers(0, CPUS - 1)
ROOT = st.integers(0, 1)
PAGE = st.sampled_from(PAGES)
RIGHTS = st.sampled_from((7, 5, 3, 1))
LOW_BITS = [kind << 3 | right for kind in range(8) for right in (2, 7, 6, 4, 5)]


@functools.cache
def bench_for(policy: ShadowPolicyName, fault: str | None) -> tuple[Bench, list[int]]:
    """An L0 that is used again and again, each time with tables of its own."""
    bench = Bench(policy, cpus=CPUS, l0=Hypervisor if fault is None else PLANTED[fault])
    for vcpu in bench.hypervisor.vcpus:
        vcpu.in_guest = False
    return bench, list(TABLES)


class Cpu:
    """One processor, with L1 or L2 on it."""

    def __init__(self, bench: Bench, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        processor = bench.rig.machine.processors[vcpu.index]
        self.mmu = Mmu(bench.memory, processor.tlb, Keep())
        self.format = EPT.bind(Features(maxphyaddr=vcpu.maxphyaddr))
        context = vcpu.nested.current
        assert context is not None
        self.context = context
        self.root = 0

    def use(self, root: int) -> None:
        """L1 enters L2 under this EPT12."""
        self.root = root
        self.context.root12 = Root12(root | 0x1E, EptView(self.vcpu.ept_features12))
        self.enter()

    def enter(self) -> None:
        vcpu = self.vcpu
        vcpu.serve_requests()
        assert self.context.root12 is not None
        eptp = vcpu.shadow.enter(self.context.root12)
        self.context.vmcs02.write(f.EPTP, eptp)
        vcpu.in_l2 = True
        vcpu.select(self.context.vmcs02)
        self.configure()

    def configure(self) -> None:
        """The processor follows VMCS02."""
        eptp = self.context.vmcs02.read(f.EPTP)
        setup = EptSetup(self.format, eptp & -PAGE_SIZE & (1 << 52) - 1, accessed_dirty=False)
        self.mmu.configure(
            paging=None, root=0, mode=self.mmu.mode, vpid=self.vcpu.vpids.of(1), pcid=0, ept=setup
        )

    def leave(self) -> None:
        """L1 gets some exit."""
        if self.vcpu.in_l2:
            self.vcpu.nested.exit_to_l1(ExitReason.CPUID, 0)


class Nested(RuleBasedStateMachine):
    policy: ShadowPolicyName
    fault: str | None = None
    frames: int | None = None
    """What each processor's EPT02s may have, if not plenty."""

    @initialize()
    def begin(self) -> None:
        self.bench, self.free = bench_for(self.policy, self.fault)
        hypervisor = self.bench.hypervisor
        for vcpu in hypervisor.vcpus:
            vcpu.shadow_parts.frames.limit = self.frames or PLENTY
        self.cpus = [Cpu(self.bench, one) for one in hypervisor.vcpus]
        self.wait(
            hypervisor.control.apply(
                self.cpus[0].vcpu, [Restore(Gpa1(p), PAGE_SIZE) for p in PAGES]
            )
        )
        hypervisor.watch_tables.has_aliases = False
        self.ept01 = [Naive01(hypervisor.frames.region) for _ in self.cpus]
        if len(self.free) < 400:
            self.free.extend(TABLES)
        self.roots = [self.table(), self.table()]
        self.said: dict[tuple[int, int, int], set[Target]] = {}
        for one in self.cpus:
            one.leave()
            one.use(self.roots[0])
        for root in range(len(self.roots)):
            for number, gpa2 in enumerate(GPA2S):
                self.write_entry(0, root, gpa2, 12, PAGES[(root + number) % len(PAGES)] | 0x37)

    def wait(self, waiting: Generator[Wait, None, None]) -> None:
        """Run something; the other processors are in L0 and do what they are asked for."""
        for _ in waiting:
            for one in self.cpus:
                one.vcpu.serve_requests()

    def table(self) -> int:
        page = self.free.pop()
        self.store(self.cpus[0].vcpu, page, bytes(PAGE_SIZE))
        return page

    def store(self, by: Vcpu, where: int, data: bytes) -> None:
        """A store by L1 on a processor: where the page is watched, it exits first.

        The processor stays in its guest until its next exit.
        """
        tables = self.bench.hypervisor.watch_tables
        page = Gpa1(where & -PAGE_SIZE)
        if by.ept01.is_withheld(page):
            self.wait(tables.release(by, frozenset({page})))
        self.bench.memory.write(where, data)

    def note(self) -> None:
        for cpu in range(CPUS):
            for root in self.roots:
                for gpa2 in GPA2S:
                    self.note_one(cpu, root, gpa2)

    def note_one(self, cpu: int, root: int, gpa2: int) -> None:
        inner = naive12(self.bench, root, gpa2)
        if isinstance(inner, Target):
            self.said.setdefault((cpu, root, gpa2), set()).add(inner)

    def outer(self, cpu: int, inner: Target) -> Target | None:
        vcpu = self.cpus[cpu].vcpu
        outer = self.ept01[cpu].at(inner.page, vcpu.ept01.types.type_of(inner.page))
        if outer is None:
            return None
        return Target(outer.page, inner.rights & outer.rights, naive_type(inner.kind, outer.kind))

    # L1

    def in_l1(self, cpu: int) -> Cpu:
        """Let L1 run on a processor, which ends what it was writing there."""
        one = self.cpus[cpu]
        one.vcpu.serve_requests()
        self.bench.hypervisor.watch_tables.close(one.vcpu)
        one.leave()
        return one

    @rule(cpu=CPU, root=ROOT, gpa2=ADDRESS, page=PAGE, right=RIGHTS)
    def l1_maps_a_page(self, cpu: int, root: int, gpa2: int, page: int, right: int) -> None:
        self.write_entry(cpu, root, gpa2, 12, page | 0x30 | right)

    @rule(cpu=CPU, root=ROOT, gpa2=ADDRESS, low=st.sampled_from(LOW_BITS), l0=st.booleans())
    def l1_writes_any_leaf(self, cpu: int, root: int, gpa2: int, low: int, l0: bool) -> None:
        hidden = self.ept01[cpu].hidden
        self.write_entry(cpu, root, gpa2, 12, (hidden.start if l0 else PAGES[0]) | low & ~0x80)

    @rule(cpu=CPU, root=ROOT, gpa2=ADDRESS, shift=st.sampled_from((39, 30, 21, 12)), right=RIGHTS)
    def l1_changes_rights(self, cpu: int, root: int, gpa2: int, shift: int, right: int) -> None:
        where = self.grow(cpu, root, gpa2, shift)
        if where is not None:
            entry = self.bench.memory.load(where, 8)
            self.write_entry(cpu, root, gpa2, shift, entry & ~7 | right if entry & ~7 else 0)

    @rule(cpu=CPU, root=ROOT, gpa2=ADDRESS, shift=st.sampled_from((39, 30, 21, 12)))
    def l1_clears_an_entry(self, cpu: int, root: int, gpa2: int, shift: int) -> None:
        self.write_entry(cpu, root, gpa2, shift, 0)

    @rule(cpu=CPU, root=ROOT, gpa2=ADDRESS, right=RIGHTS)
    def l1_maps_a_large_page(self, cpu: int, root: int, gpa2: int, right: int) -> None:
        self.write_entry(cpu, root, gpa2, 21, 0x240_0000 | 0xB0 | right)

    @rule(cpu=CPU, one=ROOT, gpa2=ADDRESS)
    def l1_shares_a_table(self, cpu: int, one: int, gpa2: int) -> None:
        """Both roots lead to the same tables from some level on."""
        where = self.grow(cpu, one, gpa2, 39)
        assert where is not None
        entry = self.bench.memory.load(where, 8)
        self.write_entry(cpu, 1 - one, gpa2, 39, entry)

    def write_entry(self, cpu: int, root: int, gpa2: int, shift: int, value: int) -> None:
        one = self.in_l1(cpu)
        where = self.grow(cpu, root, gpa2, shift)
        if where is not None:
            self.store(one.vcpu, where, value.to_bytes(8, "little"))
            self.note()

    def grow(self, cpu: int, root: int, gpa2: int, shift: int) -> int | None:
        """Return where an entry is, with the tables above it; None below a large page."""
        table = self.roots[root]
        for level in (39, 30, 21, 12):
            where = table + (gpa2 >> level & 511) * 8
            if level == shift:
                return where
            entry = self.bench.memory.load(where, 8)
            if entry & 0x80:
                return None
            if not entry & ~0xFFF:
                entry = self.table() | 7
                self.store(self.in_l1(cpu).vcpu, where, entry.to_bytes(8, "little"))
                self.note()
            table = entry & ~0xFFF
        raise AssertionError

    @rule(cpu=CPU, root=st.sampled_from((0, 1, None)))
    def l1_executes_invept(self, cpu: int, root: int | None) -> None:
        one = self.in_l1(cpu)
        address = None if root is None else self.roots[root]
        one.vcpu.shadow.invept(address)
        for key in list(self.said):
            if key[0] == cpu and address in (None, key[1]):
                del self.said[key]
        self.note()
        one.enter()

    @rule(cpu=CPU, root=ROOT)
    def l1_enters_another_l2(self, cpu: int, root: int) -> None:
        self.in_l1(cpu).use(self.roots[root])

    # L0

    @rule(cpu=CPU, page=PAGE, place=PAGE, right=RIGHTS, what=st.integers(0, 4), alone=st.booleans())
    def l0_changes_ept01(
        self, cpu: int, page: int, place: int, right: int, what: int, alone: bool
    ) -> None:
        change: Change = (
            Unmap(Gpa1(page), PAGE_SIZE),
            Protect(Gpa1(page), PAGE_SIZE, right),
            Map(Gpa1(page), PAGE_SIZE, Hpa(place), right),
            SetType(Gpa1(page), PAGE_SIZE, MemoryType.UC),
            Restore(Gpa1(page), PAGE_SIZE),
        )[what]
        by = self.cpus[cpu].vcpu
        self.wait(self.bench.control.apply(by, [change], [cpu] if alone else None))
        for index in [cpu] if alone else range(CPUS):
            self.follow(self.ept01[index], change)

    @staticmethod
    def follow(ept01: Naive01, change: Change) -> None:
        page = int(change.start)
        old = ept01.at(page, MemoryType.WB)
        match change:
            case Unmap():
                ept01.changed[page] = None
            case Map():
                ept01.changed[page] = Target(int(change.target), change.rights, MemoryType.WB)
            case Restore():
                ept01.changed.pop(page, None)
            case Protect() if old is not None:
                ept01.changed[page] = Target(old.page, change.rights, old.kind)
            case SetType() if old is not None:
                ept01.changed[page] = Target(old.page, old.rights, int(change.kind))

    # L2

    @rule(cpu=CPU)
    def l2_uses_everything(self, cpu: int) -> None:
        for gpa2 in GPA2S:
            for kind in RIGHT:
                self.access(cpu, gpa2, kind)

    @rule(cpu=CPU, gpa2=ADDRESS, kind=st.sampled_from((READ, WRITE, FETCH)))
    def l2_accesses(self, cpu: int, gpa2: int, kind: int) -> None:
        self.access(cpu, gpa2, kind)

    def access(self, cpu: int, gpa2: int, kind: int) -> None:
        one = self.cpus[cpu]
        self.bench.hypervisor.watch_tables.close(one.vcpu)
        if not one.vcpu.in_l2:
            one.enter()
        for _ in range(TRIES):
            one.vcpu.serve_requests()
            found = one.mmu.guest_physical(gpa2, kind, None, is_final=True)
            if isinstance(found, Mapping):
                self.judge_mapping(cpu, gpa2, kind, found)
                return
            assert isinstance(found, EptViolation)
            reason = self.exit(one, found)
            if reason is not None:
                self.judge_reflected(cpu, gpa2, kind, reason)
                return
        raise AssertionError("the access never comes to an end")

    def exit(self, one: Cpu, found: EptViolation) -> int | None:
        """Let L0 handle the violation; return the exit reason that L1 sees, if it sees one."""
        vmcs02 = one.context.vmcs02
        vmcs02.write(f.EXIT_REASON, ExitReason.EPT_VIOLATION)
        vmcs02.write(f.EXIT_QUALIFICATION, found.qualification)
        vmcs02.write(f.GUEST_PHYSICAL_ADDRESS, found.gpa)
        vmcs02.write(f.IDT_VECTORING_INFORMATION, 0)
        handling = l2_exits.on_exit(one.vcpu)
        if handling is not None:
            self.wait(handling)
        if one.vcpu.in_l2:
            return None
        return one.context.vmcs12.read(f.EXIT_REASON)

    def judge_mapping(self, cpu: int, gpa2: int, kind: int, found: Mapping) -> None:
        page = found.page | gpa2 & (1 << found.shift) - 1 & -PAGE_SIZE
        assert page not in self.ept01[cpu].hidden
        right = RIGHT[kind]
        assert found.ept_all_of & right
        inners = self.said.get((cpu, self.cpus[cpu].root, gpa2), set())
        outers = [self.outer(cpu, one) for one in inners]
        sound = [one for one in outers if one is not None and one.rights & right]
        assert (page, found.ept_leaf >> 3 & 7) in [(one.page, one.kind) for one in sound]

    def judge_reflected(self, cpu: int, gpa2: int, kind: int, reason: int) -> None:
        inner = naive12(self.bench, self.cpus[cpu].root, gpa2)
        if inner == MISCONFIGURED:
            assert reason == ExitReason.EPT_MISCONFIGURATION
            return
        assert reason == ExitReason.EPT_VIOLATION
        if isinstance(inner, Target):
            outer = self.outer(cpu, inner)
            assert outer is None or not outer.rights & RIGHT[kind]


@pytest.mark.parametrize("policy", POLICIES)
def test_any_order(policy: ShadowPolicyName) -> None:
    run_machine(policy, examples=50, steps=50)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_order_in_little_memory(policy: ShadowPolicyName) -> None:
    run_machine(policy, examples=30, steps=50, frames=LITTLE)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_any_order_at_length(policy: ShadowPolicyName) -> None:
    run_machine(policy, examples=1000, steps=60)


@pytest.mark.parametrize(
    "fault",
    [
        "wrong_memory_type",
        "dropped_permission",
        "leaf_permissions_only",
        "write_only_is_violation",
        "shadow_left_behind",
        "flush_of_wrong_root",
    ],
)
def test_a_planted_fault_is_found(fault: str) -> None:
    with pytest.raises(AssertionError):
        run_machine("cached", examples=400, steps=50, fault=fault)


def test_an_ept02_that_invept_does_not_empty_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedShadow, "invept", lambda self, ep4ta: None)
    with pytest.raises(AssertionError):
        run_machine("cached", examples=400, steps=50)


def test_a_table_that_is_not_followed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriteProtectShadow, "tables_changed", lambda self, pages: None)
    with pytest.raises(AssertionError):
        run_machine("writeprotect", examples=400, steps=50)


def run_machine(
    policy: ShadowPolicyName,
    *,
    examples: int,
    steps: int,
    fault: str | None = None,
    frames: int | None = None,
) -> None:
    wanted = {"policy": policy, "fault": fault, "frames": frames}
    machine = type(f"Nested_{policy}", (Nested,), wanted)
    test = machine.TestCase  # type: ignore[attr-defined]
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate,),  # a failure names its steps; shrinking takes minutes
    )
    test("runTest").runTest()
