"""IRET that the engine executes itself: outcomes as of one that goes the long way."""

import pytest
from cpu_support import CODE, CODE32, CODE64, DATA32, GDT, RCX, RSP, STACK0, USER_CODE64, Pc

from turducken.machine.machine import Outcome

IF, DF, TF, NT, RF, AC, ID = (1 << n for n in (9, 10, 8, 14, 16, 18, 21))
ARITHMETIC = 0x8D5
_FRAME = STACK0 - 0x400
_CODE = "48cf 48cf f4 90 9c 59 f4"
"""iretq; iretq; hlt; nop; pushfq; pop rcx; hlt: to return to at CODE + 6.

The first one always goes the long way, and leaves RSP and RFLAGS for the second one.
"""
_TARGET = CODE + 6
_FIRST_FRAME = STACK0 - 0x300
_OTHER_STACK = STACK0 - 0x800


def _outcome(
    frame: tuple[int, ...], *, native: bool, flags: int, **more: object
) -> dict[str, object]:
    options = {name: value for name, value in more.items() if name in ("tlb", "observed")}
    pc = Pc(native=native, **options).long(_CODE)  # type: ignore[arg-type]
    stack = _FRAME - int(more.get("below", 0))  # type: ignore[call-overload]
    first = CODE + 2, CODE64, flags, stack, 0 if more.get("null") else DATA32
    for place, words in ((_FRAME, frame), (_FIRST_FRAME, first)):
        for number, word in enumerate(words):
            pc.memory.store(place + 8 * number, 8, word)
    pc.state.gpr[RSP] = _FIRST_FRAME
    pc.p.nmi_blocked = bool(more.get("nmi_blocked"))
    if more.get("nmi_blocked"):
        # Only the second one, with all that it needs known.
        pc.state.rip, pc.state.gpr[RSP] = CODE + 2, _FRAME
        for known in (GDT, _FRAME):
            pc.p.engine.prefetch(known)
    assert pc.run(20_000) is Outcome.HALTED
    state = pc.state
    return {
        "registers": list(state.gpr),
        "rip": state.rip,
        "flags": state.rflags,
        "segments": [state.segment(number) for number in range(8)],
        "executed": pc.p.engine.executed,
        "handler": pc.vector(),
        "nmi_blocked": pc.p.nmi_blocked,
        "memory": pc.memory.read(0, 0x5_0000),
        "traps": pc.p.statistics.traps,
    }


def _saved(
    frame: tuple[int, ...], *, flags: int = 2, **more: object
) -> tuple[dict[str, object], int]:
    """Return the outcome, the same for both, and the traps that were saved."""
    native, plain = (_outcome(frame, native=one, flags=flags, **more) for one in (True, False))
    saved = int(plain.pop("traps")) - int(native.pop("traps"))  # type: ignore[call-overload]
    assert native == plain
    return native, saved


def frame(
    rip: int = _TARGET,
    cs: int = CODE64,
    flags: int = 2,
    rsp: int = _OTHER_STACK,
    ss: int = DATA32,
) -> tuple[int, ...]:
    return rip, cs, flags, rsp, ss


@pytest.mark.parametrize("before", [2, ARITHMETIC | DF | 2, IF | 2])
@pytest.mark.parametrize("image", [2, ARITHMETIC | 2, DF | 2, IF | 0x3002, ID | 2, RF | 2, 0x8028])
def test_within_ring_0(before: int, image: int) -> None:
    found, saved = _saved(frame(flags=image), flags=before)
    assert saved == 1
    assert found["registers"][RCX] & ~RF == found["flags"] & ~RF  # type: ignore[index,operator]
    assert found["rip"] == _TARGET + 3


def test_with_the_null_stack_segment() -> None:
    _, saved = _saved(frame(ss=0), null=True)
    assert saved == 1


@pytest.mark.parametrize(
    "words",
    [
        frame(cs=CODE32, rsp=0x8000),
        frame(cs=USER_CODE64 | 3),
        frame(cs=0),
        frame(cs=CODE64 | 4),
        frame(cs=0xFFF8),
        frame(ss=0),
        frame(ss=CODE64),
        frame(flags=NT | 2),
        frame(flags=AC | 2),
        frame(rip=1 << 47),
        frame(rip=0xFFFF_7FFF_FFFF_FFFF),
        frame(rip=1 << 63),
    ],
)
def test_what_is_not_plain_goes_the_long_way(words: tuple[int, ...]) -> None:
    _, saved = _saved(words)
    assert saved == 0


@pytest.mark.parametrize(
    "more",
    [
        {"flags": NT | 2},
        {"flags": AC | 2},
        {"below": 0x1000 - 0x10},
        {"tlb": "drop"},
        {"tlb": "random"},
    ],
)
def test_what_surroundings_do_not_allow(more: dict[str, object]) -> None:
    _, saved = _saved(frame(), **more)  # type: ignore[arg-type]
    assert saved == 0


@pytest.mark.parametrize("is_blocked", [True, False])
def test_the_end_of_the_blocking_of_nmis(is_blocked: bool) -> None:
    found, _ = _saved(frame(), nmi_blocked=is_blocked)
    assert not found["nmi_blocked"]
