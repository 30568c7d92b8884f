"""Preemption: a native function that the engine calls at every block.

It subtracts the block's number of instructions from a budget, and stops the engine before the block
when nothing is left, so that a run ends at a block boundary, after the same instruction every time,
and always executes at least one block. It also stops it where a watched bit of RFLAGS is set: the
instructions that set one (STI, POPF, IRET) end their block.
"""

import ctypes
from collections.abc import Callable
from typing import Annotated

from turducken.cpu.engine import library
from turducken.cpu.engine.blocks import SIZE_SHIFT, BlockTable, block_at, key_of_block
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.registers import Registers
from turducken.native import I64, U32, U64, Record, Ref

_ALL = (1 << 64) - 1


class BudgetData(Record):
    """What `count_block` works on. ``left`` is negative when the last block overdrew it.

    ``last`` is the linear address of the block that was begun last.
    """

    left: I64
    watched: U64
    last: U64
    registers: Ref[Registers]
    stop: Annotated[Callable[[int], int], library.STOP]
    new_block: Annotated[Callable[[int, int, int, int], None], library.BLOCK_HOOK]
    table: BlockTable


@HOT.exported
def count_block(engine: U64, address: U64, size: U32, data: BudgetData) -> None:
    """Count a block that is about to begin, or stop before it: the engine's block hook."""
    if data.left < 0 or (data.watched and data.registers.eflags & data.watched):
        data.stop(engine)
        return
    data.last = address
    block = block_at(data.table, address)
    if block.key == key_of_block(address, size):
        data.left -= block.instructions
    else:
        data.new_block(engine, address, size, data.address)


class Budget:
    """How many instructions the engine may still begin, counted per block.

    ``on_new_block(address, size)`` sees each block once before it counts (perhaps again after the
    small table has forgotten it, or the engine has translated it anew) and returns the number of
    instructions in it, or None if it has stopped the engine before a block that must be seen every
    time; and whether the number may be remembered. ``hook`` is for the engine to call at each
    block, with ``data``. ``last`` holds the linear address of the block that was begun last.
    """

    def __init__(
        self,
        registers: int,
        on_new_block: Callable[[int, int], tuple[int | None, bool]],
        *,
        native: bool = True,
    ) -> None:
        self.words = BudgetData()
        self.words.registers = Registers.at(registers)
        self.words.stop = library.STOP(library.emu_stop_address)
        self.words.new_block = library.BLOCK_HOOK(self._new_block)
        self._on_new_block = on_new_block
        self.hook = HOT.hook(count_block, native=native)
        self.data = self.words.address
        self.last = ctypes.c_uint64.from_address(self.data + BudgetData.members["last"].offset)
        self._left = ctypes.c_int64.from_address(self.data + BudgetData.members["left"].offset)

    @property
    def left(self) -> int:
        """What is left; negative when the last block overdrew it."""
        return self._left.value

    @left.setter
    def left(self, value: int) -> None:
        self._left.value = value

    def size_of(self, address: int) -> int:
        """Return the size of a block that is remembered, 0 for another."""
        difference = block_at(self.words.table, address).key ^ address & _ALL
        return 0 if difference & (1 << SIZE_SHIFT) - 1 else difference >> SIZE_SHIFT

    def watch(self, flags: int) -> None:
        """Stop before a block where one of these bits of RFLAGS is set; 0 for none."""
        self.words.watched = flags

    def forget_blocks(self) -> None:
        """Forget all counts (when translated code is dropped)."""
        ctypes.memset(self.words.table.address, 0, ctypes.sizeof(BlockTable))

    def forget_block(self, address: int, size: int) -> None:
        """Forget a block's count: there is another translation of it."""
        block = block_at(self.words.table, address)
        if block.key == key_of_block(address, size):
            block.key = 0

    def _new_block(self, _engine: int, address: int, size: int, _data: int) -> None:
        count, is_lasting = self._on_new_block(address, size)
        if count is None:
            return
        self.words.left -= count
        if is_lasting:
            block = block_at(self.words.table, address)
            block.instructions, block.key = count, key_of_block(address, size)
