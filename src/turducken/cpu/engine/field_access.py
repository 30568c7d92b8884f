"""VMREAD and VMWRITE between registers, without leaving the engine.

They are by far the most frequent instructions that trap. To the engine they are undefined; the
native handler that learns of that first executes the plain ones at once: no fault, no VM exit, no
event due, register operands, a field that the processor has. Everything else goes the long way, to
`turducken.cpu.intercepts.vmx`, which does the same for these; so a run does not depend on it.

SDM 3C, "VMREAD - Read Field from Virtual-Machine Control Structure" and "VMWRITE".
"""

import ctypes
from collections.abc import Iterable
from typing import NamedTuple

from turducken.address import PAGE_SIZE
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.registers import Registers
from turducken.cpu.engine.state import CC_OP_EFLAGS, H_CS64
from turducken.cpu.engine.trap_data import TrapData, address_mask, code_at_rip, complete
from turducken.native import U64, byte_at, dword_at, set_word_at, word_at

_ENCODINGS = 1 << 15
_LONGEST = 4
"""Bytes of the instruction with register operands and a REX prefix."""

_QUAD, _DOUBLE, _WORD, _HIGH = 0, 1, 2, 3
"""What of a slot an access reaches."""
_PARTS = {(1 << 64) - 1: _QUAD, 0xFFFF_FFFF: _DOUBLE, 0xFFFF: _WORD}

_OPCODE, _OPCODE_MASK, _IS_WRITE = 0x780F, 0xFEFF, 0x100
"""Bytes 0F 78 and 0F 79, the first one lowest."""
_MOD = _REGISTERS = 0xC0_0000


@HOT.compiled
def access_field(data: TrapData) -> bool:
    """Execute a plain VMREAD or VMWRITE; return False where it is none."""
    place = code_at_rip(data, _LONGEST)
    if data.region == 0 or place == 0:
        return False
    registers = data.registers
    code = dword_at(place)
    length, rex = 3, 0
    if registers.hflags & H_CS64 and code & 0xF0 == 0x40:
        length, rex = 4, code & 0xF
        code >>= 8
    if code & _OPCODE_MASK != _OPCODE or code & _MOD != _REGISTERS:
        return False
    is_write = code & _IS_WRITE != 0
    field = code >> 19 & 7 | rex << 1 & 8
    operand = code >> 16 & 7 | rex << 3 & 8
    encoding = registers.gpr[field] & address_mask(registers)
    if encoding >= _ENCODINGS:
        return False
    exits = byte_at(data.bitmaps[int(is_write)] + (encoding >> 3)) >> (encoding & 7) & 1
    index = encoding + _ENCODINGS if is_write else encoding
    access = dword_at(data.field_table + 4 * index)
    if exits or access == 0:
        return False
    slot = data.region + 8 * (access >> 2)
    if is_write:
        write_field(registers, slot, access & 3, operand)
    else:
        read_field(registers, slot, access & 3, operand)
    # VMsucceed: all arithmetic flags are 0.
    registers.cc_source = 0
    registers.cc_operation = CC_OP_EFLAGS
    complete(registers, length)
    return True


@HOT.compiled
def read_field(registers: Registers, slot: U64, part: U64, operand: U64) -> None:
    """Copy a field, or part of it, to a register."""
    value = word_at(slot)
    if part == _HIGH:
        value >>= 32
    registers.gpr[operand] = value & width_of(part) & address_mask(registers)


@HOT.compiled
def write_field(registers: Registers, slot: U64, part: U64, operand: U64) -> None:
    """Copy a register to a field, or part of it."""
    value = registers.gpr[operand] & address_mask(registers)
    if part == _HIGH:
        value = (value & 0xFFFF_FFFF) << 32 | word_at(slot) & 0xFFFF_FFFF
    set_word_at(slot, value & width_of(part))


@HOT.compiled
def width_of(part: U64) -> U64:
    """Return the bits of a slot that a field has."""
    if part == _WORD:
        return 0xFFFF
    return 0xFFFF_FFFF if part == _DOUBLE else 0xFFFF_FFFF_FFFF_FFFF


class FieldPlace(NamedTuple):
    """Where VMREAD or VMWRITE of ``encoding`` finds its field: a slot of 8 bytes of the region.

    ``mask`` are the field's bits; ``is_high``: the access reaches bits 63:32 of it.
    """

    encoding: int
    slot: int
    mask: int
    is_high: bool


class FieldTable:
    """The fields that a processor has, as the native handler looks them up."""

    def __init__(self, readable: Iterable[FieldPlace], writable: Iterable[FieldPlace]) -> None:
        self._entries = (ctypes.c_uint32 * (2 * _ENCODINGS))()
        self.address = ctypes.addressof(self._entries)
        for first, places in ((0, readable), (_ENCODINGS, writable)):
            for one in places:
                part = _HIGH if one.is_high else _PARTS[one.mask]
                self._entries[first + one.encoding] = one.slot << 2 | part


class FieldAccess:
    """The access of one engine's code to the fields of one VMCS."""

    _nothing_exits = (ctypes.c_uint64 * (PAGE_SIZE // 8))()

    def __init__(self, data: TrapData) -> None:
        self._data = data
        self._table: FieldTable | None = None

    def use_table(self, table: FieldTable) -> None:
        """Say which fields there are."""
        self._table = table
        self._data.field_table = table.address

    def open(self, region: int, bitmaps: tuple[int, int] | None = None) -> None:
        """Let code reach the fields at ``region``, those only that ``bitmaps`` let it read, write.

        All are addresses in this process, of pages.
        """
        nothing = ctypes.addressof(self._nothing_exits)
        self._data.bitmaps[0], self._data.bitmaps[1] = bitmaps or (nothing, nothing)
        self._data.region = region

    def close(self) -> None:
        """Let no code reach any field this way."""
        self._data.region = 0
