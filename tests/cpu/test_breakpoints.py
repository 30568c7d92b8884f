"""Breakpoints of DR0 to DR3, and what their #DB reports."""

import pytest
from cpu_support import CODE, CODE64, RAX, RCX, RSP, Pc

from turducken.arch.exceptions import Vector
from turducken.machine.machine import Outcome

DATA = 0x3_0000
EXECUTE, WRITE, PORT, READ_WRITE = range(4)
LENGTH = {1: 0, 2: 1, 8: 2, 4: 3}


def enabled(*breakpoints: tuple[int, int, int]) -> int:
    """Return DR7 for breakpoints of a number, kind and length."""
    value = 0x400
    for number, kind, length in breakpoints:
        value |= 2 << 2 * number | (kind | LENGTH[length] << 2) << 16 + 4 * number
    return value


def pc_with(code: str, *breakpoints: tuple[int, int, int, int], native: bool = True) -> Pc:
    pc = Pc(native=native).long(code)
    for number, address, _, _ in breakpoints:
        pc.p.dr[number] = address
    pc.p.dr[7] = enabled(*((number, kind, length) for number, _, kind, length in breakpoints))
    return pc


def stopped_at(pc: Pc) -> int:
    assert pc.event() == Vector.DB
    return pc.words(pc.state.gpr[RSP], 1, 8)[0]


@pytest.mark.parametrize("native", [True, False])
def test_an_instruction_breakpoint_faults_before_its_instruction(native: bool) -> None:
    pc = pc_with("ffc0 ffc0 ffc1 ffc0 f4", (1, CODE + 4, EXECUTE, 1), native=native)
    assert (stopped_at(pc), pc.state.gpr[RAX], pc.state.gpr[RCX]) == (CODE + 4, 2, 0)
    assert pc.p.dr[6] & 0xF == 2


def test_rf_holds_an_instruction_breakpoint_back_once() -> None:
    pc = pc_with("ffc1 ebfc", (0, CODE, EXECUTE, 1))
    pc.state.rflags |= 1 << 16
    assert (stopped_at(pc), pc.state.gpr[RCX]) == (CODE, 1)


@pytest.mark.parametrize(
    ("code", "kind", "at"),
    [
        ("8b042500000300", READ_WRITE, 7),
        ("890425ff ff0200", WRITE, 7),
        ("890425fcff0200", WRITE, None),
        ("8b042500000300", WRITE, None),
        ("bf04000300 50 8f07", READ_WRITE, None),
        ("bf00000300 50 8f07", READ_WRITE, 8),
        ("bffeff0200 b904000000 f3aa", WRITE, 10),
    ],
)
def test_a_data_breakpoint_traps_behind_the_access(code: str, kind: int, at: int | None) -> None:
    pc = pc_with(code + "90 f4", (2, DATA, kind, 4))
    if at is None:
        assert pc.run() is Outcome.HALTED
        assert pc.p.dr[6] & 0xF == 0
    else:
        assert stopped_at(pc) == CODE + at
        assert pc.p.dr[6] & 0xF == 4


def test_one_that_is_not_enabled_does_nothing() -> None:
    pc = Pc().long("8b042500000300 f4")
    pc.p.dr[0], pc.p.dr[7] = DATA, 0x400 | READ_WRITE << 16
    assert pc.run() is Outcome.HALTED


def test_breakpoints_may_come_and_go() -> None:
    """MOV DR7 enables one for the second store, and disables it before the third."""
    store = "890c2500000300"
    code = store + "0f23f8" + store + "31c0 0f23f8" + store + "f4"
    pc = Pc().long(code)
    pc.p.dr[0] = DATA
    pc.state.gpr[RAX] = enabled((0, WRITE, 4))
    pc.put(DATA + 0x1000, "48cf")
    pc.gate(Vector.DB, CODE64, offset=DATA + 0x1000, long=True)
    assert pc.run() is Outcome.HALTED
    assert pc.p.dr[6] & 0xF == 1


@pytest.mark.parametrize("de", [True, False])
def test_an_io_breakpoint_needs_cr4_de(de: bool) -> None:
    pc = pc_with("e680 90 f4", (3, 0x80, PORT, 1))
    pc.state.cr4 |= 8 if de else 0
    if de:
        assert (stopped_at(pc), pc.p.dr[6] & 0xF) == (CODE + 2, 8)
    else:
        assert pc.run() is Outcome.HALTED
