"""How far the engine runs, one instruction at a time or many, and what changes under it."""

import itertools

import pytest
from engine_rig import CODE, DATA, FETCH, WRITE, EngineRig

from turducken.cpu.engine import Engine, EngineError, Trap, library, selfcheck, state
from turducken.cpu.engine.state import MSR_WORDS

HLT = 0x178
LOOP = "ffc1 ebfc"
"""inc ecx; jmp back: blocks of two instructions."""
MIXED = "ffc1 85c9 7402 ffc2 01d0 39f0 75f2 f4"
"""A loop with a branch in the middle, until EAX has reached ESI."""


@pytest.fixture(params=[True, False], ids=["native", "fallback"])
def native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Budget


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 10, 999, 1000])
def test_a_run_ends_at_the_first_block_boundary_over_budget(budget: int, native: bool) -> None:
    rig = EngineRig(LOOP, native=native)
    assert rig.run(budget) == Trap.BUDGET
    blocks = budget // 2 + 1
    assert rig.state.gpr[1] == blocks
    assert (rig.engine.executed, rig.state.rip) == (2 * blocks, CODE)


def test_runs_add_up(native: bool) -> None:
    rig = EngineRig(LOOP, native=native)
    for budget in (5, 0, 1, 8, 100):
        rig.run(budget)
    assert rig.engine.executed == 2 * rig.state.gpr[1]
    assert rig.engine.instructions == rig.engine.executed


def test_native_and_fallback_stop_at_the_same_places() -> None:
    budgets = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144] * 3
    stories = []
    for native in (True, False):
        rig = EngineRig(MIXED, native=native)
        rig.state.gpr[6] = 60_000
        story = []
        for budget in budgets:
            trap = rig.run(budget)
            story.append((trap, rig.state.rip, rig.engine.executed, *rig.state.gpr[:3]))
        stories.append(story)
    assert stories[0] == stories[1]


def test_a_trap_counts_the_instructions_of_its_block_up_to_the_end(native: bool) -> None:
    """Time passes by blocks: the trapped instruction's block counts when it begins."""
    rig = EngineRig("9090 0fa2 9090 f4", native=native)
    assert rig.run() == 0x172
    counted = rig.engine.executed
    rig.state.rip += 2
    assert rig.run() == HLT
    assert 3 <= counted <= 6
    again = EngineRig("9090 0fa2 9090 f4", native=not native)
    again.run()
    assert again.engine.executed == counted


def test_a_stop_requested_from_a_callback_ends_the_run_after_the_block(native: bool) -> None:
    rig = EngineRig("ec ffc1 ebfb", native=native)
    rig.host.port_in = lambda *_: rig.engine.request_stop() or 0  # type: ignore[method-assign]
    assert rig.run(1000) == Trap.BUDGET
    assert rig.state.gpr[1] <= 1


def test_blocks_that_share_an_address_are_counted_by_size(native: bool) -> None:
    """The same bytes entered in the middle, and at the beginning."""
    rig = EngineRig("ffc1 ffc1 ffc1 ffc1 ebf6", native=native)
    rig.run(0)
    assert rig.engine.executed == 5
    rig.state.rip = CODE + 6
    rig.run(0)
    assert rig.engine.executed == 7


# Single steps


def test_step_executes_one_instruction(native: bool) -> None:
    rig = EngineRig("ffc1 01c8 50 58 ebf8", native=native)
    places = []
    for _ in range(7):
        assert rig.engine.step() == Trap.BUDGET
        places.append(rig.state.rip - CODE)
    assert places == [2, 4, 5, 6, 0, 2, 4]
    assert rig.engine.executed == 7


