"""Far JMP, CALL and RET, IRET, call gates and task switches, in every mode."""

import pytest
from cpu_support import (
    ABSENT,
    CODE,
    CODE16,
    CODE32,
    CODE64,
    CONFORMING,
    CS,
    DATA32,
    DS,
    FS,
    GDT,
    GS,
    HANDLERS,
    LAST,
    READ_ONLY,
    RING1_CODE,
    RSP,
    SS,
    STACK0,
    STACK3,
    TASK,
    TR,
    TSS,
    USER_CODE32,
    USER_CODE64,
    USER_DATA,
    Pc,
    descriptor,
    segment,
)

from turducken.arch.exceptions import Vector
from turducken.arch.segments import UNUSABLE
from turducken.cpu.engine import Trap
from turducken.machine.machine import Outcome
from turducken.paging.rights import make_attributes

FAR = HANDLERS + 0x4000
"""Where far transfers go: HLT."""
GATE, OTHER_TSS, UNMARKED, UNMARKED_DATA = LAST, LAST + 8, LAST + 16, LAST + 24
SECOND_TASK = 0x6000
NULL = 0


def ready(pc: Pc) -> Pc:
    """Add some descriptors, and code at `FAR`."""
    pc.put(FAR, "f4")
    pc.memory.store(GDT + UNMARKED, 8, descriptor(0xA09A if pc.state.is_64bit else 0xC09A))
    pc.memory.store(GDT + UNMARKED_DATA, 8, descriptor(0xC092))
    pc.state.set_table(8, GDT, LAST + 0x30)
    return pc


def access_of(pc: Pc, selector: int) -> int:
    return pc.memory.load(GDT + selector + 5, 1)


def frame(pc: Pc, count: int, size: int = 4) -> list[int]:
    return pc.words(pc.state.gpr[RSP], count, size)


def stack(pc: Pc, *words: int, size: int = 4) -> None:
    pc.state.gpr[RSP] -= size * len(words)
    for number, one in enumerate(words):
        pc.memory.store(pc.state.gpr[RSP] + size * number, size, one & (1 << 8 * size) - 1)


def le(value: int, size: int = 4) -> str:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little").hex()


def gate(
    pc: Pc, selector: int, offset: int, *, kind: int = 12, dpl: int = 3, count: int = 0
) -> None:
    low = offset & 0xFFFF | selector << 16 | count << 32 | kind << 40 | dpl << 45 | 1 << 47
    pc.memory.store(GDT + GATE, 8, low | (offset >> 16 & 0xFFFF) << 48)
    pc.memory.store(GDT + GATE + 8, 8, offset >> 32)


def jump(selector: int) -> str:
    return "ea" + le(FAR) + le(selector, 2)


def call(selector: int) -> str:
    return "9a" + le(FAR) + le(selector, 2)


# Accessed bits


@pytest.mark.parametrize("how", ["jmp", "call", "retf", "iret"])
def test_a_code_segment_is_marked_accessed_where_it_is_loaded(how: str) -> None:
    code = {"jmp": jump(UNMARKED), "call": call(UNMARKED), "retf": "cb", "iret": "cf"}[how]
    pc = ready(Pc().protected(code))
    stack(pc, FAR, UNMARKED, 2)
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.segment(CS).access) == (FAR + 1, 0xC09B)
    assert access_of(pc, UNMARKED) == 0x9B


def test_iret_in_64bit_mode_marks_code_and_stack() -> None:
    pc = ready(Pc().long("48cf"))
    stack(pc, FAR, UNMARKED, 2, STACK0, UNMARKED_DATA, size=8)
    assert pc.run() is Outcome.HALTED
    assert (access_of(pc, UNMARKED), access_of(pc, UNMARKED_DATA)) == (0x9B, 0x93)


def test_a_descriptor_that_cannot_be_marked_faults_before_anything_changes() -> None:
    pc = ready(Pc().protected(jump(UNMARKED), paging="32"))
    assert pc.table is not None
    pc.table.map(GDT, GDT, 0x1000, make_attributes("RX"), max_shift=12)
    assert pc.event() == Vector.PF
    assert pc.state.cr2 == GDT + UNMARKED + 5
    assert frame(pc, 3)[:3] == [3, CODE, CODE32]


