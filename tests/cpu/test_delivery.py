"""Delivery of interrupts and exceptions through the IDT, in every mode, step by step.

SDM 3A, "Interrupt and Exception Handling"; SDM 2A, "INT n/INTO/INT3/INT1".
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cpu_support import (
    ABSENT,
    CODE,
    CODE16,
    CODE32,
    CODE64,
    CONFORMING,
    CONFORMING64,
    CS,
    DATA32,
    DS,
    ES,
    GDT,
    GDTR,
    HANDLERS,
    IDT,
    IDTR,
    IST1,
    LDTR,
    READ_ONLY,
    REAL_HANDLERS,
    RING1_CODE,
    RING1_DATA,
    RSP,
    SS,
    STACK0,
    STACK1,
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
from turducken.cpu.engine.segments import UNUSABLE
from turducken.machine.machine import Outcome
from turducken.paging.rights import R, U, W, make_attributes

IF, TF, NT, RF, VM, AC = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17, 1 << 18
INT = "cd30"
N = 0x30
UD = "0f0b"
GP_BY_NULL = "8cd8 31c0 8ed0"
"""mov eax, ds; xor eax, eax; mov ss, ax: #GP(0) at offset 4."""


def frame(pc: Pc, count: int, size: int = 4) -> list[int]:
    state = pc.state
    base = 0 if state.is_64bit else state.segment_base(SS)
    return pc.words(base + (state.gpr[RSP] & 0xFFFF_FFFF), count, size)


# Protected mode: what a handler finds


@pytest.mark.parametrize("kind", [14, 15])
def test_a_handler_at_the_same_level(kind: int) -> None:
    pc = Pc().protected(INT)
    pc.gate(N, CODE32, kind=kind)
    pc.state.rflags = 2 | IF | 0x4000 | AC
    pc.run(10)  # the handler's HLT waits with IF set in a trap gate
    assert pc.vector() == N
    assert frame(pc, 3) == [CODE + 2, CODE32, 2 | IF | NT | AC]
    assert pc.state.gpr[RSP] == STACK0 - 12
    assert pc.state.rflags & (IF | NT | TF | RF | AC) == (AC | IF if kind == 15 else AC)
    assert pc.state.cpl == 0


def test_a_fault_pushes_its_own_address_and_sets_rf() -> None:
    pc = Pc().protected(UD)
    assert pc.event() == Vector.UD
    assert frame(pc, 3) == [CODE, CODE32, 2 | RF]
    assert not pc.state.rflags & RF


def test_a_software_interrupt_pushes_rf_clear() -> None:
    pc = Pc().protected(INT)
    pc.state.rflags = 2 | RF
    assert pc.event() == N
    assert frame(pc, 3)[2] == 2


def test_an_error_code_is_pushed_last() -> None:
    pc = Pc().protected(GP_BY_NULL)
    assert pc.event() == Vector.GP
    assert frame(pc, 4) == [0, CODE + 4, CODE32, 2 | RF | 0x44]
    assert pc.state.gpr[RSP] == STACK0 - 16


def test_ltr_refuses_the_null_selector() -> None:
    """SDM 2A, "LTR - Load Task Register"; `mov eax, ds; xor eax, eax; ltr ax`."""
    pc = Pc().protected("8cd8 31c0 0f00d8")
    before = pc.state.segment(TR)
    assert pc.event() == Vector.GP
    assert frame(pc, 2) == [0, CODE + 4]
    assert pc.state.segment(TR) == before


def test_a_handler_at_a_higher_level_has_its_own_stack() -> None:
    pc = Pc().protected(UD, cpl=3)
    assert pc.event() == Vector.UD
    assert frame(pc, 5) == [CODE, USER_CODE32, 2 | RF, STACK3, USER_DATA]
    state = pc.state
    assert (state.cpl, state.segment(SS).selector, state.segment(CS).selector) == (
        0,
        DATA32,
        CODE32,
    )
    assert state.gpr[RSP] == STACK0 - 20
    assert state.segment(DS).selector == USER_DATA  # data segments stay


def test_a_handler_at_level_1() -> None:
    pc = Pc().protected(UD, cpl=3)
    pc.gate(Vector.UD, RING1_CODE, offset=HANDLERS + 0x800)
    pc.put(HANDLERS + 0x800, "ebfe")
    pc.run(10)
    state = pc.state
    assert (state.cpl, state.rip, state.gpr[RSP]) == (1, HANDLERS + 0x800, STACK1 - 20)
    assert (state.segment(CS).selector, state.segment(SS).selector) == (RING1_CODE | 1, RING1_DATA)


