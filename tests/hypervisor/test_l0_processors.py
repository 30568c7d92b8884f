"""Several processors: EPT01 changed under guests that run, and requests between processors."""

from collections.abc import Generator

import pytest
from nested_rig import Rig, Run

from turducken.address import PAGE_SIZE, Gpa1
from turducken.cpu.processor import Processor
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.hypervisor.ept01 import RWX, R
from turducken.hypervisor.events import Ept01Changed, Event, Shootdown
from turducken.hypervisor.vcpu import Handling, Vcpu
from turducken.machine.machine import Outcome
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.interface import Wait

VICTIM = Gpa1(0x300_0000)
SOME = "tests=ept-remap-*,ept-map-*,ept-switch-*,vmcall,exception-exit"


class Changer:
    """On every few CPUID exits of L1's boot processor, change EPT01 and look at all processors."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.rounds = 0
        self.waited = 0
        handlers = dict(rig.hypervisor.l1_handlers)
        for reason in (ExitReason.VMPTRLD, ExitReason.INVEPT):
            handlers[reason] = self._then_change(handlers[reason])
        rig.hypervisor.l1_handlers = handlers
        rig.hypervisor.events.subscribers.append(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, Shootdown):
            self.waited += len(event.waited)

    def _then_change(self, handler: object) -> object:
        def handle(vcpu: Vcpu) -> Handling:
            handling = handler(vcpu)  # type: ignore[operator]
            assert handling is None
            return self._change(vcpu)

        return handle

    def _change(self, vcpu: Vcpu) -> Generator[Wait, None, None]:
        control = self.rig.hypervisor.control
        self.rounds += 1
        self.use(vcpu)
        yield from control.protect(vcpu, VICTIM, PAGE_SIZE, R)
        self.nobody_has(right=2)
        yield from control.unmap(vcpu, VICTIM, PAGE_SIZE)
        self.nobody_has(right=1)
        yield from control.restore(vcpu, VICTIM, PAGE_SIZE)

    def use(self, vcpu: Vcpu) -> None:
        """Let every processor cache the page, as it may at any time."""
        for processor in self.rig.machine.processors:
            if processor.guest is not None and processor.mmu.ept is not None:
                processor.mmu.guest_physical(VICTIM, 0, None, is_final=True)

    def nobody_has(self, right: int) -> None:
        for processor in self.rig.machine.processors:
            for _, space in processor.tlb.spaces():
                mapping = space.find(VICTIM)
                assert mapping is None or not mapping.ept_all_of & right


@pytest.mark.parametrize("cpus", [2, 3])
def test_no_processor_keeps_what_ept01_no_longer_gives(cpus: int) -> None:
    rig = Rig(Run(text=SOME, cpus=cpus))
    changer = Changer(rig)
    assert "not ok" not in rig.run()
    assert changer.rounds > 50
    assert changer.waited > 10
    assert sum(one.statistics.kicks for one in rig.hypervisor.vcpus) > 10


@pytest.mark.parametrize("shadow", ["cached", "writeprotect"])
def test_l1s_own_nmis_survive_l0s(shadow: ShadowPolicyName) -> None:
    """What L0 sends between processors neither reaches L1 nor swallows L1's NMIs."""
    rig = Rig(Run(text="tests=nmi-blocked,nmi-waits-blocked,smp-nmi-exit", cpus=2, shadow=shadow))
    Changer(rig)
    assert "not ok" not in rig.run()


def test_nmis_in_every_state_on_two_processors() -> None:
    rig = Rig(Run(text="tests=nmis,smp-nmi-exit,virtual-nmi-blocking,nmi-window*", cpus=2))
    assert "not ok" not in rig.run()
    assert rig.outcome is Outcome.GUEST_EXIT


def test_l1s_own_inits_and_traps_survive_l0s() -> None:
    """L0's INITs are not taken for L1's, and cost L1 no monitor trap."""
    rig = Rig(Run(text="tests=smp-init*,smp-sipi-exit,monitor-trap*,vmcall", cpus=2))
    changer = Changer(rig)
    assert "not ok" not in rig.run()
    assert changer.waited


def test_an_init_between_an_instruction_and_its_trap_costs_no_trap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(Run(text="tests=monitor-trap*", cpus=2))
    run_code = Processor._run_code
    kicks = 0

    def run_and_be_kicked(self: Processor, budget: int) -> None:
        nonlocal kicks
        run_code(self, budget)
        if self.pending.monitor_trap and self.guest is not None:
            kicks += 1
            rig.hypervisor.vcpus[self.index].is_kicked = True
            self.raise_init()

    monkeypatch.setattr(Processor, "_run_code", run_and_be_kicked)
    assert "not ok" not in rig.run()
    assert kicks > 10


@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_one_ept12_on_two_processors(shadow: ShadowPolicyName, seed: int) -> None:
    """One processor's L1 changes what L2 on the other uses: lhv's tests of shootdowns."""
    rig = Rig(Run(text="tests=smp-*", cpus=2, shadow=shadow, seed=seed))
    assert "not ok" not in rig.run()
    assert rig.outcome is Outcome.GUEST_EXIT


def test_one_processor_can_have_its_own_ept01() -> None:
    rig = Rig(Run(text="tests=vmcall", cpus=2))
    rig.run()
    hypervisor = rig.hypervisor
    first, second = hypervisor.vcpus
    changes: list[Event] = []
    hypervisor.events.subscribers.append(changes.append)
    for _ in hypervisor.control.unmap(first, VICTIM, PAGE_SIZE, processors=[0]):
        raise AssertionError("nobody to wait for")
    assert first.ept01.find(VICTIM) is None
    assert second.ept01.find(VICTIM) is not None
    assert isinstance(changes[0], Ept01Changed)
    assert changes[0].processors == (0,)


@pytest.mark.parametrize(
    ("start", "size", "what"),
    [
        (VICTIM + 1, PAGE_SIZE, "whole pages"),
        (VICTIM, 100, "whole pages"),
        (VICTIM, 0, "whole pages"),
        (64 << 20, PAGE_SIZE, "L0's own memory"),
    ],
)
def test_bad_changes_are_refused(start: int, size: int, what: str) -> None:
    rig = Rig(Run(text="tests=vmcall"))
    rig.run()
    control, vcpu = rig.hypervisor.control, rig.hypervisor.vcpus[0]
    with pytest.raises(ValueError, match=what):
        control.unmap(vcpu, Gpa1(start), size)
    with pytest.raises(ValueError, match="leads to L0's own memory"):
        control.map(vcpu, VICTIM, PAGE_SIZE, rig.hypervisor.host_root, RWX)
    with pytest.raises(ValueError, match="without reading"):
        control.protect(vcpu, VICTIM, PAGE_SIZE, 2)
