"""Who called: return addresses by the call frame information of DWARF (or of .eh_frame).

DWARF Debugging Information Format 5, "Call Frame Information"; registers are numbered as in the
processor supplements of the System V ABI.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.dwarf.callframe import FDE

from turducken.machine.boot.elf import ElfImage

_SP, _FP, _RETURN = {True: 7, False: 4}, {True: 6, False: 5}, {True: 16, False: 8}
_BROKEN = (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError)

Word = Callable[[int], int | None]
"""Reads a word of the code's width at a linear address; None where there is none."""


class Frame(NamedTuple):
    """A function that has not returned: where it is, its stack and frame pointers."""

    pc: int
    sp: int
    fp: int


@dataclass(frozen=True, slots=True)
class _Range:
    """The code that one description is about."""

    start: int
    end: int
    entry: FDE


class Unwinder:
    """An ELF file's call frame information; it is read when the first frame is asked for."""

    def __init__(self, elf: ElfImage | None) -> None:
        self._elf = elf
        self._ranges: list[_Range] | None = None

    def caller(self, frame: Frame, word: Word, *, is_innermost: bool) -> Frame | None:
        """Return the frame that called ``frame``, or None where nothing is known of that.

        Addresses are those at which the file was linked. A return address may be behind the last
        instruction of its function, so that of a caller is looked up one byte earlier.
        """
        if self._elf is None:
            return None
        row = self._row(frame.pc if is_innermost else frame.pc - 1)
        is_64 = self._elf.is_64
        rule = None if row is None else row.get("cfa")
        if row is None or rule is None or rule.reg not in (_SP[is_64], _FP[is_64]):
            return None
        top = (frame.sp if rule.reg == _SP[is_64] else frame.fp) + rule.offset
        address = _saved(row, _RETURN[is_64], top, word)
        if not address:
            return None
        pointer = _saved(row, _FP[is_64], top, word)
        return Frame(address, top, frame.fp if pointer is None else pointer)

    def _row(self, address: int) -> dict[Any, Any] | None:
        if self._ranges is None:
            self._ranges = sorted(self._read(), key=lambda one: one.start)
        index = bisect_right(self._ranges, address, key=lambda one: one.start) - 1
        if index < 0 or address >= self._ranges[index].end:
            return None
        try:
            table = self._ranges[index].entry.get_decoded().table
        except _BROKEN:
            return None
        rows = [row for row in table if row["pc"] <= address]
        return rows[-1] if rows else None

    def _read(self) -> Iterator[_Range]:
        dwarf = None if self._elf is None else self._elf.debug_information()
        if dwarf is None:
            return
        try:
            entries = list(dwarf.CFI_entries()) if dwarf.has_CFI() else []
            entries += list(dwarf.EH_CFI_entries()) if dwarf.has_EH_CFI() else []
        except _BROKEN:
            return  # what cannot be read is not there: frame pointers will do
        for one in entries:
            if isinstance(one, FDE):
                start = one.header["initial_location"]
                yield _Range(start, start + one.header["address_range"], one)


def _saved(row: dict[Any, Any], register: int, top: int, word: Word) -> int | None:
    """Return a register's value that a frame has saved below ``top``; None where it has not."""
    rule = row.get(register)
    return word(top + rule.arg) if rule is not None and rule.type == "OFFSET" else None
