"""What the engine's blocks of code are: how many instructions, and whether they are the engine's.

A block is known by its linear address and size. That is not all: code changes in place, and other
address spaces have other code there. The engine tells of each translation that it makes; what was
known of such a block is forgotten then, and found out when it is executed. Where the same place
turns out to be two different blocks, nothing is remembered about it.
"""

from collections.abc import Sequence
from typing import Annotated

from turducken.cpu.engine.hot import HOT
from turducken.native import U64, Record

SLOTS = 1 << 16
SIZE_SHIFT = 48


class Block(Record):
    """A block whose instructions have been counted."""

    key: U64
    instructions: U64


class BlockTable(Record):
    """Blocks by their linear addresses."""

    blocks: Annotated[Sequence[Block], SLOTS]


@HOT.compiled
def key_of_block(address: U64, size: U64) -> U64:
    """Return what a block is known by."""
    return address ^ size << SIZE_SHIFT


@HOT.compiled
def block_at(table: BlockTable, address: U64) -> Block:
    """Return the one block that is remembered of those at such addresses."""
    return table.blocks[(address ^ address >> 12) & SLOTS - 1]


MOST_BLOCKS = 1 << 18


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

    @property
    def is_full(self) -> bool:
        """So much is known that it is time to translate all code anew, and forget the rest."""
        return len(self._known) > MOST_BLOCKS

    def forget(self) -> None:
        """Forget everything: all code is translated again."""
        self._known.clear()
        self._ambiguous.clear()