def test_step_and_run_alternate(native: bool) -> None:
    rig = EngineRig(LOOP, native=native)
    expected = 0
    for _ in range(3):
        rig.run(6)
        expected += 8
        rig.engine.step()
        expected += 1
        assert (rig.engine.executed, rig.state.gpr[1]) == (expected, (expected + 1) // 2)
        rig.engine.step()
        expected += 1
        assert rig.state.rip == CODE


def test_step_stops_before_what_is_ours() -> None:
    rig = EngineRig("ffc1 0fa2")
    assert rig.engine.step() == Trap.BUDGET
    assert rig.engine.step() == 0x172
    assert rig.state.rip == CODE + 2


def test_step_does_one_iteration_of_a_string_instruction() -> None:
    rig = EngineRig("f3aa f4")
    rig.state.gpr[0], rig.state.gpr[7], rig.state.gpr[1] = 0x55, DATA, 3
    for left in (2, 1):
        rig.engine.step()
        assert (rig.state.gpr[1], rig.state.rip) == (left, CODE)
    rig.engine.step()
    while rig.state.rip == CODE:
        rig.engine.step()
    assert (rig.state.gpr[1], rig.memory.read(DATA, 4)) == (0, b"\x55\x55\x55\0")


def test_the_trap_flag_stops_after_each_instruction() -> None:
    rig = EngineRig("ffc1 ffc1 f4")
    rig.state.rflags = 0x102
    assert rig.run() == 0x141
    assert (rig.state.rip, rig.state.gpr[1]) == (CODE + 2, 1)


# Code that changes


def test_code_that_changes_itself_in_another_block(native: bool) -> None:
    # The loop body's immediate is incremented: add eax, imm8.
    rig = EngineRig("83c001 fe05 f9ffffff ffc9 75f3 f4", native=native)
    rig.state.gpr[1] = 4
    assert rig.run() == HLT
    assert rig.state.gpr[0] == 1 + 2 + 3 + 4


def test_code_that_changes_the_very_next_instruction() -> None:
    # mov byte [next + 1], 5; next: mov al, 1
    rig = EngineRig("c605 01000000 05 b001 f4")
    assert rig.run() == HLT
    assert rig.state.gpr[0] == 5


def test_code_changed_by_somebody_else_is_executed_as_it_is(native: bool) -> None:
    rig = EngineRig("b001 f4", native=native)
    assert rig.run() == HLT
    assert rig.state.gpr[0] == 1
    rig.put(CODE, "b002 90 f4")
    rig.engine.is_code_stale = True
    rig.state.rip = CODE
    assert rig.run() == HLT
    assert (rig.state.gpr[0], rig.state.rip) == (2, CODE + 3)


def test_a_changed_block_is_counted_anew(native: bool) -> None:
    rig = EngineRig("ffc1 ffc1 ebfa", native=native)
    rig.run(0)
    assert rig.engine.executed == 3
    rig.put(CODE, "ffc1 90 90 ebfa")
    rig.engine.is_code_stale = True
    rig.run(0)
    assert rig.engine.executed == 3 + 4


# Translations


def test_nothing_is_asked_twice_until_it_is_stale() -> None:
    rig = EngineRig("8b0425 00800000 890425 00800000 8b0425 00800000 f4")
    rig.run()
    assert rig.host.fills.count((DATA, 0)) == 1
    assert rig.host.fills.count((DATA, WRITE)) == 1
    rig.state.rip = CODE
    rig.run()
    assert rig.host.fills.count((DATA, 0)) == 1
    rig.engine.is_stale = True
    rig.state.rip = CODE
    rig.run()
    assert rig.host.fills.count((DATA, 0)) == 2


def test_a_read_does_not_grant_a_write() -> None:
    rig = EngineRig("8b0425 00800000 f4 890425 00800000 f4")
    rig.host.refused = {(DATA, WRITE)}
    assert rig.run() == HLT
    rig.state.rip = CODE + 8
    assert rig.run() == Trap.FAULT


def test_user_and_supervisor_translations_are_apart() -> None:
    rig = EngineRig("8b0425 00800000 f4")
    assert rig.run() == HLT
    rig.host.refused = {(DATA, 0)}
    user = EngineRig("8b0425 00800000 f4", cpl=3)
    user.host.refused = {(DATA, 0)}
    assert user.run() == Trap.FAULT


def test_code_is_fetched_again_when_translations_are_stale() -> None:
    rig = EngineRig(LOOP)
    rig.run(10)
    rig.host.refused = {(CODE, FETCH)}
    rig.engine.is_stale = True
    assert rig.run(10) == Trap.FAULT
    assert (rig.engine.fault_address, rig.engine.fault_kind) == (CODE, FETCH)


# Modes


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_operand_size_follows_the_code_segment(bits: int) -> None:
    rig = EngineRig("48 f4", bits=bits)  # dec eax; in 64-bit mode REX.W, hlt
    rig.state.gpr[0] = 0x1_0000
    assert rig.run() == HLT
    assert rig.state.gpr[0] == {16: 0x1_FFFF, 32: 0xFFFF, 64: 0x1_0000}[bits]
    assert rig.state.rip == CODE + (0 if bits == 64 else 1)


# The self-check


def wrong_places() -> list[tuple[str, int]]:
    """Return constants of the layout, each moved to the next word."""
    names = ("RIP", "EFLAGS", "HFLAGS", "_SEGMENTS", "_CR0", "_CR2", "_CR3", "_CR4", "_EFER")
    return [(name, getattr(state, name) + 1) for name in (*names, "_INTERCEPTS", "EXCEPTION")]


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_passed", [])


@pytest.mark.usefixtures("_unchecked")
def test_the_layout_is_checked_once() -> None:
    selfcheck.check_layout()
    assert selfcheck._passed == [True]
    EngineRig("f4")
    assert selfcheck._passed == [True]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("name", "place"), wrong_places())
def test_a_register_elsewhere_is_refused(
    name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, name, place)
    if name in ("RIP",):
        monkeypatch.setattr(selfcheck.State, "rip", property(lambda s: s.words[place]))
    with pytest.raises(EngineError, match=r"this build of unicorn cannot be used: .* is 0x"):
        selfcheck.check_layout()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("msr", MSR_WORDS)