# Refusals: what is asked for, the exception, its error code


@pytest.mark.parametrize(
    ("selector", "vector"),
    [
        (NULL, Vector.GP),
        (3, Vector.GP),
        (LAST + 0x80, Vector.GP),
        (DATA32, Vector.GP),
        (ABSENT, Vector.NP),
        (USER_CODE32, Vector.GP),
        (RING1_CODE, Vector.GP),
        (CODE32 | 1, Vector.GP),
        (0x0C, Vector.GP),
    ],
)
@pytest.mark.parametrize("how", [jump, call])
def test_selectors_that_jmp_and_call_refuse(how, selector: int, vector: int) -> None:  # type: ignore[no-untyped-def]
    pc = ready(Pc().protected(how(selector)))
    assert pc.event() == vector
    assert frame(pc, 2) == [selector & 0xFFFC, CODE]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((FAR, NULL, 2), 0),
        ((FAR, DATA32, 2), DATA32),
        ((FAR, USER_CODE32 & ~3, 2), USER_CODE32 & ~3),
        ((FAR, USER_CODE32, 2, STACK3, NULL), 0),
        ((FAR, USER_CODE32, 2, STACK3, DATA32), DATA32),
        ((FAR, USER_CODE32, 2, STACK3, USER_DATA & ~3), USER_DATA & ~3),
    ],
)
def test_frames_that_iret_refuses(words: tuple[int, ...], code: int) -> None:
    pc = ready(Pc().protected("cf"))
    stack(pc, *words)
    assert pc.event() == Vector.GP
    assert frame(pc, 3) == [code, CODE, CODE32]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((1 << 47, CODE64, 2, STACK0, DATA32), 0),
        ((FAR, USER_CODE64, 2, STACK3, NULL), 0),
        ((FAR, USER_CODE64, 2, STACK3, 3), 0),
        ((FAR, CODE64, 2, STACK0, 1), 0),
        ((FAR, CODE64, 2, STACK0, READ_ONLY), READ_ONLY),
        ((FAR, CODE64, 0x4002, STACK0, USER_DATA), USER_DATA & ~3),
    ],
)
def test_frames_that_iretq_refuses(words: tuple[int, ...], code: int) -> None:
    pc = ready(Pc().long("48cf"))
    stack(pc, *words, size=8)
    assert pc.event() == Vector.GP
    assert frame(pc, 3, 8) == [code, CODE, CODE64]


def test_iret_in_ia32e_mode_refuses_nested_tasks() -> None:
    pc = ready(Pc().long("48cf"))
    pc.state.rflags |= 1 << 14
    assert pc.event() == Vector.GP


def test_a_null_stack_segment_is_good_in_64bit_mode_below_level_3() -> None:
    pc = ready(Pc().long("48cf"))
    stack(pc, FAR, CODE64, 2, STACK0, NULL, size=8)
    assert pc.run() is Outcome.HALTED
    assert pc.state.segment(SS) == segment(0, UNUSABLE, limit=0)


# Returns to outer levels


