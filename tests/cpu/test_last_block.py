"""What is known of the block that ran last: time up to a trap, and branches that lead nowhere."""

import pytest
from cpu_support import CODE, RAX, RCX, RDX, RSP, STACK0, Pc

from turducken.arch.exceptions import Vector
from turducken.machine.machine import Outcome

NOWHERE = 1 << 47
CPUID = "0fa2"


@pytest.mark.parametrize("native", [True, False])
def test_each_instruction_counts_once_whoever_executes_it(native: bool) -> None:
    """Traps in the middle of a block, an instruction that is ours, and 300 NOPs."""
    code = "90" * 10 + "31c0" + CPUID + "90" * 300 + "0f01f9" + "0fc7f0" + "90" * 5 + "8ed1" + "f4"
    pc = Pc(native=native).long("b910000000" + code)
    assert pc.run() is Outcome.HALTED
    assert pc.p.engine.executed == 1 + 10 + 2 + 300 + 2 + 5 + 1 + 1


def test_time_up_to_an_instruction_is_that_of_those_before_it() -> None:
    """RDTSC, CPUID, RDTSC, 400 NOPs: three instructions of 10 ns."""
    code = "0f31 89c6 31c0" + CPUID + "0f31" + "90" * 400 + "f4"
    pc = Pc().long(code)
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[RAX] - pc.state.gpr[6] == 4 * 10


@pytest.mark.parametrize(
    ("code", "at"),
    [("ffe1", 0), ("90 ffd1", 1), ("51 c3", 1), ("51 c20800", 1), ("90 ff2500000000", 1)],
)
def test_a_branch_to_an_address_that_is_not_canonical_faults_itself(code: str, at: int) -> None:
    pc = Pc().long(code + "00 00 00 00 00 80 00 00")
    pc.state.gpr[RCX] = NOWHERE
    pointer = STACK0 - (8 if code.startswith("51") else 0)
    assert pc.event() == Vector.GP
    rip, _, _, rsp = (pc.words(pc.state.gpr[RSP], 5, 8))[1:]
    assert (rip, rsp) == (CODE + at, pointer)


@pytest.mark.parametrize(
    ("code", "length"), [("cd41", 2), ("66cd41", 3), ("cc", 1), ("66cc", 2), ("cd03", 2)]
)
def test_what_follows_a_software_interrupt(code: str, length: int) -> None:
    pc = Pc().long(code)
    pc.run()
    assert pc.words(pc.state.gpr[RSP], 1, 8) == [CODE + length]


@pytest.mark.parametrize("code", ["66" + CPUID, "48" + CPUID, "f3" + CPUID, "66f390", "480f31"])
def test_prefixes_are_part_of_an_instruction(code: str) -> None:
    pc = Pc().long("31c0" + code + "f4")
    assert pc.run() is Outcome.HALTED
    assert pc.state.rip == CODE + 2 + len(bytes.fromhex(code)) + 1
    assert pc.state.gpr[RDX] >= 0
