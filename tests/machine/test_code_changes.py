"""Code that changes while it is executed: by itself, by another processor, from outside."""

import pytest
from cpu_support import ALL, CODE, CODE64, RAX, RCX, RSI, Pc, segment

from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.surroundings import Activity
from turducken.machine.machine import Outcome

OTHER = 0x3_0000


def start_second(pc: Pc, code: str) -> None:
    """Let the second processor run ``code`` in the mode of the first, at `OTHER`."""
    first, second = pc.machine.processors
    pc.put(OTHER, code)
    state = second.state
    for index in range(8):
        state.set_segment(index, first.state.segment(index))
    for index in (8, 9):
        state.set_table(index, *first.state.table(index))
    state.cr0, state.cr3, state.cr4, state.efer = (
        first.state.cr0,
        first.state.cr3,
        first.state.cr4,
        first.state.efer,
    )
    state.rflags, state.rip, state.gpr[4] = 2, OTHER, 0x5_0000
    state.set_segment(1, segment(CODE64, 0xA09B))
    second.activity = Activity.ACTIVE
    state.update_mode(0)
    sync_mmu(second)


@pytest.mark.parametrize("quantum", [50, 10_000])
@pytest.mark.parametrize("tlb", ["keep", "drop"])
def test_another_processor_changes_the_code(quantum: int, tlb: str) -> None:
    """The first spins on JMP to itself, until the second puts INC ECX; HLT there."""
    pc = Pc(cpus=2, quantum=quantum, tlb=tlb).long("ebfe 90 90 f4")
    # mov ecx, 3000; dec ecx; jnz; mov dword [CODE], 90F4C1FFh; hlt
    start_second(pc, "b9b80b0000 ffc9 75fc c70425 00000100 ffc1f490 f4")
    assert pc.run(1_000_000) is Outcome.HALTED
    assert (pc.state.gpr[RCX], pc.state.rip) == (1, CODE + 3)


def test_it_may_change_again_and_again() -> None:
    """The immediate of MOV EAX is the second's counter; the first waits for the last."""
    pc = Pc(cpus=2, quantum=100).long("b800000000 39d8 7202 89c3 ffc7 3d e8030000 72ec f4")
    start_second(pc, "b800000000 ffc0 890425 01000100 3de8030000 72f0 f4")
    assert pc.run(1_000_000) is Outcome.HALTED
    assert pc.state.gpr[RAX] == 1000


def test_code_that_changes_itself_runs_as_changed_on_both_processors() -> None:
    """Each processor increments the immediate that both execute; LOCK makes them take turns."""
    code = "f0ff0425 0a000100 90 b800000000 3d20000000 72eb f4"
    pc = Pc(cpus=2, quantum=7).long(code)
    distance = (CODE - OTHER - 5) & 0xFFFF_FFFF
    start_second(pc, "e9" + distance.to_bytes(4, "little").hex())
    assert pc.run(1_000_000) is Outcome.HALTED
    assert pc.memory.load(CODE + 10, 4) in (0x20, 0x21)


def test_code_written_from_outside_is_executed_as_it_is() -> None:
    pc = Pc().long("ebfe")
    assert pc.run(1000) is Outcome.LIMIT
    pc.put(CODE, "ffc1 f4")
    assert pc.run(1000) is Outcome.HALTED
    assert pc.state.gpr[RCX] == 1


ALIAS = 0x80_0000
"""Where the alias of `CODE`'s page is mapped, beyond RAM's own addresses."""


def with_alias(code: str, **options: object) -> Pc:
    pc = Pc(**options).long(code)  # type: ignore[arg-type]
    assert pc.table is not None
    pc.table.map(ALIAS, OTHER, 0x1000, ALL, max_shift=12)
    return pc


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("tlb", ["keep", "drop"])
def test_code_changed_through_another_linear_address(native: bool, cpus: int, tlb: str) -> None:
    """MOV EAX, n; RET is written at `OTHER` and called at `ALIAS`, n from 50 down; RSI sums up."""
    code = (
        "bb32000000 c604250000 0300b8 c604250500 0300c3"  # mov ebx, 50; mov byte .., 0b8h; .., 0c3h
        "891c2501000300 b900008000 ffd1 01c6 ffcb 75dc f4"  # mov [OTHER + 1], ebx; call ALIAS
    )
    pc = with_alias(code, native=native, cpus=cpus, tlb=tlb)
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[RSI] == 50 * 51 // 2


@pytest.mark.parametrize("native", [True, False])
def test_what_is_written_over_code_is_known_for_what_it_is(native: bool) -> None:
    """A block of the same size becomes RDRAND, which is not the engine's, and two NOPs again."""
    run = "b900008000 ffd1"  # mov ecx, ALIAS; call rcx
    code = (
        "c70425 00000300 90 90 90 c3" + run + "c70425 00000300 0f c7 f0 c3" + run + "89c6" + run
        + "c70425 00000300 90 90 90 c3" + run + "f4"
    )  # fmt: skip
    pc, other = with_alias(code, native=native), with_alias(code, native=native)
    assert pc.run() is other.run() is Outcome.HALTED
    assert pc.state.gpr[RSI] == other.state.gpr[RSI] != 0  # repeatable: not the host's
    assert pc.state.gpr[RAX] != pc.state.gpr[RSI]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("by_alias", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_two_routines_of_one_page_change_both(native: bool, by_alias: bool, small: bool) -> None:
    """MOV BL, 1; RET and MOV BH, 1; RET become 2 and 2, in two stores."""
    run_at = ALIAS if small else ALIAS + OTHER
    place = run_at if by_alias else OTHER

    def le(address: int) -> str:
        return address.to_bytes(4, "little").hex()

    def round_of(value: str) -> str:
        stores = f"c70425 {le(place)} b3{value}c390 c70425 {le(place + 0x20)} b7{value}c390"
        return stores + f"b9 {le(run_at)} ffd1 b9 {le(run_at + 0x20)} ffd1"

    pc = Pc(native=native).long(round_of("01") + "31c0 0fa2" + round_of("02") + "f4")
    assert pc.table is not None
    if small:
        pc.table.map(ALIAS, OTHER, 0x1000, ALL, max_shift=12)
    else:
        pc.table.map(ALIAS, 0, 2 << 20, ALL)
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[3] & 0xFFFF == 0x202


def test_what_is_known_of_blocks_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is translated anew, and goes on as it would have."""
    monkeypatch.setattr("turducken.cpu.engine.blocks.MOST_BLOCKS", 2)
    pc = Pc().long("b932000000 ffc0 eb00 ffc0 eb00 31db ffc9 75f2 f4")
    assert pc.run() is Outcome.HALTED
    assert pc.state.gpr[RAX] == 100
    assert pc.p.engine.executed == 1 + 50 * 7 + 1