def test_an_msr_elsewhere_is_refused(msr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MSR_WORDS, msr, MSR_WORDS[msr] + 1)
    with pytest.raises(EngineError, match=f"MSR {msr:#x}"):
        selfcheck.check_layout()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "name",
    ["_H_CS32", "_H_SS32", "_H_ADDSEG", "H_PE", "H_LMA", "H_CS64", "_H_OSFXSR", "_H_SMAP"],
)
def test_a_wrong_bit_of_the_mode_summary_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, name, 1 << 30)
    with pytest.raises(EngineError, match="the mode summary"):
        selfcheck.check_layout()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["CC_SOURCE", "CC_OPERATION"])
def test_arithmetic_flags_elsewhere_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, name, getattr(state, name) - 1)
    with pytest.raises(EngineError, match="rflags"):
        selfcheck.check_layout()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["_CPU", "_STATE"])
def test_registers_that_are_not_found_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = getattr(library, name)
    for distance in (8, -8, 1 << 40):
        monkeypatch.setattr(library, name, place + distance)
        with pytest.raises(EngineError, match="not where expected"):
            selfcheck.check_layout()


@pytest.mark.usefixtures("_unchecked")
def test_another_size_or_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_REFUSED_ADDRESS", library._REFUSED_ADDRESS + 8)
    with pytest.raises(EngineError, match="the refused address"):
        selfcheck.check_layout()
    monkeypatch.setattr(selfcheck, "STATE_BYTES", 1)
    with pytest.raises(EngineError, match="the size of a context"):
        selfcheck.check_layout()
    monkeypatch.setattr(library, "SUPPORTED", (3, 0))
    with pytest.raises(EngineError, match=r"unicorn 3\.0 is needed"):
        Engine(EngineRig().memory, EngineRig().host)


def test_engines_share_nothing_but_memory() -> None:
    first = EngineRig(LOOP)
    rigs = [first, EngineRig(LOOP), EngineRig("ffc2 ebfc")]
    for rig, _ in itertools.product(rigs, range(3)):
        rig.run(3)
    assert [rig.state.gpr[1] for rig in rigs] == [6, 6, 0]
    assert rigs[2].state.gpr[2] == 6


# Watched flags


@pytest.mark.parametrize("code", ["fb 90 eb01 90 f4", "6a02 680602000058 509d eb01 90 f4"])
def test_a_run_ends_where_a_watched_flag_is_set(code: str, native: bool) -> None:
    """STI, and POPF; they end their block, and nothing of the next one is executed."""
    rig = EngineRig(code, native=native)
    assert rig.engine.run(1000, watched=0x200) == Trap.BUDGET
    assert rig.state.rflags & 0x200
    assert rig.memory.load(rig.state.rip, 1) in (0x90, 0xEB)
    assert rig.engine.instructions == {0xFB: 1, 0x6A: 5}[bytes.fromhex(code)[0]]


def test_a_flag_that_is_not_watched_ends_nothing(native: bool) -> None:
    rig = EngineRig("fb 90 90 eb01 90 f4", native=native)
    assert rig.engine.run(1000) != Trap.BUDGET


def test_an_access_to_device_memory_that_asks_for_a_stop_is_done_once(native: bool) -> None:
    rig = EngineRig("c70100000000 c70100000000 eb00 90 f4", native=native)
    rig.state.gpr[1] = 0x1000_0000
    rig.host.on_mmio = rig.engine.request_stop
    assert rig.run() == Trap.BUDGET
    assert len(rig.host.mmio) == 2
    assert rig.state.rip == CODE + 14
    assert rig.engine.instructions == 3


@pytest.mark.parametrize("is_large", [False, True], ids=["pages", "large pages"])
def test_code_is_changed_from_another_context(is_large: bool, native: bool) -> None:
    """A hypervisor stores to code that its guest has run at the same linear address."""
    place = 0x9000
    rig = EngineRig(native=native)
    engine, grants = rig.engine, rig.engine.grants
    contexts = grants.new_table(), grants.new_table()
    ask = rig.host.fill

    def fill(page: int, kind: int) -> int | None:
        found = ask(page, kind)
        if is_large and found is not None and kind != FETCH:
            engine.grant_large(page, found, kind)
        return found

    rig.host.fill = fill  # type: ignore[method-assign]

    def run(context: int, rip: int) -> None:
        grants.use(contexts[context], contexts[context])
        engine.is_switched = True
        rig.state.rip = rip
        assert rig.run() == HLT

    # Three pieces of code: mov byte [9001h], N; mov byte [9101h], N + 1; hlt
    for number in (1, 3, 5):
        store = f"c6042501900000{number:02x} c6042501910000{number + 1:02x} f4"
        rig.put(CODE + 0x100 * number, store)
    rig.put(place, "b800000000 f4")  # mov eax, 0; hlt
    rig.put(place + 0x100, "bb00000000 f4")  # mov ebx, 0; hlt
    for number in (1, 3, 5):
        run(0, CODE + 0x100 * number)
        for context in (0, 1):
            run(context, place)
            run(context, place + 0x100)
            assert (rig.state.gpr[0], rig.state.gpr[3]) == (number, number + 1)
