"""VMREAD and VMWRITE between registers, without leaving the engine.

They are by far the most frequent instructions that trap. To the engine they are undefined; the
generated function that learns of that first executes the plain ones at once: no fault, no VM exit,
no event due, register operands, a field that the processor has. Everything else goes the long way,
to `turducken.cpu.intercepts.vmx`, which does the same for these; so a run does not depend on it.

SDM 3C, "VMREAD - Read Field from Virtual-Machine Control Structure" and "VMWRITE".
"""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from turducken.address import PAGE_SHIFT, PAGE_SIZE
from turducken.cpu.engine import library
from turducken.cpu.engine.native import generate
from turducken.cpu.engine.state import (
    CC_OP_EFLAGS,
    CC_OPERATION,
    CC_SOURCE,
    CS_BASE,
    EFLAGS,
    EXCEPTION,
    H_CPL,
    H_CS64,
    H_LMA,
    H_PE,
    H_SHADOW,
    HFLAGS,
    RIP,
)

_UNDEFINED = 0x146
"""The intercept of #UD."""
_ENCODINGS = 1 << 15
_PAGES = 16

# The data block, in words of 8 bytes.
_STATE, _BUDGET, _SLOW, _TABLE, _REGION, _BITMAPS, _ALLOWED = 0, 1, 2, 3, 4, 5, 7
_CODE = 8
_END = _CODE + 2 * _PAGES

_QUAD, _DOUBLE, _WORD, _HIGH = 0, 1, 2, 3
"""What of a slot an access reaches."""
_PARTS = {(1 << 64) - 1: _QUAD, 0xFFFF_FFFF: _DOUBLE, 0xFFFF: _WORD}

_TF_RF_VM = 1 << 8 | 1 << 16 | 1 << 17

