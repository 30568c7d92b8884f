"""EPT01 shared by processors: one root, or roots of their own above shared tables."""

from collections.abc import Generator

import pytest
from pal_demo import LIMIT, SHARINGS, Demo

from turducken.address import GIB, PAGE_SIZE, Gpa1, Hpa
from turducken.apps import AppRequest
from turducken.apps.trustvisor.app import Sharing
from turducken.hypervisor import POLICIES, Hypapp, Hypervisor, ShadowPolicyName, Vcpu
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.frames import FrameAllocator
from turducken.hypervisor.hypapp import Cpuid, Ept01Sharing
from turducken.memory import PhysicalMemory
from turducken.paging.formats import EPT, Features
from turducken.paging.walker import Stop, walk
from turducken.system import Mode, Result, System, SystemOptions, find_image
from turducken.vmx.interface import Wait

MIB = 1 << 20
FORMAT = EPT.bind(Features(maxphyaddr=46, pages_1gib=True, pages_2mib=True))
RWX_WB = 0x37


def test_a_replica_follows_every_change() -> None:
    memory = PhysicalMemory(4 * MIB)
    frames = FrameAllocator(memory, range(MIB, 4 * MIB))
    before = frames.in_use
    table = EptTable(memory, frames)
    table.set(5 * GIB, 30, 5 * GIB | RWX_WB | 0x80)
    replica = table.replicate()
    places = [5 * GIB, 5 * GIB + 0x1000, 0x1000, 600 * GIB, 7 * GIB, 700 << 30]

    def outcomes(root: int) -> list[tuple[Stop, int]]:
        found = [walk(FORMAT, memory, root | 0x1E, at) for at in places]
        return [(one.stop, one.page) for one in found]

    changes = [(0x1000, 12), (600 * GIB, 21), (7 * GIB, 30), (5 * GIB + 0x1000, 12), (7 * GIB, 12)]
    for gpa, shift in changes:
        assert outcomes(replica) == outcomes(table.root)
        large = 0x80 if shift > 12 else 0
        table.set(gpa, shift, (gpa & -(1 << shift)) | RWX_WB | large)
    table.set(7 * GIB, 30, 0)
    assert outcomes(replica) == outcomes(table.root)
    assert memory.read(replica, 4096) != memory.read(table.root, 4096)
    table.destroy()
    assert frames.in_use == before


class Prober(Hypapp):
    """At each CPUID, takes a page away and gives it back, while nobody else runs a guest."""

    name = "prober"
    page = Gpa1(0x300_0000)

    def __init__(self, sharing: Ept01Sharing) -> None:
        self.ept01_sharing = sharing
        self.rounds = 0
        self.roots: set[int] = set()

    def on_start(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.roots = {one.eptp01 for one in hypervisor.vcpus}

    def on_hypercall(self, vcpu: Vcpu) -> Generator[Wait, None, None]:
        return self._probe(vcpu)

    def _probe(self, vcpu: Vcpu) -> Generator[Wait, None, None]:
        control = self.hypervisor.control
        yield from control.unmap(vcpu, self.page, PAGE_SIZE)
        assert all(one.ept01.find(self.page) is None for one in self.hypervisor.vcpus)
        yield from control.restore(vcpu, self.page, PAGE_SIZE)
        assert all(one.ept01.find(self.page) for one in self.hypervisor.vcpus)
        yield from control.quiesce(vcpu, lambda: self._alone(vcpu))
        vcpu.skip()

    def _alone(self, vcpu: Vcpu) -> None:
        others = [one for one in self.hypervisor.vcpus if one is not vcpu]
        assert not any(one.runs_guest_code for one in others)
        self.rounds += 1

    def on_cpuid(self, vcpu: Vcpu, leaf: int, subleaf: int, answer: Cpuid) -> Cpuid:
        return answer


def run(app: Prober, tests: str, cpus: int) -> Result:
    options = SystemOptions(
        find_image("pal-demo-amd64"),
        mode=Mode.NESTED,
        cpus=cpus,
        memory=64 * MIB,
        text=f"tests={tests}",
        seed=3,
        apps=[AppRequest("prober", lambda: app)],
    )
    return System(options).run(LIMIT)


@pytest.mark.parametrize("sharing", Ept01Sharing)
def test_changes_reach_every_processor_and_nobody_runs_in_between(sharing: Ept01Sharing) -> None:
    app = Prober(sharing)
    run(app, "pal-privilege", 3)
    assert app.rounds >= 3
    assert len(app.roots) == (1 if sharing is Ept01Sharing.ONE else 3)


def test_a_shared_ept01_cannot_change_for_some() -> None:
    app = Prober(Ept01Sharing.ONE)
    run(app, "pal-privilege", 2)
    vcpu = app.hypervisor.vcpus[0]
    with pytest.raises(ValueError, match="share one EPT01"):
        app.hypervisor.control.unmap(vcpu, Gpa1(0x1000), PAGE_SIZE, processors=[0])
    assert app.hypervisor.control.map(vcpu, Gpa1(0x1000), PAGE_SIZE, Hpa(0x2000), 7) is not None


@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_nested_ept_works_on_shared_ept01s(sharing: Sharing, shadow: ShadowPolicyName) -> None:
    demo = Demo(
        "ept-rights-level-*,ept-misconfig*,ept-remap*,smp",
        "lhv-amd64",
        sharing=sharing,
        shadow=shadow,
    )
    assert demo.run().exit_status == 0