def test_a_conforming_handler_runs_at_the_interrupted_level() -> None:
    pc = Pc().protected(UD, cpl=3)
    pc.gate(Vector.UD, CONFORMING, offset=HANDLERS + 0x800)
    pc.put(HANDLERS + 0x800, "ebfe")
    pc.run(10)
    assert (pc.state.cpl, pc.state.segment(CS).selector) == (3, CONFORMING | 3)
    assert frame(pc, 3) == [CODE, USER_CODE32, 2 | RF]
    assert pc.state.gpr[RSP] == STACK3 - 12


@pytest.mark.parametrize("kind", [6, 7])
def test_a_16_bit_gate_pushes_words(kind: int) -> None:
    pc = Pc().protected(GP_BY_NULL)
    pc.gate(Vector.GP, CODE32, kind=kind, offset=0x3300)
    pc.put(0x3300, "f4")
    assert pc.run() is Outcome.HALTED
    assert frame(pc, 4, 2) == [0, CODE + 4 & 0xFFFF, CODE32, 0x46]
    assert (pc.state.gpr[RSP], pc.state.rip) == (STACK0 - 8, 0x3301)


def test_a_16_bit_stack_and_tss() -> None:
    pc = Pc().protected(UD, cpl=3)
    pc.memory.store(GDT + 0xA0, 8, descriptor(0x0093, base=0x1_8000, limit=0x0FFF))
    pc.state.set_table(GDTR, GDT, 0xA7)
    pc.state.set_segment(TR, segment(TSS, 0x83, base=TASK, limit=0x2B))
    pc.memory.store(TASK + 2, 4, 0xA0 << 16 | 0x800)
    assert pc.event() == Vector.UD
    assert pc.state.gpr[RSP] == 0x800 - 20
    assert pc.words(0x1_8000 + 0x800 - 20, 5, 4) == [CODE, USER_CODE32, 2 | RF, STACK3, USER_DATA]


def test_single_stepping_ends_in_the_handler() -> None:
    pc = Pc().protected("9090 f4")
    pc.state.rflags = 2 | TF
    assert pc.event() == Vector.DB
    assert frame(pc, 3) == [CODE + 1, CODE32, 2 | TF]
    assert not pc.state.rflags & TF
    assert pc.p.dr[6] & 0x4000


@pytest.mark.parametrize("code", [INT, UD])
def test_the_handler_returns_by_iret(code: str) -> None:
    pc = Pc().protected("9090" + code + "31db f4", cpl=0)
    pc.put(HANDLERS + 0x10 * N, "cf")
    pc.put(HANDLERS + 0x10 * Vector.UD, "83042402 cf")  # add dword [esp], 2; iret
    pc.state.gpr[3] = 7
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.gpr[3], pc.state.gpr[RSP]) == (CODE + 7, 0, STACK0)


def test_from_user_mode_and_back() -> None:
    pc = Pc().protected(INT + "b907000000 ebfe", cpl=3)
    pc.gate(N, CODE32, dpl=3)
    pc.put(HANDLERS + 0x10 * N, "ba05000000 cf")
    pc.run(100)
    state = pc.state
    assert (state.rip, state.cpl, state.gpr[1], state.gpr[2]) == (CODE + 7, 3, 7, 5)
    assert (state.gpr[RSP], state.segment(SS).selector) == (STACK3, USER_DATA)


def test_the_code_descriptor_is_marked_accessed() -> None:
    pc = Pc().protected(INT)
    pc.memory.store(GDT + CODE32, 8, descriptor(0xC09A))
    assert pc.event() == N
    assert pc.memory.load(GDT + CODE32, 8) == descriptor(0xC09B)
    assert pc.state.segment(CS).access == 0xC09B


# Protected mode: what goes wrong, in the manual's order


@dataclass(frozen=True)
class Row:
    """A set-up in which delivering ``code``'s event causes ``vector`` with ``error``."""

    name: str
    set_up: Callable[[Pc], None]
    vector: int
    error: int
    cpl: int = 0
    code: str = INT
    length: int = 0
    """How far RIP has advanced when the event comes."""