_FUNCTION = f"""
define void @trap(i8* %engine, i32 %number, i64* %data) {{
entry:
  %statep = getelementptr i64, i64* %data, i64 {_STATE}
  %statei = load i64, i64* %statep
  %state = inttoptr i64 %statei to i64*
  %budgetp = getelementptr i64, i64* %data, i64 {_BUDGET}
  %budgeti = load i64, i64* %budgetp
  %budgetw = inttoptr i64 %budgeti to i64*
  %budget = load i64, i64* %budgetw
  %regionp = getelementptr i64, i64* %data, i64 {_REGION}
  %region = load i64, i64* %regionp
  %allowedp = getelementptr i64, i64* %data, i64 {_ALLOWED}
  %allowed = load i64, i64* %allowedp
  %isud = icmp eq i32 %number, {_UNDEFINED}
  %isopen = icmp ne i64 %region, 0
  %isallowed = icmp ne i64 %allowed, 0
  %isleft = icmp sgt i64 %budget, 0
  %c1 = and i1 %isud, %isopen
  %c2 = and i1 %isallowed, %isleft
  %c3 = and i1 %c1, %c2
  br i1 %c3, label %mode, label %slow

mode:
  %hflagsp = getelementptr i64, i64* %state, i64 {HFLAGS}
  %hflags = load i64, i64* %hflagsp
  %eflagsp = getelementptr i64, i64* %state, i64 {EFLAGS}
  %eflags = load i64, i64* %eflagsp
  %h1 = and i64 %hflags, {H_CPL | H_SHADOW}
  %e1 = and i64 %eflags, {_TF_RF_VM}
  %m1 = or i64 %h1, %e1
  %plain = icmp eq i64 %m1, 0
  %h2 = and i64 %hflags, {H_CS64}
  %iswide = icmp ne i64 %h2, 0
  %h3 = and i64 %hflags, {H_LMA | H_PE}
  %isprotected = icmp eq i64 %h3, {H_PE}
  %m2 = or i1 %iswide, %isprotected
  %m3 = and i1 %plain, %m2
  br i1 %m3, label %fetch, label %slow

fetch:
  %mask = select i1 %iswide, i64 -1, i64 {0xFFFF_FFFF}
  %ripp = getelementptr i64, i64* %state, i64 {RIP}
  %rip = load i64, i64* %ripp
  %csp = getelementptr i64, i64* %state, i64 {CS_BASE}
  %cs = load i64, i64* %csp
  %base = select i1 %iswide, i64 0, i64 %cs
  %sum = add i64 %rip, %base
  %linear = and i64 %sum, %mask
  %number64 = lshr i64 %linear, {PAGE_SHIFT}
  %slot = and i64 %number64, {_PAGES - 1}
  %twice = shl i64 %slot, 1
  %place = add i64 %twice, {_CODE}
  %pagep = getelementptr i64, i64* %data, i64 %place
  %page = load i64, i64* %pagep
  %hostplace = add i64 %place, 1
  %hostp = getelementptr i64, i64* %data, i64 %hostplace
  %host = load i64, i64* %hostp
  %offset = and i64 %linear, {PAGE_SIZE - 1}
  %begin = sub i64 %linear, %offset
  %wanted = or i64 %begin, 1
  %isknown = icmp eq i64 %page, %wanted
  %iswhole = icmp ule i64 %offset, {PAGE_SIZE - 4}
  %f1 = and i1 %isknown, %iswhole
  br i1 %f1, label %decode, label %slow

decode:
  %codei = add i64 %host, %offset
  %codep = inttoptr i64 %codei to i32*
  %code = load i32, i32* %codep, align 1
  %first = and i32 %code, 240
  %looksrex = icmp eq i32 %first, 64
  %isrex = and i1 %looksrex, %iswide
  %rex = select i1 %isrex, i32 %code, i32 0
  %shift = select i1 %isrex, i32 8, i32 0
  %rest = lshr i32 %code, %shift
  %length = select i1 %isrex, i64 4, i64 3
  %opcode = and i32 %rest, {0xFEFF}
  %isopcode = icmp eq i32 %opcode, {0x780F}
  %mod = and i32 %rest, {0xC0_0000}
  %isregister = icmp eq i32 %mod, {0xC0_0000}
  %d1 = and i1 %isopcode, %isregister
  br i1 %d1, label %operands, label %slow

operands:
  %write = lshr i32 %rest, 8
  %write1 = and i32 %write, 1
  %iswrite = icmp ne i32 %write1, 0
  %reg = lshr i32 %rest, 19
  %reg3 = and i32 %reg, 7
  %rexr = shl i32 %rex, 1
  %rexr8 = and i32 %rexr, 8
  %field = or i32 %reg3, %rexr8
  %rm = lshr i32 %rest, 16
  %rm3 = and i32 %rm, 7
  %rexb = shl i32 %rex, 3
  %rexb8 = and i32 %rexb, 8
  %value = or i32 %rm3, %rexb8
  %fieldp = getelementptr i64, i64* %state, i32 %field
  %fieldall = load i64, i64* %fieldp
  %encoding = and i64 %fieldall, %mask
  %isencoding = icmp ult i64 %encoding, {_ENCODINGS}
  br i1 %isencoding, label %permission, label %slow

permission:
  %bit = zext i1 %iswrite to i64
  %bitmapplace = add i64 %bit, {_BITMAPS}
  %bitmapp = getelementptr i64, i64* %data, i64 %bitmapplace
  %bitmap = load i64, i64* %bitmapp
  %byteplace = lshr i64 %encoding, 3
  %bytei = add i64 %bitmap, %byteplace
  %bytep = inttoptr i64 %bytei to i8*
  %byte = load i8, i8* %bytep
  %bitplace = and i64 %encoding, 7
  %bitplace8 = trunc i64 %bitplace to i8
  %shifted = lshr i8 %byte, %bitplace8
  %exits = trunc i8 %shifted to i1
  %tablep = getelementptr i64, i64* %data, i64 {_TABLE}
  %tablei = load i64, i64* %tablep
  %table = inttoptr i64 %tablei to i32*
  %half = mul i64 %bit, {_ENCODINGS}
  %index = add i64 %half, %encoding
  %accessp = getelementptr i32, i32* %table, i64 %index
  %access = load i32, i32* %accessp
  %isnone = icmp eq i32 %access, 0
  %p1 = or i1 %exits, %isnone
  br i1 %p1, label %slow, label %execute

execute:
  %number32 = lshr i32 %access, 2
  %fieldplace = zext i32 %number32 to i64
  %fields = inttoptr i64 %region to i64*
  %slotp = getelementptr i64, i64* %fields, i64 %fieldplace
  %old = load i64, i64* %slotp
  %part = and i32 %access, 3
  %isdouble = icmp eq i32 %part, {_DOUBLE}
  %isword = icmp eq i32 %part, {_WORD}
  %ishigh = icmp eq i32 %part, {_HIGH}
  %width = select i1 %isdouble, i64 {0xFFFF_FFFF}, i64 -1
  %bits = select i1 %isword, i64 {0xFFFF}, i64 %width
  %valuep = getelementptr i64, i64* %state, i32 %value
  br i1 %iswrite, label %set, label %get

get:
  %low = and i64 %old, %bits
  %high = lshr i64 %old, 32
  %got = select i1 %ishigh, i64 %high, i64 %low
  %gotcut = and i64 %got, %mask
  store i64 %gotcut, i64* %valuep
  br label %complete

set:
  %given = load i64, i64* %valuep
  %givencut = and i64 %given, %mask
  %whole = and i64 %givencut, %bits
  %upper = shl i64 %givencut, 32
  %lower = and i64 %old, {0xFFFF_FFFF}
  %joined = or i64 %upper, %lower
  %new = select i1 %ishigh, i64 %joined, i64 %whole
  store i64 %new, i64* %slotp
  br label %complete

complete:
  %next = add i64 %rip, %length
  %nextcut = and i64 %next, %mask
  store i64 %nextcut, i64* %ripp
  %sourcep = getelementptr i64, i64* %state, i64 {CC_SOURCE}
  store i64 0, i64* %sourcep
  %operationp = getelementptr i64, i64* %state, i64 {CC_OPERATION}
  %operation32 = bitcast i64* %operationp to i32*
  store i32 {CC_OP_EFLAGS}, i32* %operation32
  %exceptionp = getelementptr i64, i64* %state, i64 {EXCEPTION}
  store i64 0, i64* %exceptionp
  ret void

slow:
  %slowp = getelementptr i64, i64* %data, i64 {_SLOW}
  %slowi = load i64, i64* %slowp
  %slowf = inttoptr i64 %slowi to void (i8*, i32, i64*)*
  call void %slowf(i8* %engine, i32 %number, i64* %data)
  ret void
}}
"""