@pytest.mark.parametrize("code", ["48cf", "48cb"], ids=["iretq", "retfq"])
def test_segments_of_the_inner_level_are_lost_but_not_the_bases(code: str) -> None:
    pc = ready(Pc().long(code))
    for index in (FS, GS):
        pc.state.set_segment(index, segment(DATA32, 0xC093, base=0x1234_5678_9000))
    flags = (2,) if code == "48cf" else ()
    stack(pc, FAR, USER_CODE64, *flags, STACK3, USER_DATA, size=8)
    pc.put(FAR, "ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    assert (pc.state.cpl, pc.state.gpr[RSP]) == (3, STACK3)
    for index in (FS, GS):
        found = pc.state.segment(index)
        assert (found.selector, found.base, found.is_usable) == (0, 0x1234_5678_9000, False)
    assert not pc.state.segment(DS).is_usable


def test_far_return_releases_parameters_of_both_stacks() -> None:
    pc = ready(Pc().protected("ca0800"))
    stack(pc, FAR, USER_CODE32, 11, 22, STACK3 - 0x20, USER_DATA)
    pc.put(FAR, "ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    assert (pc.state.rip, pc.state.gpr[RSP]) == (FAR, STACK3 - 0x18)


def test_iret_at_level_3_changes_neither_iopl_nor_if() -> None:
    pc = ready(Pc().protected("cf", cpl=3))
    stack(pc, FAR, USER_CODE32, 0x3202 | 1 << 11)
    pc.put(FAR, "ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    assert pc.state.rflags == 0x802


def test_iret_to_virtual_8086_mode() -> None:
    pc = ready(Pc().protected("cf"))
    stack(pc, 0x10, CODE >> 4, 0x2_0002, 0x100, 0x200, 0x300, 0x400, 0x500, 0x600)
    pc.put(CODE + 0x10, "ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    state = pc.state
    assert (state.cpl, state.rip, state.gpr[RSP]) == (3, 0x10, 0x100)
    assert [state.segment(one).base for one in (CS, SS, DS, FS, GS)] == [
        CODE, 0x2000, 0x4000, 0x5000, 0x6000,
    ]  # fmt: skip


@pytest.mark.parametrize("iopl", [0, 3])
def test_iret_in_virtual_8086_mode_is_for_iopl_3(iopl: int) -> None:
    pc = Pc().virtual_8086("cf", iopl=iopl)
    base = pc.state.segment(SS).base + pc.state.gpr[RSP]
    for number, one in enumerate((0x10, CODE >> 4, 0x0802)):
        pc.memory.store(base + 2 * number, 2, one)
    pc.put(CODE + 0x10, "ebfe")
    if iopl == 0:
        assert pc.event() == Vector.GP
    else:
        assert pc.run(1000) is Outcome.LIMIT
        assert (pc.state.rip, pc.state.rflags) == (0x10, 0x2_3802)


def test_real_mode_far_transfers() -> None:
    """CALL 1100:0, which returns; IRET to 1000:20h."""
    pc = Pc().real("9a00000011 9c 6800106a20 cf")
    pc.put(0x1_1000, "40 cb")
    pc.put(CODE + 0x20, "f4")
    pc.put(CODE + 5, "9c 680010 6a20 cf")
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.gpr[0]) == (0x21, 1)


# Call gates


def test_a_call_gate_to_an_inner_level_copies_parameters() -> None:
    pc = ready(Pc().protected(call(GATE | 3), cpl=3))
    gate(pc, CODE32, FAR, count=2)
    stack(pc, 11, 22)
    assert pc.run() is Outcome.HALTED
    state = pc.state
    assert (state.cpl, state.rip, state.segment(SS).selector) == (0, FAR + 1, DATA32)
    assert state.gpr[RSP] == STACK0 - 24
    assert frame(pc, 6) == [CODE + 7, USER_CODE32, 11, 22, STACK3 - 8, USER_DATA]


def test_a_call_gate_in_64bit_mode() -> None:
    pc = ready(Pc().long("ff1c25" + le(CODE + 0x40), cpl=3))
    pc.put(CODE + 0x40, le(0) + le(GATE | 3, 2))
    gate(pc, CODE64, FAR)
    assert pc.run() is Outcome.HALTED
    state = pc.state
    assert (state.cpl, state.segment(SS).selector, state.segment(SS).is_usable) == (0, 0, False)
    assert frame(pc, 4, 8) == [CODE + 7, USER_CODE64, STACK3, USER_DATA]


def test_a_call_gate_of_the_same_level_and_jmp_through_one() -> None:
    for code in (call(GATE), jump(GATE)):
        pc = ready(Pc().protected(code))
        gate(pc, CODE32, FAR)
        assert pc.run() is Outcome.HALTED
        assert pc.state.rip == FAR + 1
    assert pc.state.gpr[RSP] == STACK0


def test_16bit_gates_push_words() -> None:
    pc = ready(Pc().protected(call(GATE | 3), cpl=3))
    gate(pc, CODE16, 0x8000, kind=4)
    pc.put(0x8000, "f4")
    assert pc.run() is Outcome.HALTED
    assert frame(pc, 4, 2) == [(CODE + 7) & 0xFFFF, USER_CODE32, STACK3 & 0xFFFF, USER_DATA]


@pytest.mark.parametrize(
    ("setup", "vector", "code"),
    [
        (lambda pc: gate(pc, CODE32, FAR, dpl=2), Vector.GP, GATE),
        (lambda pc: gate(pc, DATA32, FAR), Vector.GP, DATA32),
        (lambda pc: gate(pc, NULL, FAR), Vector.GP, 0),
        (lambda pc: (gate(pc, CODE32, FAR), pc.memory.store(TASK + 8, 4, 0)), Vector.TS, 0),
        (
            lambda pc: (gate(pc, CODE32, FAR), pc.memory.store(TASK + 8, 4, READ_ONLY)),
            Vector.TS,
            READ_ONLY,
        ),
    ],
)
def test_call_gates_that_are_refused(setup, vector: int, code: int) -> None:  # type: ignore[no-untyped-def]
    pc = ready(Pc().protected(call(GATE | 3), cpl=3))
    pc.gate(vector, CONFORMING, offset=FAR + 0x100)  # which needs no other stack
    pc.put(FAR + 0x100, "ebfe")
    setup(pc)
    assert pc.run(1000) is Outcome.LIMIT
    assert (pc.state.rip, frame(pc, 2)) == (FAR + 0x100, [code, CODE])


# Task switches


def with_task(pc: Pc, **registers: int) -> Pc:
    """Add a task whose code at `FAR` halts; ``registers`` by offset names of its TSS."""
    ready(pc)
    places = {"link": 0, "eip": 0x20, "flags": 0x24, "eax": 0x28, "esp": 0x38}
    places |= {"es": 0x48, "cs": 0x4C, "ss": 0x50, "ds": 0x54, "fs": 0x58, "gs": 0x5C, "ldt": 0x60}
    values = {"eip": FAR, "flags": 2, "cs": CODE32, "esp": 0x3_0000} | registers
    values = dict.fromkeys(("ss", "ds", "es", "fs", "gs"), DATA32) | values
    pc.memory.write(SECOND_TASK, bytes(0x68))
    pc.memory.store(SECOND_TASK + 0x1C, 4, pc.state.cr3)
    for name, value in values.items():
        pc.memory.store(SECOND_TASK + places[name], 4, value)
    pc.memory.store(GDT + OTHER_TSS, 8, descriptor(0x89, base=SECOND_TASK, limit=0x67))
    return pc


@pytest.mark.parametrize("paging", ["", "32", "PAE"])
def test_jmp_to_a_task(paging: str) -> None:
    pc = with_task(Pc().protected(jump(OTHER_TSS), paging=paging), eax=0x1234)
    pc.state.gpr[3] = 77
    assert pc.run() is Outcome.HALTED
    state = pc.state
    assert (state.rip, state.gpr[0], state.gpr[RSP]) == (FAR + 1, 0x1234, 0x3_0000)
    assert (state.segment(TR).selector, state.segment(TR).access) == (OTHER_TSS, 0x8B)
    assert (access_of(pc, TSS), access_of(pc, OTHER_TSS)) == (0x89, 0x8B)
    assert (pc.memory.load(TASK + 0x20, 4), pc.memory.load(TASK + 0x34, 4)) == (CODE + 7, 77)
    assert state.cr0 & 8


def test_call_to_a_task_and_back() -> None:
    pc = with_task(Pc().protected(call(OTHER_TSS) + "f4"))
    pc.put(FAR, "40 cf")
    pc.state.gpr[3] = 5
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.gpr[3]) == (CODE + 8, 5)
    assert pc.memory.load(SECOND_TASK, 2) == TSS
    assert (access_of(pc, TSS), access_of(pc, OTHER_TSS)) == (0x8B, 0x89)
    assert pc.memory.load(SECOND_TASK + 0x24, 4) & 1 << 14 == 0
    assert pc.memory.load(SECOND_TASK + 0x28, 4) == 1


def test_a_task_gate_in_the_idt() -> None:
    pc = with_task(Pc().protected("0f0b"))
    pc.gate(Vector.UD, OTHER_TSS, kind=5)
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.rflags & 1 << 14) == (FAR + 1, 1 << 14)
    assert pc.memory.load(TASK + 0x20, 4) == CODE


def test_a_task_gate_for_an_exception_with_an_error_code() -> None:
    pc = with_task(Pc().protected(jump(DATA32)))
    pc.gate(Vector.GP, OTHER_TSS, kind=5)
    assert pc.run() is Outcome.HALTED
    assert (pc.state.gpr[RSP], frame(pc, 1)) == (0x2_FFFC, [DATA32])


def test_a_task_gate_that_names_a_busy_task() -> None:
    pc = ready(Pc().protected("0f0b"))
    pc.gate(Vector.UD, TSS, kind=5)
    assert pc.event() == Vector.GP
    assert frame(pc, 2) == [TSS | 1, CODE]


def test_the_debug_trap_of_a_task() -> None:
    pc = with_task(Pc().protected(jump(OTHER_TSS)))
    pc.memory.store(SECOND_TASK + 0x64, 4, 1)
    assert pc.event() == Vector.DB
    assert (pc.p.dr[6] & 0x8000, frame(pc, 1)) == (0x8000, [FAR])


@pytest.mark.parametrize(
    ("registers", "vector", "code"),
    [
        ({"cs": DATA32}, Vector.TS, DATA32),
        ({"cs": ABSENT}, Vector.NP, ABSENT),
        ({"ss": READ_ONLY}, Vector.TS, READ_ONLY),
        ({"ss": NULL}, Vector.TS, 0),
        ({"ds": LAST + 0x80}, Vector.TS, LAST + 0x80),
        ({"ldt": DATA32}, Vector.TS, DATA32),
    ],
)
def test_faults_in_the_new_task(registers: dict[str, int], vector: int, code: int) -> None:
    """The handler is a task of its own: nothing of the failed one is sure."""
    pc = with_task(Pc().protected(jump(OTHER_TSS)), **registers)
    pc.memory.store(GDT + GATE, 8, descriptor(0x89, base=0x7000, limit=0x67))
    pc.memory.write(0x7000, pc.memory.read(SECOND_TASK, 0x68))
    for place, value in ((0x20, FAR), (0x4C, CODE32), (0x50, DATA32), (0x54, DATA32), (0x60, 0)):
        pc.memory.store(0x7000 + place, 4, value)
    pc.gate(vector, GATE, kind=5)
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, frame(pc, 1)) == (FAR + 1, [code])
    assert pc.memory.load(0x7000, 2) == OTHER_TSS