def gates(**how: int) -> Callable[[Pc], None]:
    def set_up(pc: Pc) -> None:
        selector = how.get("selector", CODE32)
        rest = {key: value for key, value in how.items() if key not in ("selector", "vector")}
        pc.gate(how.get("vector", N), selector, **rest)  # type: ignore[arg-type]

    return set_up


def both(*parts: Callable[[Pc], None]) -> Callable[[Pc], None]:
    def set_up(pc: Pc) -> None:
        for one in parts:
            one(pc)

    return set_up


def table(index: int, base: int, limit: int) -> Callable[[Pc], None]:
    return lambda pc: pc.state.set_table(index, base, limit)


def store(address: int, size: int, value: int) -> Callable[[Pc], None]:
    return lambda pc: pc.memory.store(address, size, value)


def stack_of_ring0(selector: int, pointer: int = STACK0) -> Callable[[Pc], None]:
    return both(store(TASK + 4, 4, pointer), store(TASK + 8, 4, selector))


def tss(limit: int, *, access: int = 0x8B) -> Callable[[Pc], None]:
    return lambda pc: pc.state.set_segment(TR, segment(TSS, access, base=TASK, limit=limit))


def no_ldt(pc: Pc) -> None:
    pc.state.set_segment(LDTR, segment(0, UNUSABLE))


