"""Control registers, MSRs and CPUID as machine code sees them; task switches outside non-root."""

import pytest
from cpu_support import (
    CODE,
    CODE32,
    DATA32,
    GDT,
    GDTR,
    MIB,
    RAX,
    RBX,
    RCX,
    RDX,
    RSP,
    TR,
    Pc,
    descriptor,
)

from turducken.arch.exceptions import Vector
from turducken.machine.machine import Outcome
from turducken.paging.formats import PAGING_32, Features
from turducken.paging.rights import make_attributes
from turducken.paging.table import BumpAllocator, PageTable

NUL = "\0"

# MOV to control registers


def mov_to(number: int, value: int, *, long: bool) -> str:
    """Return code that loads a control register through RAX, then halts."""
    load = "48b8" + value.to_bytes(8, "little").hex() if long else ""
    load = load or "b8" + value.to_bytes(4, "little").hex()
    return load + f"0f22{0xC0 + 8 * number:02x} f4"


@pytest.mark.parametrize(
    ("number", "value", "vector"),
    [
        (0, 0x8000_0030, Vector.GP),  # PG without PE
        (0, 0x2000_0011, Vector.GP),  # NW without CD
        (0, 0x6000_0011, None),
        (0, 0x1_8000_0011, Vector.GP),  # bits 63:32
        (0, 0x8000_0011 | 1 << 9, None),  # a bit that is ignored
        (0, 0x11, Vector.GP),  # no paging in 64-bit mode
        (3, 1 << 46, Vector.GP),  # beyond the physical-address width
        (4, 0x0000_0200, Vector.GP),  # no PAE in IA-32e mode
        (4, 1 << 31 | 0x20, Vector.GP),
        (4, 1 << 15 | 0x20, Vector.GP),  # reserved
        (4, 0x2020, None),  # VMXE
    ],
)
def test_loading_a_control_register_in_64_bit_mode(
    number: int, value: int, vector: int | None
) -> None:
    value |= 0x8000_0011 if number == 0 and value == 0x6000_0011 else 0
    pc = Pc().long(mov_to(number, value, long=True))
    assert pc.event() == vector
    if vector is not None:
        assert pc.words(pc.state.gpr[RSP], 2, 8) == [0, CODE + 10]


@pytest.mark.parametrize("number", [1, 5, 6, 7])
def test_control_registers_that_there_are_not(number: int) -> None:
    assert Pc().long(f"0f20{0xC0 + 8 * number:02x}").event() == Vector.UD
    assert Pc().long(f"0f22{0xC0 + 8 * number:02x}").event() == Vector.UD


def test_control_registers_are_for_level_0() -> None:
    for code in ("0f20c0", "0f22d8", "0f20e0", "440f20c0"):
        assert Pc().long(code, cpl=3).event() == Vector.GP


def test_lmsw_sets_pe_and_never_clears_it() -> None:
    pc = Pc().real("b80f00 0f01f0 31c0 0f01f0 0f01e3 f4")
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[RBX] & 0xF == 1


# MSRs


@pytest.mark.parametrize(
    ("index", "value", "is_good"),
    [
        (0x277, 0x0007_0406_0007_0406, True),
        (0x277, 0x0007_0406_0007_0402, False),  # memory type 2
        (0xC000_0080, 0xD01, True),
        (0xC000_0080, 0x100D01, False),
        (0xC000_0080, 0xC01, False),  # LME while paging is on
        (0xC000_0100, 1 << 47, False),  # not canonical
        (0xC000_0100, (1 << 64) - 4096, True),
        (0xC000_0082, 1 << 63, False),
        (0x176, 1 << 47, False),
        (0x1B, 0xFEE0_0D00 | 1 << 46, False),  # beyond the physical-address width
        (0x3A, 0, False),  # locked
        (0x480, 0, False),  # a capability
        (0xFE, 0, False),  # MTRRcap
        (0x2FF, 0x806, True),
        (0x2FF, 0x807, False),
        (0x200, 0x8000_0006, True),
        (0x200, 0x8000_0003, False),
        (0x250, 0x0606_0606_0606_0606, True),
        (0x8B, 0, True),
        (0x174, 0x08, True),
        (0x10, 5, True),
        (0x1234_5678, 0, False),
        (0x4000_0000, 0, False),
    ],
)
def test_writing_an_msr(index: int, value: int, is_good: bool) -> None:
    pc = Pc().long("0f30 f4")
    pc.state.gpr[RCX], pc.state.gpr[RAX], pc.state.gpr[RDX] = (
        index,
        value & 0xFFFF_FFFF,
        value >> 32,
    )
    assert pc.event() == (None if is_good else Vector.GP)


@pytest.mark.parametrize(
    "index", [0x1234_5678, 0x4000_0000, 0xC001_0117, 0x492, 0x20F0, 0xC000_0200]
)
def test_reading_an_msr_that_there_is_not(index: int) -> None:
    pc = Pc().long("0f32 f4")
    pc.state.gpr[RCX] = index
    assert pc.event() == Vector.GP


