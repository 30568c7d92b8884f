"""The hooks that applications on L0 have."""

from collections.abc import Generator
from typing import Literal

from nested_rig import Rig, Run

from turducken.address import PAGE_SIZE, Gpa1
from turducken.hypervisor import Hypapp, Hypervisor
from turducken.hypervisor.ept01 import RWX
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.vcpu import Handling, Vcpu
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.interface import Wait

MAGIC = 0x1234


class Recorder(Hypapp):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.violations: list[tuple[int, int]] = []

    def on_start(self, hypervisor: Hypervisor) -> None:
        self.seen.append("start")

    def on_hypercall(self, vcpu: Vcpu) -> "Handling | Literal[False]":
        self.seen.append("hypercall")
        if vcpu.processor.gpr[0] & 0xFFFF_FFFF != MAGIC:
            return False
        return self._answer(vcpu)

    def _answer(self, vcpu: Vcpu) -> Generator[Wait, None, None]:
        yield Wait.OTHERS
        vcpu.skip()

    def on_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        self.violations.append((gpa1, access))
        return vcpu.system.control.restore(vcpu, Gpa1(gpa1 & -PAGE_SIZE), PAGE_SIZE)

    def on_cpuid(
        self, vcpu: Vcpu, leaf: int, subleaf: int, answer: tuple[int, int, int, int]
    ) -> tuple[int, int, int, int]:
        self.seen.append("cpuid")
        return answer

    def on_nested_entry(self, vcpu: Vcpu) -> None:
        self.seen.append("entry")

    def on_nested_exit(self, vcpu: Vcpu, reason: int) -> None:
        self.seen.append(f"exit {int(reason)}")

    def on_shutdown(self, vcpu: Vcpu, why: str) -> None:
        self.seen.append(why)


def run(app: Hypapp, tests: str) -> Rig:
    rig = Rig(Run(text=f"tests={tests}"))
    rig.hypervisor.apps = (app,)
    rig.run()
    return rig


def test_hooks_see_what_happens() -> None:
    app = Recorder()
    run(app, "ept-identity")
    assert app.seen[0] == "start"
    assert {"cpuid", "entry", f"exit {int(ExitReason.VMCALL)}"} <= set(app.seen)


def test_a_hypercall_of_l2_can_be_an_applications() -> None:
    """lhv's `vmcall` executes VMCALL with EAX = 1234H and wants to see the exit."""
    app = Recorder()
    rig = run(app, "vmcall")
    assert "hypercall" in app.seen
    assert "not ok" in rig.console.text
    assert "not ok" not in run(Hypapp(), "vmcall").console.text


def test_a_violation_can_be_an_applications() -> None:
    app = Recorder()
    rig = Rig(Run(text="tests=ept-note-page-identity"))
    rig.hypervisor.apps = (app,)
    page = Gpa1(0x1234000)
    handlers = dict(rig.hypervisor.l1_handlers)
    launch = handlers[ExitReason.VMLAUNCH]

    def take_away(vcpu: Vcpu) -> Handling:
        for _ in vcpu.system.control.unmap(vcpu, page, PAGE_SIZE):
            raise AssertionError("nobody to wait for")
        return launch(vcpu)

    handlers[ExitReason.VMLAUNCH] = take_away
    rig.hypervisor.l1_handlers = handlers
    assert "not ok" not in rig.run()
    assert (page, 1) in app.violations


def test_a_guest_can_run_under_an_applications_table() -> None:
    """L1's code runs under a table that maps pages only when they are touched."""

    class Own(Hypapp):
        def __init__(self) -> None:
            self.table: EptTable | None = None
            self.touched: set[int] = set()

        def on_cpuid(
            self, vcpu: Vcpu, leaf: int, subleaf: int, answer: tuple[int, int, int, int]
        ) -> tuple[int, int, int, int]:
            if self.table is None:
                self.table = EptTable(vcpu.system.memory, vcpu.system.frames)
                vcpu.run_under(self.table)
            return answer

        def on_violation(self, vcpu: Vcpu, gpa1: Gpa1, access: int) -> Handling:
            assert self.table is not None
            self.touched.add(gpa1 & -PAGE_SIZE)
            self.table.set(gpa1, 12, gpa1 & -PAGE_SIZE | RWX | 0x30)
            return None

    app = Own()
    rig = run(app, "error-vmclear")
    assert "not ok" not in rig.console.text
    assert len(app.touched) > 10
    vcpu = rig.hypervisor.vcpus[0]
    vcpu.run_under(None)
    assert vcpu.app_table is None
