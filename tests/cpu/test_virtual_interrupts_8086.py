"""CR4.VME and CR4.PVI: a virtual interrupt flag, and INT n for the 8086 program itself.

SDM 3B, "Enhanced Virtual-8086 Mode" and the table of its six methods.
"""

import pytest
from cpu_support import CODE, RAX, RSP, TASK, Pc

from turducken.cpu.events import Event, EventKind

GP = 13
VME, PVI = 1, 2
TF, IF, VIF, VIP = 1 << 8, 1 << 9, 1 << 19, 1 << 20
IO_MAP = 0x68 + 32
VECTOR = 0x21
HANDLER = 0x5000
HLT = "f4"


def program(code, *, iopl=0, flags=0, redirected=(), enabled=VME):
    """Return a PC in virtual-8086 mode whose TSS has a redirection map: 0 where redirected."""
    pc = Pc().virtual_8086(f"{code} {HLT}", iopl=iopl)
    pc.state.cr4 |= enabled
    task = pc.state.segment(7)
    pc.state.set_segment(7, task._replace(limit=IO_MAP + 16))
    pc.memory.store(TASK + 0x66, 2, IO_MAP)
    for vector in range(256):
        byte = TASK + IO_MAP - 32 + vector // 8
        bit = 0 if vector in redirected else 1 << vector % 8
        pc.memory.store(byte, 1, pc.memory.load(byte, 1) & ~(1 << vector % 8) | bit)
        pc.gate(vector, 8, dpl=3)
    pc.memory.store(4 * VECTOR, 4, HANDLER >> 4 << 16)  # offset 0
    pc.memory.write(HANDLER, b"\xf4")
    pc.state.rflags |= flags
    return pc._ready(3)


def frame(pc):
    """Return the frame of the monitor's handler: it was entered with the flags on its stack."""
    return pc.words(pc.state.gpr[RSP], 4, 4)


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("fa", VIF, 0),  # cli
        ("fb", 0, VIF),  # sti
        ("9c 58", VIF, VIF),  # pushf; pop ax
        ("68 00 02 9d", 0, VIF),  # push 200h; popf
        ("68 00 00 9d", VIF, 0),
        ("fb", VIP, None),  # an interrupt is pending: #GP
        ("68 00 02 9d", VIP, None),
        ("68 00 01 9d", 0, None),  # TF in the image
        ("66 9c", 0, None),  # pushfd
        ("66 6a 00 66 9d", 0, None),  # popfd
    ],
)
def test_the_flag_that_a_program_has(code, before, after):
    pc = program(code, flags=before)
    assert pc.event() == GP  # at HLT, or at the instruction
    error, ip, _, flags = frame(pc)
    assert error == 0
    is_done = ip == len(bytes.fromhex(code))
    assert is_done == (after is not None)
    if is_done:
        assert flags & (VIF | IF) == after


def test_pushf_shows_the_virtual_flag_and_iopl_3():
    pc = program("9c 58", flags=VIF)
    pc.event()
    assert pc.state.gpr[RAX] & 0x3200 == 0x3200
    pc = program("9c 58", flags=IF)
    pc.event()
    assert pc.state.gpr[RAX] & 0x3200 == 0x3000


def test_iret_of_a_program():
    """push 200h; push cs; push 20h; iret: to offset 20h with VIF set."""
    pc = program("68 00 02 0e 6a 20 cf")
    pc.put(CODE + 0x20, "f4")
    assert pc.event() == GP
    _, ip, _, flags = frame(pc)
    assert (ip, flags & VIF) == (0x20, VIF)


@pytest.mark.parametrize(
    ("enabled", "iopl", "redirected", "outcome"),
    [
        (VME, 3, (VECTOR,), "program"),
        (VME, 0, (VECTOR,), "program"),
        (VME, 3, (), "monitor"),
        (VME, 0, (), GP),
        (0, 3, (VECTOR,), "monitor"),
        (0, 0, (VECTOR,), GP),
    ],
)
def test_int_n_by_iopl_and_redirection(enabled, iopl, redirected, outcome):
    pc = program(f"cd{VECTOR:02x}", iopl=iopl, redirected=redirected, enabled=enabled, flags=VIF)
    vector = pc.event()
    if outcome == "program":
        # The handler's HLT is #GP: the frame says where it stood.
        assert vector == GP
        _, ip, cs, flags = frame(pc)
        assert (ip, cs) == (0, HANDLER >> 4)
        assert flags & VIF == (0 if iopl < 3 else VIF)
        pushed = pc.words(0x100 * 2 + 0x6000 - 6, 3, 2)
        assert pushed[:2] == [2, CODE >> 4]
        assert pushed[2] & 0x3000 == 0x3000
        assert bool(pushed[2] & IF) == (iopl < 3)
    else:
        assert vector == (VECTOR if outcome == "monitor" else GP)


def test_an_injected_int_n_is_redirected_too():
    pc = program("90", redirected=(VECTOR,))
    pc.p.raise_event(Event(EventKind.SOFTWARE_INTERRUPT, VECTOR, None, 2, is_injected=True))
    assert (pc.state.segment(1).selector, pc.state.rip) == (HANDLER >> 4, 0)


@pytest.mark.parametrize(("code", "after"), [("fa", 0), ("fb", VIF)])
def test_protected_mode_virtual_interrupts(code, after):
    pc = Pc().protected(f"{code} {HLT}", cpl=3)
    pc.state.cr4 |= PVI
    pc.state.rflags |= VIF if after == 0 else 0
    pc._ready(3)
    assert pc.event() == GP
    words = pc.words(pc.state.gpr[RSP], 4, 4)
    assert words[1] == CODE + 1
    assert words[3] & (VIF | IF) == after
    without = Pc().protected(f"{code} {HLT}", cpl=3)
    assert without.event() == GP
    assert without.words(without.state.gpr[RSP], 2, 4)[1] == CODE