class FieldPlace(NamedTuple):
    """Where VMREAD or VMWRITE of ``encoding`` finds its field: a slot of 8 bytes of the region.

    ``mask`` are the field's bits; ``is_high``: the access reaches bits 63:32 of it.
    """

    encoding: int
    slot: int
    mask: int
    is_high: bool


class FieldTable:
    """The fields that a processor has, as the generated function looks them up."""

    def __init__(self, readable: Iterable[FieldPlace], writable: Iterable[FieldPlace]) -> None:
        self._entries = (ctypes.c_uint32 * (2 * _ENCODINGS))()
        self.address = ctypes.addressof(self._entries)
        for first, places in ((0, readable), (_ENCODINGS, writable)):
            for one in places:
                part = _HIGH if one.is_high else _PARTS[one.mask]
                self._entries[first + one.encoding] = one.slot << 2 | part


class FieldAccess:
    """The access of one engine's code to the fields of one VMCS.

    ``hook`` and ``data`` are for the engine to register as its interrupt hook.
    """

    _nothing_exits = (ctypes.c_uint64 * (PAGE_SIZE // 8))()

    def __init__(
        self, state: int, budget: int, on_trap: Callable[[int, int, int], None], *, native: bool
    ) -> None:
        self._words = (ctypes.c_uint64 * _END)()
        self._slow = library.INTERRUPT_HOOK(on_trap)
        address = generate("trap", _FUNCTION) if native else None
        self.hook: Any = address or self._slow
        self.data = ctypes.addressof(self._words)
        self.words = memoryview(self._words).cast("B").cast("Q")
        self.words[_STATE], self.words[_BUDGET] = state, budget
        self.words[_SLOW] = ctypes.cast(self._slow, ctypes.c_void_p).value or 0
        self._table: FieldTable | None = None
        self._code = self.data + 8 * _CODE

    def use_table(self, table: FieldTable) -> None:
        """Say which fields there are."""
        self._table = table
        self.words[_TABLE] = table.address

    def open(self, region: int, bitmaps: tuple[int, int] | None = None) -> None:
        """Let code reach the fields at ``region``, those only that ``bitmaps`` let it read, write.

        All are addresses in this process, of pages.
        """
        nothing = ctypes.addressof(self._nothing_exits)
        words = self.words
        words[_REGION] = region
        words[_BITMAPS], words[_BITMAPS + 1] = bitmaps or (nothing, nothing)

    def close(self) -> None:
        """Let no code reach any field this way."""
        self.words[_REGION] = 0

    def allow(self) -> None:
        """Begin a run: what is open may be used."""
        self.words[_ALLOWED] = 1

    def forbid(self) -> None:
        """Let nothing be used until `allow`: something may be due before the next instruction."""
        self.words[_ALLOWED] = 0

    def remember_code(self, linear: int, host: int) -> None:
        """Note that the page of code at ``linear`` is at ``host`` in this process."""
        place = _CODE + 2 * (linear >> PAGE_SHIFT & _PAGES - 1)
        self.words[place + 1] = host
        self.words[place] = linear | 1

    def forget_code(self) -> None:
        """Forget where pages of code are."""
        ctypes.memset(self._code, 0, 16 * _PAGES)
