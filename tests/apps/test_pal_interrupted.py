"""INIT while a PAL runs ends the call of an L2, and waits where L1's root operation blocks it."""

from pal_demo import Demo

from turducken.apps.trustvisor.pal import PalState
from turducken.hypervisor import Vcpu
from turducken.system import Stops
from turducken.vmx.exit_reasons import ExitReason

LIMIT = Stops(max_instructions=30_000_000)


def run_with_init(tests: str) -> tuple[Demo, Vcpu, str]:
    """Run, and send an INIT to the first processor that is met in a PAL."""
    demo = Demo(tests)
    hypervisor = demo.system.hypervisor
    assert hypervisor is not None
    hit: list[Vcpu] = []

    def turn() -> None:
        running = [one for one in hypervisor.vcpus if one.app_guest is not None]
        if running and not hit:
            hit.append(running[0])
            demo.system.machine.processors[running[0].index].raise_init()

    result = demo.system.run(LIMIT, turn)
    assert hit
    return demo, hit[0], result.console


def test_an_init_that_l1_blocks_waits() -> None:
    _, vcpu, console = run_with_init("pal-busy")
    assert vcpu.init_pending
    assert "# lhv: all 2 tests passed" in console


def test_an_init_ends_l2s_call_and_not_the_pal() -> None:
    demo, vcpu, console = run_with_init("pal-l2-interrupts")
    assert "expected 0x12" in console  # L1 met another exit than L2's end
    assert vcpu.statistics.reflected[ExitReason.INIT] == 1
    assert vcpu.app_guest is None
    assert all(one.state is not PalState.RUNNING for one in demo.app.registry.pals.values())
