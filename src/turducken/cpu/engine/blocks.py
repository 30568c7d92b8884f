"""What the engine's blocks of code are: how many instructions, and whether they are the engine's.

A block is known by its linear address and size. That is not all: code changes in place, and other
address spaces have other code there. The engine tells of each translation that it makes; what was
known of such a block is forgotten then, and found out when it is executed. Where the same place
turns out to be two different blocks, nothing is remembered about it.
"""

from typing import Any

from turducken.cpu.engine import library
from turducken.cpu.engine.native import generate

_KEY_SHIFT = 48
SLOTS = 1 << 16
TABLE = 6
"""Where the table begins in the data block of `Budget`, in words."""

_FUNCTION = f"""
define void @translated(i8* %engine, i8* %block, i8* %before, i64* %data) {{
  %pcp = bitcast i8* %block to i64*
  %address = load i64, i64* %pcp
  %sizeat = getelementptr i8, i8* %block, i64 10
  %sizep = bitcast i8* %sizeat to i16*
  %size16 = load i16, i16* %sizep
  %size64 = zext i16 %size16 to i64
  %shifted = shl i64 %size64, {_KEY_SHIFT}
  %key = xor i64 %address, %shifted
  %upper = lshr i64 %address, 12
  %mixed = xor i64 %upper, %address
  %slot = and i64 %mixed, {SLOTS - 1}
  %double = shl i64 %slot, 1
  %base = add i64 %double, {TABLE}
  %keyp = getelementptr i64, i64* %data, i64 %base
  %found = load i64, i64* %keyp
  %same = icmp eq i64 %found, %key
  br i1 %same, label %forget, label %done
forget:
  store i64 0, i64* %keyp
  br label %done
done:
  ret void
}}
"""


def place_of(address: int, size: int) -> tuple[int, int]:
    """Return where a block's entry is in the data block, and its key there."""
    key = address ^ size << _KEY_SHIFT
    if key >= 1 << 63:
        key -= 1 << 64
    return TABLE + 2 * ((address ^ address >> 12) & SLOTS - 1), key


def translation_hook(words: "memoryview[int]", *, native: bool) -> Any:
    """Return the function that the engine calls when it has translated a block."""

    def forget(_engine: int, block: Any, _before: Any, _data: int) -> None:
        slot, key = place_of(block[0].pc, block[0].size)
        if words[slot] == key:
            words[slot] = 0

    return (generate("translated", _FUNCTION) if native else None) or library.EDGE_HOOK(forget)


class Blocks:
    """What has been found out about blocks, with the host-physical page that each was in then."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[int | None, int]] = {}
        self._ambiguous: set[tuple[int, int]] = set()

    def learn(self, address: int, size: int, page: int | None, count: int) -> bool:
        """Learn that a block has ``count`` instructions (-1: it is not the engine's).

        Returns whether that may be remembered without looking at it again.
        """
        key, found = (address, size), (page, count)
        before = self._known.setdefault(key, found)
        if before != found:
            if before[0] != page and before[1] != count:
                self._ambiguous.add(key)
            self._known[key] = found
        return key not in self._ambiguous

    def forget(self) -> None:
        """Forget everything: all code is translated again."""
        self._known.clear()
        self._ambiguous.clear()