def test_msrs_are_for_level_0() -> None:
    for code in ("0f30", "0f32"):
        pc = Pc().long(code, cpl=3)
        pc.state.gpr[RCX] = 0x277
        assert pc.event() == Vector.GP


def test_every_msr_that_can_be_written_reads_back() -> None:
    for index, value in {
        0x174: 0x33,
        0x175: 0x1234_5678,
        0x176: 0x7FFF_1234_5678,
        0xC000_0081: 0x0023_0010_0000_0000,
        0xC000_0082: (1 << 64) - 8,
        0xC000_0084: 0x47700,
        0xC000_0100: 0x1234_5678_9ABC,
        0xC000_0102: 0x7000,
        0xC000_0103: 7,
        0x277: 0x0007_0406_0007_0401,
        0x2FF: 0xC06,
        0x201: 0x3F_FFC0_0800,
        0x26F: 0x0505_0505_0505_0505,
    }.items():
        pc = Pc().long("0f30 31c0 31d2 0f32 f4")
        gpr = pc.state.gpr
        gpr[RCX], gpr[RAX], gpr[RDX] = index, value & 0xFFFF_FFFF, value >> 32
        assert pc.event() is None, hex(index)
        assert gpr[RDX] << 32 | gpr[RAX] == value, hex(index)


# CPUID


def cpuid(leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    pc = Pc().long("0fa2 f4")
    gpr = pc.state.gpr
    gpr[RAX], gpr[RCX] = leaf, subleaf
    assert pc.event() is None
    return gpr[RAX], gpr[RBX], gpr[RCX], gpr[RDX]


def test_cpuid_names_a_processor_with_vmx() -> None:
    largest, *name = cpuid(0)
    assert largest >= 0x15
    assert (
        b"".join(one.to_bytes(4, "little") for one in (name[0], name[2], name[1]))
        == b"GenuineIntel"
    )
    assert cpuid(1)[2] >> 5 & 1
    assert cpuid(0x8000_0008)[0] & 0xFF >= 40
    brand = [word for leaf in (2, 3, 4) for word in cpuid(0x8000_0000 + leaf)]
    assert b"".join(one.to_bytes(4, "little") for one in brand).decode().strip(NUL + " ")


def test_there_is_no_performance_monitoring() -> None:
    assert cpuid(0xA) == (0, 0, 0, 0)


def test_a_leaf_beyond_the_last_gives_the_last_one() -> None:
    assert cpuid(0x7777) == cpuid(cpuid(0)[0])
    assert cpuid(0x4000_0000) == cpuid(cpuid(0)[0])


# Task switches by the engine


@pytest.mark.parametrize("through_gate", [False, True])
def test_a_jump_to_another_task_takes_its_page_tables(through_gate: bool) -> None:
    selector, gate = 0x98, 0xA0
    pc = Pc().protected(f"ea 00000000 {(gate if through_gate else selector):02x}00", paging="32")
    pages = BumpAllocator(2 * MIB, 3 * MIB)
    table = PageTable.create(PAGING_32.bind(Features(nx=False)), pc.memory, pages)
    table.map(0, 0, MIB, make_attributes("RWX", user=True), max_shift=12)
    table.unmap(0x3_0000, 0x1000)
    table.map(0x3_0000, 0x9000, 0x1000, make_attributes("RWX", user=True))
    other = 0x6000
    pc.memory.write(other, bytes(0x68))
    for offset, value in {
        0x1C: table.root, 0x20: 0x3_0000, 0x24: 2, 0x38: 0x2_4000,
        0x48: DATA32, 0x4C: CODE32, 0x50: DATA32, 0x54: DATA32, 0x58: DATA32, 0x5C: DATA32,
        0x28: 0x1111,
    }.items():  # fmt: skip
        pc.memory.store(other + offset, 4, value)
    pc.memory.store(GDT + selector, 8, descriptor(0x0089, base=other, limit=0x67))
    pc.memory.store(GDT + gate, 8, 0x0000_8500_0000_0000 | selector << 16)
    pc.state.set_table(GDTR, GDT, 0xA7)
    pc.put(0x9000, "40 f4")  # inc eax; hlt
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.gpr[RAX]) == (0x3_0002, 0x1112)
    assert (pc.state.cr3, pc.state.segment(TR).selector) == (table.root, selector)
    assert pc.state.cr0 & 8  # TS
    assert pc.memory.load(0x4000 + 0x20, 4) == CODE + 7  # where the old task goes on


def test_cpuid_tells_the_apic_timers_clock() -> None:
    denominator, numerator, crystal, _ = cpuid(0x15)
    assert crystal == 100_000_000
    assert crystal * numerator // denominator == 1_000_000_000
