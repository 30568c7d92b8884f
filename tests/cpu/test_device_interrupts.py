"""Interrupts that a processor causes itself, in the middle of a run: taken at once."""

import pytest
from cpu_support import CODE, RCX, Pc

RUN = 100_000
ENABLE = "c705f000e0feff010000"  # mov dword [fee000f0h], 1ffh
LOOP = "fb 41 ebfd"  # sti; 1: inc ecx; jmp 1b
SELF_IPI = "c7050003e0fe40000400"  # mov dword [fee00300h], 40040h
DIVIDE_BY_1 = "c705e003e0fe0b000000"
TIMER_VECTOR = "c7052003e0fe50000000"
START_TIMER = "c7058003e0fe64000000"  # 100 ticks of 10 ns: 1 us, 100 instructions
VIRTUAL_WIRE = "c7055003e0fe00070000"  # LINT0: ExtINT, from the 8259s
NMI = "c7050003e0fe00040400"


def run(code):
    pc = Pc().protected(code)
    pc.machine.run(RUN)
    assert pc.p.engine.executed < RUN / 10
    return pc.state.gpr[RCX], pc.state.rip


@pytest.mark.parametrize("request_", [SELF_IPI, NMI])
def test_an_ipi_to_itself_is_taken_at_the_next_branch(request_):
    counted, rip = run(f"{ENABLE} fb {request_} ebfe")
    assert counted == 0
    assert not CODE <= rip < CODE + 0x100


def test_a_timer_set_within_a_run_ends_it():
    counted, rip = run(f"{ENABLE} {DIVIDE_BY_1} {TIMER_VECTOR} {START_TIMER} {LOOP}")
    assert 20 < counted < 60
    assert not CODE <= rip < CODE + 0x100


def test_a_line_that_the_guest_raises_interrupts_it():
    pic = "".join(
        f"b0{value:02x}e6{port:02x}"  # mov al, value; out port, al
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0))
    )
    raise_line = "66ba0520 b001 ee"  # mov dx, 2005h; mov al, 1; out dx, al
    counted, rip = run(f"{ENABLE} {VIRTUAL_WIRE} {pic} fb {raise_line} eb00 41 ebfd")
    assert counted < 3
    assert not CODE <= rip < CODE + 0x100
