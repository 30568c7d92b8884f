"""Native functions do what their Python source does, and their code is kept from run to run."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from turducken.native import I64, U8, U16, U32, U64, Record, Ref, Unit, Words, build, word_at
from turducken.native.translate import NotTranslatableError, translate

MASK = (1 << 64) - 1
NOTE = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
UNIT = Unit()


class Pair(Record):
    low: U8
    high: U16
    wide: U32
    signed: I64


class Data(Record):
    left: I64
    other: Ref[Pair]
    note: Annotated[Callable[[int], None], NOTE]
    pairs: Annotated[Sequence[Pair], 8]
    words: Annotated[Words, 16]


@UNIT.compiled
def largest(words: Data, count: U64) -> U64:
    found = 0
    for number in range(count):
        if words.words[number] > found and found != 7:
            found = words.words[number]
    return found


@UNIT.compiled
def pair_of(data: Data, number: U64) -> Pair:
    return data.pairs[number & 7]


@UNIT.exported
def everything(data: Data, a: U64, b: U64, c: U32) -> U64:
    """Use every construct."""
    total = 0
    pair = pair_of(data, a)
    pair.low = a & MASK
    pair.high = pair.low + 0x1234
    pair.wide += c
    data.other.signed -= 3 if a > b else 5
    data.left -= pair.high
    i = 0
    while i < 100:
        i += 1
        if i % 3 == 0:
            continue
        if i > (b & 63):
            break
        total = total + (a >> (i & 15)) & MASK
    if not (data.left < 0 and a != b) or c in (3, 5) or c not in (7, 8):
        total ^= largest(data, 16)
    elif data.other.signed <= -9:
        total |= 1 << 63
    else:
        total = total * 5 & MASK
    first, second = b, a
    if first <= second < MASK:
        data.note(first)
    is_odd = total & 1 == 1
    data.words[1] = int(is_odd) + word_at(data.other.address) // 2 if is_odd else ~a & MASK
    return total


def _run(a: int, b: int, c: int, left: int, words: list[int], *, native: bool) -> tuple[Any, ...]:
    data, pair, notes = Data(), Pair(), list[int]()
    data.other, data.note, data.left = pair, NOTE(notes.append), left
    for number, word in enumerate(words):
        data.words[number] = word
    result = CALLS[native](data.address, a, b, c)
    return result, bytes(pair), bytes(data.pairs), bytes(data.words), data.left, notes


CALLS = {native: UNIT.hook(everything, native=native) for native in (True, False)}
WORD = st.integers(0, MASK) | st.integers(0, 70)


@given(
    WORD, WORD, st.integers(0, 2**32 - 1), st.integers(-(2**40), 2**40),
    st.lists(WORD, min_size=16, max_size=16),
)  # fmt: skip
@example(1, 2, 3, -1, [0] * 16)
@example(MASK, 63, 5, 1 << 20, [MASK] * 16)
def test_compiled_and_plain_are_the_same(
    a: int, b: int, c: int, left: int, words: list[int]
) -> None:
    assert _run(a, b, c, left, words, native=True) == _run(a, b, c, left, words, native=False)


def test_the_native_one_is_no_python() -> None:
    """Else the comparison would prove nothing."""
    assert UNIT.is_native


def _uses_a_list(a: U64) -> U64:
    return [a][0]


def _uses_a_string(a: U64) -> None:
    print(f"{a}")


def _ends_nowhere(a: U64) -> U64:  # noqa: RET503
    while a:
        return 1


@pytest.mark.parametrize("function", [_uses_a_list, _uses_a_string, _ends_nowhere])
def test_what_is_not_understood_is_refused_with_its_place(function: Callable[..., Any]) -> None:
    with pytest.raises(NotTranslatableError, match=f"{function.__name__}, line"):
        translate([function], [function.__name__])


def test_a_field_may_not_hide_the_address() -> None:
    with pytest.raises(TypeError, match="has an address already"):
        type("Bad", (Record,), {"__annotations__": {"address": U64}})


def _unit() -> Unit:
    """Return a unit as a new process would have it."""
    unit = Unit()
    for function in (largest, pair_of):
        unit.compiled(function)
    unit.exported(everything)
    return unit


def _is_compiled(patch: pytest.MonkeyPatch) -> bool:
    """Ask a new process's unit for the function; tell whether that started a compiler."""
    compiled, real = [], build._compiled

    def note(*operands: Any) -> dict[str, int] | None:
        compiled.append(operands)
        return real(*operands)

    patch.setattr(build, "_compiled", note)
    _unit().hook(everything, native=True)
    return bool(compiled)


def test_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert _is_compiled(patch)
    for damage in (None, b"", b"{}\nabc", b'{"offsets": {}, "digest": "0"}\n'):
        with monkeypatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path))
            (kept,) = (tmp_path / "turducken").iterdir()
            if damage is not None:
                kept.write_bytes(damage)
            assert _is_compiled(patch) == (damage is not None)


def test_without_a_place_to_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "turducken").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unit = _unit()
    unit.hook(everything, native=True)
    assert unit.is_native
