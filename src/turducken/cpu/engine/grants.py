"""What the engine has been told of translations since they were last flushed.

The engine's own TLB forgets when it likes, and holds little: two pages a multiple of a MiB apart
may drive each other out. What it has been told once is answered again here, by a generated function
where that is possible, so that its memory has no influence on the run.

An answer is about one page, or about a whole aligned 2 MiB of RAM for data.
"""

import ctypes
import struct
from typing import Any

from unicorn import unicorn_const

from turducken.address import PAGE_OFFSET_MASK, PAGE_SHIFT
from turducken.cpu.engine.native import generate
from turducken.cpu.engine.state import EFLAGS, H_CPL, HFLAGS, State

LARGE_SHIFT = 21
_LARGE_MASK = (1 << LARGE_SHIFT) - 1
_LARGE_KEY = ~_LARGE_MASK | PAGE_OFFSET_MASK
_PAGE_IN_LARGE = _LARGE_MASK & ~PAGE_OFFSET_MASK
_PAGES, _LARGE = 1024, 64
_ENTRY = 4
"""Words of an entry: key, generation, host-physical page, rights."""
_WORDS = struct.Struct("<4Q")

# The data block, in words of 8 bytes.
_STATE, _SLOW, _GENERATION, _PAGE_TABLE = 0, 1, 2, 4
_LARGE_TABLE = _PAGE_TABLE + _ENTRY * _PAGES
_END = _LARGE_TABLE + _ENTRY * _LARGE

_AC_TO_BIT_2 = 16
READ, WRITE, EXECUTE = (
    unicorn_const.UC_PROT_READ,
    unicorn_const.UC_PROT_WRITE,
    unicorn_const.UC_PROT_EXEC,
)

_FUNCTION = f"""
define zeroext i1 @fill(i8* %engine, i64 %page, i32 %access, i64* %result, i64* %data) {{
entry:
  %statep = getelementptr i64, i64* %data, i64 {_STATE}
  %statei = load i64, i64* %statep
  %state = inttoptr i64 %statei to i64*
  %hflagsp = getelementptr i64, i64* %state, i64 {HFLAGS}
  %hflags = load i64, i64* %hflagsp
  %cpl = and i64 %hflags, {H_CPL}
  %eflagsp = getelementptr i64, i64* %state, i64 {EFLAGS}
  %eflags = load i64, i64* %eflagsp
  %shifted = lshr i64 %eflags, {_AC_TO_BIT_2}
  %ac = and i64 %shifted, 4
  %mode = or i64 %cpl, %ac
  %key = or i64 %page, %mode
  %generationp = getelementptr i64, i64* %data, i64 {_GENERATION}
  %generation = load i64, i64* %generationp
  %kind = sub i32 %access, {unicorn_const.UC_MEM_READ}
  %kind64 = zext i32 %kind to i64
  %needed = shl i64 1, %kind64

  %number = lshr i64 %page, {PAGE_SHIFT}
  %upper = lshr i64 %page, {PAGE_SHIFT + 10}
  %mixed = xor i64 %number, %upper
  %slot = and i64 %mixed, {_PAGES - 1}
  %words = mul i64 %slot, {_ENTRY}
  %place = add i64 %words, {_PAGE_TABLE}
  %keyp = getelementptr i64, i64* %data, i64 %place
  %foundkey = load i64, i64* %keyp
  %bornp = getelementptr i64, i64* %keyp, i64 1
  %born = load i64, i64* %bornp
  %targetp = getelementptr i64, i64* %keyp, i64 2
  %target = load i64, i64* %targetp
  %rightsp = getelementptr i64, i64* %keyp, i64 3
  %rights = load i64, i64* %rightsp
  %iskey = icmp eq i64 %foundkey, %key
  %isnew = icmp eq i64 %born, %generation
  %isvalid = and i1 %iskey, %isnew
  %isgranted64 = and i64 %rights, %needed
  %isgranted = icmp ne i64 %isgranted64, 0
  %hit = and i1 %isvalid, %isgranted
  br i1 %hit, label %answer, label %large

answer:
  store i64 %target, i64* %result
  %perms = getelementptr i64, i64* %result, i64 1
  store i64 %rights, i64* %perms
  ret i1 true

large:
  %lnumber = lshr i64 %page, {LARGE_SHIFT}
  %lslot = and i64 %lnumber, {_LARGE - 1}
  %lwords = mul i64 %lslot, {_ENTRY}
  %lplace = add i64 %lwords, {_LARGE_TABLE}
  %lkeyp = getelementptr i64, i64* %data, i64 %lplace
  %lfoundkey = load i64, i64* %lkeyp
  %lbornp = getelementptr i64, i64* %lkeyp, i64 1
  %lborn = load i64, i64* %lbornp
  %ltargetp = getelementptr i64, i64* %lkeyp, i64 2
  %lbase = load i64, i64* %ltargetp
  %lrightsp = getelementptr i64, i64* %lkeyp, i64 3
  %lrights = load i64, i64* %lrightsp
  %lbegin = shl i64 %lnumber, {LARGE_SHIFT}
  %lkey = or i64 %lbegin, %mode
  %islkey = icmp eq i64 %lfoundkey, %lkey
  %islnew = icmp eq i64 %lborn, %generation
  %islgranted64 = and i64 %lrights, %needed
  %islgranted = icmp ne i64 %islgranted64, 0
  %l1 = and i1 %islkey, %islnew
  %l2 = and i1 %l1, %islgranted
  br i1 %l2, label %answerlarge, label %slow

answerlarge:
  %offset = and i64 %page, {_LARGE_MASK}
  %ltarget = add i64 %lbase, %offset
  store i64 %ltarget, i64* %result
  %issame = icmp eq i64 %target, %ltarget
  %isboth = and i1 %isvalid, %issame
  %more = select i1 %isboth, i64 %rights, i64 0
  %all = or i64 %lrights, %more
  %lperms = getelementptr i64, i64* %result, i64 1
  store i64 %all, i64* %lperms
  ret i1 true

slow:
  %slowp = getelementptr i64, i64* %data, i64 {_SLOW}
  %slowi = load i64, i64* %slowp
  %slowf = inttoptr i64 %slowi to i1 (i8*, i64, i32, i64*, i64*)*
  %answered = call zeroext i1 %slowf(
    i8* %engine, i64 %page, i32 %access, i64* %result, i64* %data)
  ret i1 %answered
}}
"""