USER = gates(dpl=3)
IDT_CODE = N * 8 + 2
ROWS = (
    Row("beyond the IDT", table(IDTR, IDT, 8 * N + 6), Vector.GP, IDT_CODE),
    Row("not a gate", gates(kind=0xC), Vector.GP, IDT_CODE),
    Row("a TSS", gates(kind=9), Vector.GP, IDT_CODE),
    Row("DPL below CPL", gates(dpl=0), Vector.GP, IDT_CODE, cpl=3),
    Row("DPL below CPL: INT3", gates(vector=3), Vector.GP, 3 * 8 + 2, cpl=3, code="cc"),
    Row("DPL comes before presence", gates(present=False), Vector.GP, IDT_CODE, cpl=3),
    Row("gate not present", gates(present=False), Vector.NP, IDT_CODE),
    Row("gate not present, exception", gates(vector=6, present=False), Vector.NP, 0x33, code=UD),
    Row("null code segment", gates(selector=0), Vector.GP, 0),
    Row("null code segment, exception", gates(vector=6, selector=3), Vector.GP, 1, code=UD),
    Row("beyond the GDT", gates(selector=0x98), Vector.GP, 0x98),
    Row("beyond the LDT", gates(selector=0x104), Vector.GP, 0x104),
    Row("without an LDT", both(no_ldt, gates(selector=0x0C)), Vector.GP, 0x0C),
    Row("a data segment", gates(selector=DATA32 | 3), Vector.GP, DATA32),
    Row("a lower level", gates(selector=USER_CODE32), Vector.GP, USER_CODE32 & ~3),
    Row("code not present", gates(selector=ABSENT), Vector.NP, ABSENT),
    Row(
        "offset beyond the segment",
        both(store(GDT + CODE16, 8, descriptor(0x409B, limit=0xFF)), gates(selector=CODE16)),
        Vector.GP,
        0,
    ),
    Row("TSS too small", both(USER, tss(0xA)), Vector.TS, TSS, cpl=3),
    Row("TSS too small, 16 bits", both(USER, tss(4, access=0x83)), Vector.TS, TSS, cpl=3),
    Row("null stack segment", both(USER, stack_of_ring0(0)), Vector.TS, 0, cpl=3),
    Row("stack beyond the GDT", both(USER, stack_of_ring0(0x98)), Vector.TS, 0x98, cpl=3),
    Row("stack of another RPL", both(USER, stack_of_ring0(0x13)), Vector.TS, 0x10, cpl=3),
    Row("stack of another DPL", both(USER, stack_of_ring0(0x38)), Vector.TS, 0x38, cpl=3),
    Row("stack not writable", both(USER, stack_of_ring0(READ_ONLY)), Vector.TS, READ_ONLY, cpl=3),
    Row("stack is code", both(USER, stack_of_ring0(CODE32)), Vector.TS, CODE32, cpl=3),
    Row(
        "stack not present",
        both(USER, store(GDT + 0x10, 8, descriptor(0xC013))),
        Vector.SS,
        0x10,
        cpl=3,
    ),
    Row(
        "no room on the new stack",
        both(
            USER, store(GDT + 0x28, 8, descriptor(0x4093, limit=0xFF)), stack_of_ring0(0x28, 0x113)
        ),
        Vector.SS,
        0x28,
        cpl=3,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda one: one.name)
def test_what_goes_wrong_in_protected_mode(row: Row) -> None:
    pc = Pc().protected(row.code, cpl=row.cpl)
    # The second event's handler has a stack and a task of its own kind that work.
    pc.gate(row.vector, CODE32)
    if row.vector in (Vector.TS, Vector.SS):
        # At level 1: the ring-0 stack is what is wrong.
        pc.gate(row.vector, RING1_CODE, offset=HANDLERS + 0x1000)
        pc.put(HANDLERS + 0x1000, "ebfe")
    before = pc.memory.read(STACK0 - 64, 64)
    row.set_up(pc)
    if row.name.startswith("TSS too small"):
        # No stack can be loaded then: a double fault, and a triple fault.
        assert pc.run(100) is Outcome.TRIPLE_FAULT
        return
    pc.run(100)
    level = pc.state.cpl
    words = frame(pc, 3)
    assert words == [row.error, CODE + row.length, pc_code(row.cpl)]
    if level == 0:
        assert pc.vector() == row.vector
    else:
        assert pc.state.rip == HANDLERS + 0x1000
        assert pc.memory.read(STACK0 - 64, 64) == before  # nothing was pushed


def pc_code(cpl: int) -> int:
    return USER_CODE32 if cpl == 3 else CODE32


@pytest.mark.parametrize(("limit", "access"), [(0xA, 0x8B), (4, 0x83)])
def test_a_tss_too_small_is_ts_with_its_selector(limit: int, access: int) -> None:
    pc = Pc().protected(INT, cpl=3)
    pc.gate(N, CODE32, dpl=3)
    pc.gate(Vector.TS, CONFORMING, offset=HANDLERS + 0x1000)  # needs no stack from the TSS
    pc.put(HANDLERS + 0x1000, "ebfe")
    tss(limit, access=access)(pc)
    pc.run(100)
    assert pc.state.rip == HANDLERS + 0x1000
    assert frame(pc, 3) == [TSS, CODE, USER_CODE32]


def test_no_room_on_the_current_stack() -> None:
    pc = Pc().protected(INT)
    pc.state.set_segment(SS, segment(DATA32, 0x4093, limit=0xFF))
    pc.state.gpr[RSP] = 0x10B
    # #SS cannot be delivered on this stack either: a double fault, and a triple fault.
    assert pc.run(100) is Outcome.TRIPLE_FAULT


def test_an_expand_down_stack() -> None:
    pc = Pc().protected(INT)
    pc.state.set_segment(SS, segment(DATA32, 0x4097, limit=STACK0 - 13))
    assert pc.event() == N
    pc = Pc().protected(INT)
    pc.state.set_segment(SS, segment(DATA32, 0x4097, limit=STACK0 - 12))
    assert pc.run(100) is Outcome.TRIPLE_FAULT


def test_exceptions_do_not_look_at_the_gate_s_dpl() -> None:
    for code, vector in ((UD, Vector.UD), ("f7f1", Vector.DE), ("f1", Vector.DB)):
        pc = Pc().protected(code, cpl=3)
        assert pc.event() == vector


def test_into_and_bound_and_int3() -> None:
    pc = Pc().protected("b07f 0401 ce f4")
    assert pc.event() == Vector.OF
    assert frame(pc, 1) == [CODE + 5]
    pc = Pc().protected("62 05 00800000")
    pc.memory.store(0x8000, 8, 9 << 32 | 5)
    assert pc.event() == Vector.BR
    assert frame(pc, 1) == [CODE]
    pc = Pc().protected("cc")
    assert pc.event() == Vector.BP
    assert frame(pc, 1) == [CODE + 1]
    pc = Pc().protected("f1")
    assert pc.event() == Vector.DB
    assert frame(pc, 1) == [CODE + 1]


# Double and triple faults


FIRST = {
    "divide error": ("31c9 f7f1", Vector.DE, 2),
    "general protection": (GP_BY_NULL, Vector.GP, 4),
    "undefined": (UD, Vector.UD, 0),
    "breakpoint": ("cc", Vector.BP, 0),
    "interrupt": (INT, N, 0),
    "page fault": ("a1 00004000", Vector.PF, 0),
}
CONTRIBUTORY = {"divide error", "general protection"}


@pytest.mark.parametrize("second", ["contributory", "page fault"])
@pytest.mark.parametrize("first", FIRST)
def test_what_two_faults_become(first: str, second: str) -> None:
    """SDM 3A, "Interrupt 8 - Double Fault Exception"."""
    code, vector, offset = FIRST[first]
    pc = Pc().protected(code, paging="32")
    assert pc.table is not None
    if second == "contributory":
        pc.gate(vector, CODE32, present=False)
        follows = Vector.NP
    else:
        # The handler's descriptor lies in a page that is not there.
        pc.gate(vector, 0x1008)
        pc.state.set_table(GDTR, GDT, 0x1FFF)
        pc.table.unmap(GDT + 0x1000, 0x1000)
        pc.state.set_table(IDTR, 0x9000, 0x7FF)
        pc.memory.write(0x9000, pc.memory.read(IDT, 0x800))
        follows = Vector.PF
    is_double = first == "page fault" or (first in CONTRIBUTORY and second == "contributory")
    found = pc.event()
    if is_double:
        assert found == Vector.DF
        assert frame(pc, 2) == [0, CODE + offset]
        return
    assert found == follows
    assert frame(pc, 2)[1] == CODE + offset


def test_a_fault_during_a_double_fault_is_the_end() -> None:
    pc = Pc().protected(UD)
    pc.state.set_table(IDTR, IDT, 0)
    assert pc.run(100) is Outcome.TRIPLE_FAULT
    assert pc.p.statistics.triple_faults == 1
    assert pc.state.rip == CODE


def test_a_page_fault_during_a_double_fault_is_the_end_too() -> None:
    pc = Pc().protected("a1 00004000", paging="32")
    assert pc.table is not None
    pc.table.unmap(STACK0 - 0x1000, 0x1000)
    assert pc.run(100) is Outcome.TRIPLE_FAULT
    assert pc.state.gpr[RSP] == STACK0


# Faults in the middle


def test_a_page_fault_while_pushing() -> None:
    """The stack lies in two pages, of which the lower is missing; #PF has a stack that works."""
    pc = Pc().protected(INT, cpl=3, paging="32")
    assert pc.table is not None
    pc.gate(N, CODE32, dpl=3)
    pc.memory.store(TASK + 4, 4, STACK1 + 8)
    pc.table.unmap(STACK1 - 0x1000, 0x1000)
    # #PF is handled at level 1, whose stack is at STACK1 + 800h.
    pc.gate(Vector.PF, RING1_CODE, offset=HANDLERS + 0x1000)
    pc.memory.store(TASK + 12, 4, STACK1 + 0x800)
    pc.put(HANDLERS + 0x1000, "ebfe")
    pc.run(100)
    state = pc.state
    assert (state.rip, state.cpl) == (HANDLERS + 0x1000, 1)
    # A write by a supervisor-mode access, to the frame's lowest byte.
    assert (state.cr2, frame(pc, 1)[0]) == (STACK1 + 8 - 20, 2)
    assert frame(pc, 6)[1:] == [CODE, USER_CODE32, 2 | RF, STACK3, USER_DATA]
    assert pc.memory.read(STACK1, 8) == bytes(8)  # the upper part was not pushed


def test_a_handler_that_is_not_there_faults_as_itself() -> None:
    """The fetch of the handler's first instruction is no part of the delivery."""
    pc = Pc().protected(INT, paging="32")
    assert pc.table is not None
    pc.gate(N, CODE32, offset=0x3F_0000)
    pc.table.unmap(0x3F_0000, 0x1000)
    assert pc.event() == Vector.PF
    assert pc.state.cr2 == 0x3F_0000
    assert frame(pc, 3)[1:] == [0x3F_0000, CODE32]
    assert pc.words(STACK0 - 12, 3, 4) == [CODE + 2, CODE32, 2]


def test_a_user_mode_event_reads_its_tables_as_supervisor() -> None:
    pc = Pc().protected(UD, cpl=3, paging="32")
    assert pc.table is not None
    for page in (GDT, IDT, TASK, STACK0 - 0x1000, HANDLERS):
        pc.table.change(page, 0x1000, 0, U)
    assert pc.event() == Vector.UD


def test_the_accessed_bit_of_a_read_only_gdt_faults() -> None:
    pc = Pc().protected(INT, paging="32")
    assert pc.table is not None
    pc.memory.store(GDT + CODE16, 8, descriptor(0xC09A))
    pc.gate(N, CODE16)
    pc.table.change(GDT, 0x1000, make_attributes("R") & R, W)
    assert pc.event() == Vector.PF
    assert pc.state.cr2 == GDT + CODE16 + 5
    assert frame(pc, 2) == [3, CODE]


# IA-32e mode


@pytest.mark.parametrize("compatibility", [False, True])
def test_long_mode_always_pushes_the_stack_pointer(compatibility: bool) -> None:
    pc = Pc().long(INT, compatibility=compatibility)
    pc.state.gpr[RSP] = STACK0 - 3
    code = CODE32 if compatibility else CODE64
    assert pc.event() == N
    assert pc.state.gpr[RSP] == STACK0 - 16 - 40  # aligned to 16 bytes first
    assert frame(pc, 5, 8) == [CODE + 2, code, 2, STACK0 - 3, DATA32]
    assert pc.state.segment(SS).selector == DATA32
    assert pc.state.is_64bit


def test_long_mode_error_code_and_stack_switch() -> None:
    pc = Pc().long("668ed8 f4", cpl=3)
    pc.state.gpr[0] = CODE64
    assert pc.event() == Vector.GP
    assert pc.state.gpr[RSP] == STACK0 - 48
    assert frame(pc, 6, 8) == [CODE64, CODE, USER_CODE64, 2 | RF, STACK3, USER_DATA]
    stack = pc.state.segment(SS)
    assert stack.selector == 0
    assert pc.state.cpl == 0


def test_long_mode_interrupt_stack_table() -> None:
    for cpl in (0, 3):
        pc = Pc().long(UD, cpl=cpl)
        pc.gate(Vector.UD, CODE64, ist=1, long=True)
        assert pc.event() == Vector.UD
        assert pc.state.gpr[RSP] == IST1 - 40
        assert frame(pc, 4, 8)[3] == (STACK3 if cpl else STACK0)
        assert pc.state.segment(SS).selector == (0 if cpl else DATA32)


def test_long_mode_returns_by_iretq() -> None:
    pc = Pc().long(INT + "b907000000 ebfe", cpl=3)
    pc.gate(N, CODE64, dpl=3, long=True)
    pc.put(HANDLERS + 0x10 * N, "48cf")
    pc.run(100)
    state = pc.state
    assert (state.rip, state.cpl, state.gpr[1], state.gpr[RSP]) == (CODE + 7, 3, 7, STACK3)
    assert state.segment(SS).selector == USER_DATA


def long_gate(**how: int) -> Callable[[Pc], None]:
    def set_up(pc: Pc) -> None:
        pc.gate(N, how.pop("selector", CODE64), long=True, **how)  # type: ignore[arg-type]

    return set_up


def rsp0(value: int) -> Callable[[Pc], None]:
    return lambda pc: pc.memory.write(TASK + 4, value.to_bytes(8, "little"))


LONG_ROWS = (
    Row("beyond the IDT", table(IDTR, IDT, 16 * N + 14), Vector.GP, IDT_CODE),
    Row("a 16-bit gate", long_gate(kind=6), Vector.GP, IDT_CODE),
    Row("a task gate", long_gate(kind=5), Vector.GP, IDT_CODE),
    Row("DPL below CPL", long_gate(dpl=0), Vector.GP, IDT_CODE, cpl=3),
    Row("gate not present", long_gate(present=0), Vector.NP, IDT_CODE),
    Row("a 32-bit code segment", long_gate(selector=CODE32), Vector.GP, CODE32),
    Row("a null code segment", long_gate(selector=0), Vector.GP, 0),
    Row("a data segment", long_gate(selector=DATA32), Vector.GP, DATA32),
    Row("D and L both", both(store(GDT + 0x20, 8, descriptor(0xE09B)), long_gate(selector=0x20)),
        Vector.GP, 0x20),
    Row("no IST there", both(long_gate(ist=7), tss(0x5A)), Vector.TS, TSS),
    Row("IST not canonical",
        both(long_gate(ist=1), store(TASK + 0x24, 4, 0), store(TASK + 0x28, 4, 0x8000)),
        Vector.SS, 0),
    Row("offset not canonical", long_gate(offset=1 << 47), Vector.GP, 0),
)  # fmt: skip


@pytest.mark.parametrize("row", LONG_ROWS, ids=lambda one: one.name)
def test_what_goes_wrong_in_long_mode(row: Row) -> None:
    pc = Pc().long(row.code, cpl=row.cpl)
    row.set_up(pc)
    assert pc.event() == row.vector
    code = USER_CODE64 if row.cpl else CODE64
    assert frame(pc, 3, 8) == [row.error, CODE, code]
    assert pc.state.gpr[RSP] == STACK0 - 48  # nothing of the first event was pushed


def test_a_stack_from_the_tss_that_is_not_canonical() -> None:
    pc = Pc().long(INT, cpl=3)
    pc.gate(N, CODE64, dpl=3, long=True)
    pc.memory.write(TASK + 4, (1 << 47).to_bytes(8, "little"))
    pc.gate(Vector.SS, CODE64, ist=1, long=True)
    assert pc.event() == Vector.SS
    assert frame(pc, 2, 8) == [0, CODE]


def test_a_conforming_handler_in_long_mode() -> None:
    pc = Pc().long(UD, cpl=3)
    pc.gate(Vector.UD, CONFORMING64, offset=HANDLERS + 0x1000, long=True)
    pc.put(HANDLERS + 0x1000, "ebfe")
    pc.run(100)
    assert (pc.state.cpl, pc.state.rip) == (3, HANDLERS + 0x1000)
    assert pc.state.gpr[RSP] == STACK3 - 40


@pytest.mark.parametrize("pointer", [0, 8, 0x20])
def test_a_stack_that_wraps_at_address_0(pointer: int) -> None:
    pc = Pc().long(INT)
    pc.state.gpr[RSP] = pointer
    pc.gate(Vector.PF, CODE64, ist=1, long=True)
    assert pc.event() == Vector.PF
    assert pc.state.cr2 == (pointer & ~0xF) - 40 & (1 << 64) - 1
    assert frame(pc, 6, 8)[4] == pointer


def test_a_stack_that_wraps_at_4_gib() -> None:
    pc = Pc().protected(INT, paging="32")
    assert pc.table is not None
    pc.table.map(0xFFFF_F000, 0x30_0000, 0x1000, make_attributes("RWX"))
    pc.state.gpr[RSP] = 4
    pc.state.set_segment(SS, segment(DATA32, 0x4093, base=0, limit=0xFFFF_FFFF))
    pc.gate(Vector.PF, CODE32)
    pc.run(100)
    # The frame would reach from FFFFFFF8 beyond the limit: #SS, which has no room either.
    assert pc.machine.stop.outcome is Outcome.TRIPLE_FAULT
    pc = Pc().protected(INT, paging="32")
    assert pc.table is not None
    pc.table.map(0xFFFF_F000, 0x30_0000, 0x1000, make_attributes("RWX"))
    pc.table.unmap(0, 0x1000)
    pc.state.set_segment(SS, segment(DATA32, 0x4093, base=0x8000_0000, limit=0xFFFF_FFFF))
    pc.state.gpr[RSP] = 0x8000_0004
    assert pc.run(100) is Outcome.TRIPLE_FAULT
    assert pc.state.cr2 == 0  # the part of the frame that wraps


# Real mode


def real_frame(pc: Pc) -> list[int]:
    return pc.words(pc.state.segment_base(SS) + (pc.state.gpr[RSP] & 0xFFFF), 3, 2)


def test_real_mode() -> None:
    pc = Pc().real(INT)
    pc.state.rflags = 2 | IF | TF & 0 | AC
    pc.state.gpr[RSP] |= 0xABCD_0000
    assert pc.event() == N
    assert real_frame(pc) == [2, CODE >> 4, 2 | IF]
    assert pc.state.rflags & (IF | AC) == 0
    assert pc.state.segment(CS) == segment(0x700, 0x9B, base=0x7000)
    assert pc.state.gpr[RSP] == 0xABCD_0000 | REAL_HANDLERS - 0x106


def test_real_mode_exceptions_push_no_error_code() -> None:
    pc = Pc().real("0f0b")
    assert pc.event() == Vector.UD
    assert real_frame(pc)[0] == 0
    pc = Pc().real("b9ffff 0f30 f4")  # an MSR that does not exist
    assert pc.event() == Vector.GP
    assert real_frame(pc) == [3, CODE >> 4, 2]


@pytest.mark.parametrize("pointer", [0, 2, 4])
def test_the_stack_pointer_wraps_in_real_mode(pointer: int) -> None:
    pc = Pc().real(INT)
    pc.state.set_segment(SS, segment(0x3000, 0x93, base=0x3_0000))
    pc.state.gpr[RSP] = pointer
    assert pc.event() == N
    words = [pc.memory.load(0x3_0000 + ((pointer - n) & 0xFFFF), 2) for n in (6, 4, 2)]
    assert words == [2, CODE >> 4, 2]
    assert pc.memory.load(0x4_0000, 2) == int.from_bytes(b"\xf4\xeb", "little")


@pytest.mark.parametrize("pointer", [1, 3, 5])
def test_no_push_across_the_end_of_the_stack_in_real_mode(pointer: int) -> None:
    pc = Pc().real(INT)
    pc.state.set_segment(SS, segment(0x3000, 0x93, base=0x3_0000))
    pc.state.gpr[RSP] = pointer
    assert pc.run(100) is Outcome.TRIPLE_FAULT


@pytest.mark.parametrize("limit", [0, 4 * N + 2])
def test_an_interrupt_table_that_is_too_short(limit: int) -> None:
    pc = Pc().real(INT)
    pc.state.set_table(IDTR, IDT, limit)
    if limit:
        assert pc.event() == Vector.GP
        assert real_frame(pc)[0] == 0
    else:
        assert pc.run(100) is Outcome.TRIPLE_FAULT


def test_real_mode_and_back() -> None:
    pc = Pc().real(INT + "b305 f4")
    pc.put(REAL_HANDLERS + 16 * N, "b104 cf")
    assert pc.run() is Outcome.HALTED
    assert (pc.state.rip, pc.state.gpr[3], pc.state.gpr[1]) == (5, 5, 4)


# Virtual-8086 mode


def test_virtual_8086_mode_pushes_its_segments() -> None:
    pc = Pc().virtual_8086("0f0b")
    assert pc.event() == Vector.UD
    selectors = [0x10 * one for one in (ES, DS, 4, 5)]
    assert frame(pc, 9) == [0, CODE >> 4, 0x2_3002 | RF, 0x6000, 0x10 * SS, *selectors]
    state = pc.state
    assert (state.cpl, state.rflags & VM) == (0, 0)
    assert state.segment(SS).selector == DATA32
    for one in (ES, DS, 4, 5):
        assert state.segment(one).access & UNUSABLE


@pytest.mark.parametrize("paging", ["", "32"])
def test_virtual_8086_mode_and_back(paging: str) -> None:
    pc = Pc().virtual_8086("0f0b 8cd8 40 ebfe", paging=paging)
    pc.put(HANDLERS + 16 * Vector.UD, "83042402 cf")
    pc.run(100)
    state = pc.state
    assert (state.rip, state.cpl, bool(state.rflags & VM)) == (5, 3, True)
    assert state.gpr[0] & 0xFFFF == 0x10 * DS + 1
    assert state.gpr[RSP] & 0xFFFF == 0x6000


@pytest.mark.parametrize("iopl", [0, 3])
def test_int_n_is_sensitive_to_iopl_in_virtual_8086_mode(iopl: int) -> None:
    pc = Pc().virtual_8086(INT, iopl=iopl)
    pc.gate(N, CODE32, dpl=3)
    assert pc.event() == (N if iopl == 3 else Vector.GP)
    if iopl != 3:
        assert frame(pc, 3) == [0, 0, CODE >> 4]


def test_int3_is_not_sensitive_to_iopl() -> None:
    pc = Pc().virtual_8086("cc", iopl=0)
    pc.gate(3, CODE32, dpl=3)
    assert pc.event() == Vector.BP
    assert frame(pc, 1) == [1]


def test_a_handler_for_virtual_8086_mode_must_be_at_level_0() -> None:
    for selector in (RING1_CODE, CONFORMING):
        pc = Pc().virtual_8086("0f0b")
        pc.gate(Vector.UD, selector)
        assert pc.event() == Vector.GP
        assert frame(pc, 1) == [selector | 1]


# Debug registers


def test_entering_the_debug_handler_ends_general_detection() -> None:
    pc = Pc().protected("0f23f8 f4")
    pc.p.dr[7] |= 1 << 13
    assert pc.event() == Vector.DB
    assert frame(pc, 1) == [CODE]
    assert (pc.p.dr[6] >> 13 & 1, pc.p.dr[7] >> 13 & 1) == (1, 0)
    pc = Pc().protected("9090")
    pc.state.rflags = 2 | TF
    pc.p.dr[7] |= 1 << 13
    assert pc.event() == Vector.DB
    assert pc.p.dr[7] >> 13 & 1 == 0
