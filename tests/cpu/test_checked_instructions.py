"""Checks that the engine does not make by itself."""

import pytest
from cpu_support import CODE, RAX, RSP, Pc

from turducken.arch.exceptions import Vector
from turducken.machine.machine import Outcome

DATA = 0x3_0000
ELSEWHERE = 0x50_0000
"""Not mapped."""


def fault_of(code: str, data: bytes = b"", rax: int = DATA) -> tuple[int | None, list[int]]:
    """Run 64-bit code; return the vector, and the error code (if any) and RIP that were pushed."""
    pc = Pc().long(code + "f4")
    pc.memory.write(DATA, data.ljust(0x200, b"\0"))
    pc.state.gpr[RAX] = rax
    assert pc.run() is Outcome.HALTED
    return pc.vector(), pc.words(pc.state.gpr[RSP], 2, 8)


@pytest.mark.parametrize("code", ["f090", "f0b001", "f08b00", "f00fa2", "0f38f0c0", "0f38f1c8"])
def test_what_is_no_instruction(code: str) -> None:
    """LOCK where it may not be, MOVBE between registers."""
    assert fault_of("90" + code) == (Vector.UD, [CODE + 1, 0x18])


def test_lock_where_it_may_be() -> None:
    assert fault_of("f0ff00 f0480fc100")[0] is None


def test_an_instruction_of_more_than_15_bytes() -> None:
    assert fault_of("66" * 15 + "90") == (Vector.GP, [0, CODE])


@pytest.mark.parametrize(
    ("code", "data", "rax", "vector"),
    [
        ("0fae10", b"\x80\x1f", DATA, None),
        ("0fae10", b"\0\0\1", DATA, Vector.GP),
        ("0fae10", b"", ELSEWHERE, Vector.PF),
        ("0fae08", b"\0" * 24 + b"\x80\x1f", DATA, None),
        ("0fae08", b"\0" * 24 + b"\0\0\1", DATA, Vector.GP),
        ("0fae08", b"", DATA + 8, Vector.GP),
        ("0fae00", b"", DATA + 8, Vector.GP),
        ("0fae00", b"", DATA, None),
        ("0fae38", b"", DATA, None),
        ("0fae38", b"", ELSEWHERE, Vector.PF),
        ("0fae38", b"", 1 << 47, Vector.GP),
    ],
)
def test_operands_that_are_refused(code: str, data: bytes, rax: int, vector: int | None) -> None:
    """LDMXCSR, FXRSTOR, FXSAVE, CLFLUSH."""
    assert fault_of(code, data, rax)[0] == vector


def test_ignored_overrides_do_not_choose_the_exception() -> None:
    """MONITOR's and LDMXCSR's operands with an SS override, which 64-bit mode ignores."""
    assert fault_of("360fae10", rax=1 << 47)[0] == Vector.GP