Grant = tuple[int, int]
"""A host-physical page, and rights to it."""


class Grants:
    """One engine's. ``hook`` and ``data`` are for it to register; ``slow`` is asked for the rest.

    Questions and answers are about a ``key``: a page, for the CPL and RFLAGS.AC of the moment.
    """

    def __init__(self, state: State, slow: Any, *, native: bool) -> None:
        self._registers = state.words
        self._words = (ctypes.c_uint64 * _END)()
        self.words = memoryview(self._words).cast("B").cast("Q")
        self.words[_STATE] = state.address
        self.words[_SLOW] = ctypes.cast(slow, ctypes.c_void_p).value or 0
        self.words[_GENERATION] = 1
        self.hook: Any = (generate("fill", _FUNCTION) if native else None) or slow
        self.data = ctypes.addressof(self._words)
        self._pages: dict[int, Grant] = {}
        self._large: dict[int, Grant] = {}

    def forget(self) -> None:
        """Forget everything."""
        self._pages.clear()
        self._large.clear()
        self.words[_GENERATION] += 1

    def key(self, page: int) -> int:
        """Return the linear ``page`` joined with what else answers are told apart by."""
        words = self._registers
        return page | words[HFLAGS] & H_CPL | words[EFLAGS] >> _AC_TO_BIT_2 & 4

    def find(self, key: int, needed: int) -> Grant | None:
        """Return what has been granted of a page, if that includes ``needed``."""
        found = self._pages.get(key)
        if found is not None and found[1] & needed:
            self._remember(_page_place(key), key, found)
            return found
        large = self._large.get(key & _LARGE_KEY)
        if large is None or not large[1] & needed:
            return None
        self._remember(_large_place(key), key & _LARGE_KEY, large)
        target = large[0] + (key & _PAGE_IN_LARGE)
        return target, large[1] | _rights_to(found, target)

    def add(self, key: int, target: int, rights: int) -> int:
        """Grant ``rights`` to a page; return them with those granted before."""
        before = self._pages.get(key)
        if before is not None:
            rights |= _rights_to(before, target)
        self._pages[key] = grant = target, rights
        self._remember(_page_place(key), key, grant)
        large = self._large.get(key & _LARGE_KEY)
        if large is not None and large[0] + (key & _PAGE_IN_LARGE) == target:
            rights |= large[1]
        return rights

    def add_large(self, key: int, target: int, rights: int) -> None:
        """Grant ``rights`` (no fetches) to the aligned 2 MiB that hold the page and ``target``."""
        key &= _LARGE_KEY
        base = target & ~_LARGE_MASK
        grant = base, rights | _rights_to(self._large.get(key), base)
        self._large[key] = grant
        self._remember(_large_place(key), key, grant)

    def _remember(self, place: int, key: int, grant: Grant) -> None:
        _WORDS.pack_into(self._words, place, key, self.words[_GENERATION], *grant)


def _rights_to(grant: Grant | None, target: int) -> int:
    return grant[1] if grant is not None and grant[0] == target else 0


def _page_place(key: int) -> int:
    return 8 * (_PAGE_TABLE + _ENTRY * ((key >> PAGE_SHIFT ^ key >> PAGE_SHIFT + 10) & _PAGES - 1))


def _large_place(key: int) -> int:
    return 8 * (_LARGE_TABLE + _ENTRY * (key >> LARGE_SHIFT & _LARGE - 1))
