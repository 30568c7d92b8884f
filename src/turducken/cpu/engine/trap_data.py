"""What the native handlers of traps work on, and what several of them need."""

from collections.abc import Callable
from typing import Annotated

from turducken.address import PAGE_OFFSET_MASK
from turducken.cpu.engine import library
from turducken.cpu.engine.budget import BudgetData
from turducken.cpu.engine.grants import EXECUTE, READ, UNKNOWN, GrantData, granted, key_of
from turducken.cpu.engine.hot import HOT
from turducken.cpu.engine.registers import Registers
from turducken.cpu.engine.state import H_CPL, H_CS64, H_LMA, H_PE, H_SHADOW
from turducken.native import U64, Record, Ref, Words, byte_at

_TF_RF_VM = 1 << 8 | 1 << 16 | 1 << 17
_CS = 1
_WIDE, _NARROW = 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF


class TrapData(Record):
    """``is_allowed``: nothing may be due before the next instruction.

    ``is_unseen``: nobody minds that the processor does not stop, or that memory is not asked for.
    RAM of ``ram_size`` bytes from host-physical 0 on is at ``ram`` in this process. The rest is for
    VMREAD and VMWRITE: `turducken.cpu.engine.field_access`.
    """

    registers: Ref[Registers]
    budget: Ref[BudgetData]
    grants: Ref[GrantData]
    on_trap: Annotated[Callable[[int, int, int], None], library.INTERRUPT_HOOK]
    is_allowed: U64
    is_unseen: U64
    blocks_nmi: U64
    ram: U64
    ram_size: U64
    region: U64
    field_table: U64
    bitmaps: Annotated[Words, 2]


@HOT.compiled
def is_plain(registers: Registers) -> bool:
    """Tell whether the code is in ring 0, in 64-bit or protected mode, and nothing is pending."""
    hflags = registers.hflags
    if hflags & (H_CPL | H_SHADOW) or registers.eflags & _TF_RF_VM:
        return False
    return hflags & H_CS64 != 0 or hflags & (H_LMA | H_PE) == H_PE


@HOT.compiled
def address_mask(registers: Registers) -> U64:
    """Return the bits of an address or operand."""
    return _WIDE if registers.hflags & H_CS64 else _NARROW


@HOT.compiled
def code_at_rip(data: TrapData, length: U64) -> U64:
    """Return where ``length`` bytes of code from RIP on are in this process, or 0."""
    registers = data.registers
    mask = address_mask(registers)
    base = 0 if registers.hflags & H_CS64 else registers.segments[_CS].base
    linear = registers.rip + base & mask
    offset = linear & PAGE_OFFSET_MASK
    if offset + length > PAGE_OFFSET_MASK + 1:
        return 0
    page = granted(data.grants, key_of(registers, linear - offset), EXECUTE)
    if page == UNKNOWN or page >= data.ram_size:
        return 0
    return data.ram + page + offset


@HOT.compiled
def byte_at_rip(data: TrapData, offset: U64) -> U64:
    """Return a byte of the instruction at RIP; 0 where it cannot simply be read."""
    place = code_at_rip(data, offset + 1)
    return 0 if place == 0 else byte_at(place + offset)


@HOT.compiled
def data_at(data: TrapData, linear: U64, length: U64) -> U64:
    """Return where data of ring 0 is in this process, or 0 where it may not simply be read."""
    offset = linear & PAGE_OFFSET_MASK
    if offset + length > PAGE_OFFSET_MASK + 1:
        return 0
    page = granted(data.grants, key_of(data.registers, linear - offset), READ)
    if page == UNKNOWN or page >= data.ram_size:
        return 0
    return data.ram + page + offset


@HOT.compiled
def complete(registers: Registers, length: U64) -> None:
    """Go on behind the instruction."""
    registers.rip = registers.rip + length & address_mask(registers)
    registers.error_code = 0
    registers.is_software = 0
