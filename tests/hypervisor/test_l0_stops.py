"""What L0 cannot go on with ends L1's processor, and is told; a run without progress ends."""

from collections.abc import Callable

import pytest

from turducken.cli import entry
from turducken.hypervisor import Vcpu
from turducken.hypervisor.events import StopKind
from turducken.hypervisor.vcpu import Handling
from turducken.machine.boot import BootImage
from turducken.system import Mode, Outcome, Result, Stops, System, SystemOptions, find_image
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary
from turducken.vmx.exit_reasons import ExitReason as R
from turducken.vmx.interface import Wait

Handler = Callable[[Vcpu], Handling]
L2_TESTS = "tests=cpuid-exit"


def with_handler(
    reason: R, handler: Handler, image: BootImage | None = None, cpus: int = 1
) -> System:
    options = SystemOptions(
        image or find_image("lhv-amd64"),
        mode=Mode.NESTED,
        memory=64 << 20,
        text=L2_TESTS,
        cpus=cpus,
    )
    system = System(options)
    hypervisor = system.hypervisor
    assert hypervisor is not None
    hypervisor.l1_handlers = {**hypervisor.l1_handlers, reason: handler}
    return system


def run(system: System) -> Result:
    return system.run(Stops(max_instructions=2_000_000))


def test_a_refused_entry_of_l1s_names_the_rule() -> None:
    def spoil(vcpu: Vcpu) -> Handling:
        vcpu.vmcs01.write(f.GUEST_CS_ACCESS_RIGHTS, 0xC09A)
        return None

    result = run(with_handler(R.CPUID, spoil))
    (stop,) = result.stopped
    assert result.outcome is Outcome.TRIPLE_FAULT
    assert (stop.kind, stop.guest, stop.reason) == (StopKind.ENTRY_REFUSED, "L1", 0x8000_0021)
    assert stop.rule == "guest.segments.cs-type"
    assert "VMCS01 was refused: invalid guest state" in stop.why
    assert "SDM 3C" in stop.why


def test_controls_that_are_refused_are_told_with_the_error() -> None:
    def spoil(vcpu: Vcpu) -> Handling:
        vcpu.vmcs01.write(f.CR3_TARGET_COUNT, 5)
        return None

    (stop,) = run(with_handler(R.CPUID, spoil)).stopped
    assert (stop.kind, stop.guest) == (StopKind.ENTRY_REFUSED, "L1")
    assert "(error 7)" in stop.why


def test_an_unexpected_exit_of_l1s() -> None:
    def unhandled(vcpu: Vcpu) -> Handling:
        return vcpu.system.l1_handlers[R.MONITOR](vcpu)

    (stop,) = run(with_handler(R.CPUID, unhandled)).stopped
    assert (stop.kind, stop.guest, stop.reason) == (StopKind.UNEXPECTED_EXIT, "L1", R.CPUID)
    assert "CPUID" in stop.why


def test_l2_that_l0_cannot_enter_again_ends_l1() -> None:
    system = with_handler(R.INVEPT, lambda vcpu: vcpu.skip())
    hypervisor = system.hypervisor
    assert hypervisor is not None
    handle = hypervisor.l2_handler

    def spoil(vcpu: Vcpu) -> Handling:
        handling = handle(vcpu)
        if vcpu.in_l2:
            vcpu.current.write(f.GUEST_TR_ACCESS_RIGHTS, 0)
        return handling

    hypervisor.l2_handler = spoil
    (stop,) = run(system).stopped
    assert (stop.kind, stop.guest) == (StopKind.ENTRY_REFUSED, "L2")
    assert stop.rule is not None
    assert "tr" in stop.rule


def test_ept02_misconfigured_ends_l1() -> None:
    system = with_handler(R.INVEPT, lambda vcpu: vcpu.skip())
    hypervisor = system.hypervisor
    assert hypervisor is not None
    handle = hypervisor.l2_handler

    def spoil(vcpu: Vcpu) -> Handling:
        context = vcpu.nested.current
        assert context is not None
        handling = handle(vcpu)
        if vcpu.in_l2:
            root = context.vmcs02.read(f.EPTP) & -4096
            hypervisor.memory.store(root, 8, 2)
            vcpu.invept(context.vmcs02.read(f.EPTP))
        return handling

    hypervisor.l2_handler = spoil
    (stop,) = run(system).stopped
    assert (stop.kind, stop.guest) == (StopKind.UNEXPECTED_EXIT, "L2")
    assert "EPT02 is misconfigured at" in stop.why


def test_exits_without_an_instruction_between_them_end_the_run() -> None:
    def window(vcpu: Vcpu) -> Handling:
        primary = vcpu.vmcs01.read(f.PRIMARY_CONTROLS)
        vcpu.vmcs01.write(f.PRIMARY_CONTROLS, primary | Primary.INTERRUPT_WINDOW_EXITING)
        vcpu.vmcs01.write(f.GUEST_RFLAGS, 0x202)
        vcpu.vmcs01.write(f.GUEST_INTERRUPTIBILITY, 0)
        return None

    system = with_handler(R.CPUID, window, cpus=2)
    assert system.hypervisor is not None
    system.hypervisor.l1_handlers[R.INTERRUPT_WINDOW] = lambda _vcpu: None
    assert run(system).outcome is Outcome.STUCK


def test_a_wait_for_ever_ends_the_run() -> None:
    def wait(_vcpu: Vcpu) -> Handling:
        while True:
            yield Wait.OTHERS

    assert run(with_handler(R.CPUID, wait)).outcome is Outcome.STUCK


def test_the_command_tells_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def spoil(vcpu: Vcpu) -> None:
        vcpu.current.write(f.CR3_TARGET_COUNT, 5)

    monkeypatch.setattr(Vcpu, "skip", spoil)
    assert entry.run(["run", "lhv-amd64", "--cmdline", L2_TESTS]) == 1
    told = capfd.readouterr()
    assert "processor 0 was stopped: VM entry with VMCS01 was refused" in told.out
    assert "Traceback" not in told.err