def test_a_task_of_virtual_8086_mode() -> None:
    pc = with_task(
        Pc().protected(jump(OTHER_TSS)), flags=0x2_0002, eip=0x20, cs=CODE >> 4, ss=0x300
    )
    pc.put(CODE + 0x20, "ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    assert (pc.state.cpl, pc.state.rip, pc.state.segment(SS).base) == (3, 0x20, 0x3000)


# SS


@pytest.mark.parametrize("selector", [1, 2, 3])
def test_a_null_stack_segment_needs_the_rpl_of_the_level(selector: int) -> None:
    pc = ready(Pc().long("b8" + le(selector) + "8ed0"))
    assert pc.event() == Vector.GP
    assert frame(pc, 2, 8) == [0, CODE + 5]


@pytest.mark.parametrize("code", ["8ed0", "50 17", "0fb20425" + le(CODE + 0x40)])
def test_loads_of_ss_mark_the_descriptor(code: str) -> None:
    pc = ready(Pc().protected("b8" + le(UNMARKED_DATA) + code.replace("0425", "05") + "f4"))
    pc.put(CODE + 0x40, le(STACK0) + le(UNMARKED_DATA, 2))
    assert pc.run() is Outcome.HALTED
    assert (pc.state.segment(SS).selector, access_of(pc, UNMARKED_DATA)) == (UNMARKED_DATA, 0x93)


def test_what_ends_in_the_opcode_of_sti_is_not_taken_for_it() -> None:
    """MOV SS, [EBP - 5]: its last byte is FBH."""
    pc = ready(Pc().protected("8e55fb ebfe"))
    pc.state.gpr[5] = CODE + 0x45
    pc.memory.store(CODE + 0x40, 2, DATA32)
    pc.p.handlers[Trap.SPECIAL](pc.p)
    assert pc.state.in_shadow
    assert not pc.p.is_blocked_by_sti()
