"""Preemption: a native function that the engine calls at every block.

It subtracts the block's number of instructions from a budget, and stops the engine before the block
when nothing is left, so that a run ends at a block boundary, after the same instruction every time,
and always executes at least one block. It also stops it where a watched bit of RFLAGS is set: the
instructions that set one (STI, POPF, IRET) end their block. The function is generated at run time;
where that is not possible, a Python callback does the same, slower, and gives the same run.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from turducken.cpu.engine import library
from turducken.cpu.engine.blocks import SLOTS as _SLOTS
from turducken.cpu.engine.blocks import TABLE as _TABLE
from turducken.cpu.engine.blocks import place_of, translation_hook
from turducken.cpu.engine.native import generate

_BUDGET, _STOP, _SLOW, _FLAGS, _WATCHED = range(5)

# A block is known by its linear address and byte size; the table remembers its instruction count.
_CODE = f"""
define void @block(i8* %engine, i64 %address, i32 %size, i64* %data) {{
entry:
  %budget = load i64, i64* %data
  %watchedp = getelementptr i64, i64* %data, i64 {_WATCHED}
  %watched = load i64, i64* %watchedp
  %used = icmp slt i64 %budget, 0
  %watches = icmp ne i64 %watched, 0
  %rare = or i1 %used, %watches
  br i1 %rare, label %look, label %count
look:
  %flagsp = getelementptr i64, i64* %data, i64 {_FLAGS}
  %flagsi = load i64, i64* %flagsp
  %flagsw = inttoptr i64 %flagsi to i64*
  %flags = load i64, i64* %flagsw
  %set = and i64 %flags, %watched
  %isset = icmp ne i64 %set, 0
  %over = or i1 %used, %isset
  br i1 %over, label %stop, label %count
count:
  %size64 = zext i32 %size to i64
  %shifted = shl i64 %size64, 48
  %key = xor i64 %address, %shifted
  %upper = lshr i64 %address, 12
  %mixed = xor i64 %upper, %address
  %slot = and i64 %mixed, {_SLOTS - 1}
  %double = shl i64 %slot, 1
  %base = add i64 %double, {_TABLE}
  %keyp = getelementptr i64, i64* %data, i64 %base
  %found = load i64, i64* %keyp
  %hit = icmp eq i64 %found, %key
  br i1 %hit, label %fast, label %slow
fast:
  %next = add i64 %base, 1
  %countp = getelementptr i64, i64* %data, i64 %next
  %number = load i64, i64* %countp
  %left = sub i64 %budget, %number
  store i64 %left, i64* %data
  ret void
slow:
  %slowp = getelementptr i64, i64* %data, i64 {_SLOW}
  %slowi = load i64, i64* %slowp
  %slowf = inttoptr i64 %slowi to void (i8*, i64, i32, i64*)*
  call void %slowf(i8* %engine, i64 %address, i32 %size, i64* %data)
  ret void
stop:
  %stopp = getelementptr i64, i64* %data, i64 {_STOP}
  %stopi = load i64, i64* %stopp
  %stopf = inttoptr i64 %stopi to i32 (i8*)*
  %status = call i32 %stopf(i8* %engine)
  ret void
}}
"""


class Budget:
    """How many instructions the engine may still begin, counted per block.

    ``on_new_block(address, size)`` sees each block once before it counts (perhaps again after the
    small table has forgotten it, or the engine has translated it anew) and returns the number of
    instructions in it, or None if it has stopped the engine before a block that must be seen every
    time; and whether the number may be remembered. ``flags`` is where RFLAGS is in
    this process while the engine runs.
    """

    def __init__(
        self,
        handle: int,
        flags: int,
        on_new_block: Callable[[int, int], tuple[int | None, bool]],
        *,
        native: bool = True,
    ) -> None:
        self._data = (ctypes.c_int64 * (_TABLE + 2 * _SLOTS))()
        self.words = memoryview(self._data).cast("B").cast("q")
        self._handle = handle
        self._on_new_block = on_new_block
        self._slow = library.BLOCK_HOOK(self._new_block)
        self.words[_STOP] = library.emu_stop_address
        self.words[_FLAGS] = flags
        self._flags = ctypes.c_uint64.from_address(flags)
        self.words[_SLOW] = ctypes.cast(self._slow, ctypes.c_void_p).value or 0
        self._fallback = library.BLOCK_HOOK(self._count_block)
        self.hook: Any = (generate("block", _CODE) if native else None) or self._fallback
        self.data = ctypes.addressof(self._data)
        self.translation_hook = translation_hook(self.words, native=native)

    @property
    def left(self) -> int:
        """What is left; negative when the last block overdrew it."""
        return self.words[_BUDGET]

    @left.setter
    def left(self, value: int) -> None:
        self.words[_BUDGET] = value

    def watch(self, flags: int) -> None:
        """Stop before a block where one of these bits of RFLAGS is set; 0 for none."""
        self.words[_WATCHED] = flags

    def forget_blocks(self) -> None:
        """Forget all counts (when translated code is dropped)."""
        ctypes.memset(self.data + 8 * _TABLE, 0, 16 * _SLOTS)

    def _new_block(self, _engine: int, address: int, size: int, _data: int) -> None:
        count, is_lasting = self._on_new_block(address, size)
        if count is None:
            return
        self.words[_BUDGET] -= count
        if is_lasting:
            slot, key = place_of(address, size)
            self.words[slot + 1], self.words[slot] = count, key

    def _count_block(self, engine: int, address: int, size: int, data: int) -> None:
        slot, key = place_of(address, size)
        if self.words[_BUDGET] < 0 or self._flags.value & self.words[_WATCHED]:
            library.emu_stop(self._handle)
        elif self.words[slot] == key:
            self.words[_BUDGET] -= self.words[slot + 1]
        else:
            self._new_block(engine, address, size, data)
