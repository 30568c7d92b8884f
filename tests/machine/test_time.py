"""When things happen: signals and timers that the running processor itself has caused."""

import pytest
from cpu_support import CODE64, HANDLERS, RAX, RCX, RDX, Pc

from turducken.machine.machine import Outcome

VECTOR = 0x40
TIMER = "c78020030000 40000000 c780e0030000 0b000000"  # vector 40h, one shot; divide by 1
COUNT = "ffc1 ebfc"
"""inc ecx, for ever"""


def apic(code: str) -> Pc:
    """Long mode, RAX = the local APIC's page, which is enabled; the handler halts."""
    pc = Pc().long("c780f0000000 ff010000" + code)
    assert pc.table is not None
    pc.table.map(0xFEE0_0000, 0xFEE0_0000, 0x1000, 0x13)
    pc.state.gpr[RAX] = 0xFEE0_0000
    pc.gate(VECTOR, CODE64, long=True)
    return pc


def test_a_timer_armed_through_memory_is_on_time() -> None:
    """400 ticks of 10 ns; each iteration takes two instructions of 10 ns."""
    pc = apic(TIMER + "fb c78080030000 90010000" + COUNT)
    assert pc.event() == VECTOR
    assert pc.state.gpr[RCX] == pytest.approx(200, abs=20)


def test_a_timer_armed_through_an_msr_is_on_time() -> None:
    code = (
        "b91b000000 0f32 0d000c0000 0f30"  # x2APIC mode
        "31d2 b90f080000 b8ff010000 0f30 b932080000 b840000000 0f30"
        "b93e080000 b80b000000 0f30 fb b938080000 b890010000 0f30 31c9" + COUNT
    )
    pc = Pc().long(code)
    pc.gate(VECTOR, CODE64, long=True)
    assert pc.event() == VECTOR
    assert pc.state.gpr[RCX] == pytest.approx(200, abs=20)


def test_the_timer_counts_while_the_processor_looks() -> None:
    """Read the current count twice with 1000 instructions in between: 10 us are 1,000 ticks."""
    loop = "b9f4010000 ffc9 75fc"
    read = "8bb890030000"
    pc = apic(TIMER + "c78080030000 00ff0000" + read + loop + "8b9890030000 f4")
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[7] - pc.state.gpr[3] == pytest.approx(1008, abs=20)


def test_an_interrupt_to_itself_comes_at_once() -> None:
    pc = apic("fb 90 c78000030000 40000400 eb00" + COUNT)
    assert pc.event() == VECTOR
    assert pc.state.gpr[RCX] <= 1


@pytest.mark.parametrize("native", [True, False])
def test_an_interrupt_that_waits_for_the_flag_comes_with_it(native: bool) -> None:
    """STI after a long time with interrupts off; it lets one instruction through, a NOP."""
    pc = Pc(native=native).long(
        "c780f0000000 ff010000 c78000030000 40000400b910270000 ffc9 75fc fb 90 ffc2 ffc2 f4"
    )
    assert pc.table is not None
    pc.table.map(0xFEE0_0000, 0xFEE0_0000, 0x1000, 0x13)
    pc.state.gpr[RAX] = 0xFEE0_0000
    pc.gate(VECTOR, CODE64, long=True)
    assert pc.run(100_000) is Outcome.HALTED
    assert pc.state.rip == HANDLERS + 16 * VECTOR + 1
    assert (pc.state.gpr[RDX], pc.state.gpr[RCX]) == (0, 0)
    assert pc.p.statistics.traps < 20  # it is not looked for at every block
