"""What stands at RIP: decoding with iced-x86, operands, effective addresses."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from iced_x86 import (
    Code,
    Decoder,
    Instruction,
    MemorySizeExt,
    Mnemonic,
    OpKind,
    Register,
    RegisterExt,
)

from turducken.arch.registers import GPR_NAMES
from turducken.cpu.engine import SegmentIndex, State

__all__ = ["Code", "Instruction", "OpKind", "Register"]

_GPR: dict[int, int] = {getattr(Register, name): number for number, name in enumerate(GPR_NAMES)}
_HIGH_BYTE: dict[int, int] = {Register.AH: 0, Register.CH: 1, Register.DH: 2, Register.BH: 3}
SEGMENT_NUMBERS: dict[int, int] = {
    getattr(Register, one.name): one for one in SegmentIndex if one <= SegmentIndex.GS
}

_STACK_BASES = frozenset({Register.ESP, Register.RSP, Register.EBP, Register.RBP})

_full_register: Callable[[int], int] = RegisterExt.full_register  # type: ignore[assignment]
register_size: Callable[[int], int] = RegisterExt.size  # type: ignore[assignment]
"""The width of a register (iced's number) in bytes."""
memory_size: Callable[[int], int] = MemorySizeExt.size  # type: ignore[assignment]
"""The size in bytes of a memory operand (iced's number)."""


class MemoryOperand(NamedTuple):
    """An effective address: segment register number, offset, and the linear address they give."""

    segment: int
    offset: int
    linear: int


@lru_cache(maxsize=4096)
def decode(code: bytes, bits: int) -> Instruction:
    """Decode the instruction that ``code`` begins with, for 16-, 32- or 64-bit code."""
    return Decoder(bits, code).decode()


def code_bits(state: State) -> int:
    """Return 64, 32 or 16: the default operand size's mode of the code segment."""
    if state.is_64bit:
        return 64
    return 32 if state.is_32bit_code else 16


def gpr_number(register: int) -> int:
    """Return the number of the general-purpose register that contains ``register`` (iced's)."""
    return _GPR[_full_register(register)]


def read_register(state: State, register: int) -> int:
    """Return a general-purpose register's value, cut to its width."""
    if register in _HIGH_BYTE:
        return state.gpr[_HIGH_BYTE[register]] >> 8 & 0xFF
    value = state.gpr[gpr_number(register)]
    return value & (1 << 8 * register_size(register)) - 1


def write_register(state: State, register: int, value: int) -> None:
    """Set a general-purpose register: 32 bits clear the upper half, fewer keep the rest."""
    if register in _HIGH_BYTE:
        number = _HIGH_BYTE[register]
        state.gpr[number] = state.gpr[number] & ~0xFF00 | (value & 0xFF) << 8
        return
    number, size = gpr_number(register), register_size(register)
    mask = (1 << 8 * size) - 1
    if size >= 4:
        state.gpr[number] = value & mask
    else:
        state.gpr[number] = state.gpr[number] & ~mask | value & mask


def effective_address(state: State, instruction: Instruction, rip: int) -> MemoryOperand:
    """Return the address of the (only) explicit memory operand of the instruction at ``rip``."""
    base, index = instruction.memory_base, instruction.memory_index
    offset = instruction.memory_displacement
    width = 64
    if instruction.is_ip_rel_memory_operand:
        # Decoded at address 0, so the displacement is relative to it.
        offset = instruction.ip_rel_memory_address + rip
        width = 32 if base == Register.EIP else 64
    else:
        if base != Register.NONE:
            offset += read_register(state, base)
            width = 8 * register_size(base)
        if index != Register.NONE:
            offset += read_register(state, index) * instruction.memory_index_scale
            width = 8 * register_size(index)
        if base == Register.NONE and index == Register.NONE:
            width = 8 * (instruction.memory_displ_size or 8)
            if instruction.memory_displ_size == 4 and state.is_64bit:
                width = 64
    offset &= (1 << width) - 1
    segment = operand_segment(state, instruction)
    return MemoryOperand(segment, offset, linear_address(state, segment, offset))


def operand_segment(state: State, instruction: Instruction) -> int:
    """Return the segment of the memory operand.

    SDM 1, "Segmentation in 64-Bit Mode": overrides of CS, DS, ES and SS are ignored there, and with
    them, which of #SS and #GP an address that is not canonical causes.
    """
    segment = int(SEGMENT_NUMBERS[instruction.memory_segment])
    if not state.is_64bit or segment >= SegmentIndex.FS:
        return segment
    return int(SegmentIndex.SS if instruction.memory_base in _STACK_BASES else SegmentIndex.DS)


_LOADS_DESCRIPTOR = frozenset(
    {
        Mnemonic.LAR,
        Mnemonic.LSL,
        Mnemonic.VERR,
        Mnemonic.VERW,
        Mnemonic.LDS,
        Mnemonic.LES,
        Mnemonic.LFS,
        Mnemonic.LGS,
    }
)


def loads_descriptor(instruction: Instruction) -> bool:
    """Tell whether an instruction that the engine executes reads a descriptor table."""
    if instruction.mnemonic in _LOADS_DESCRIPTOR:
        return True
    if instruction.mnemonic in (Mnemonic.MOV, Mnemonic.POP):
        return instruction.op0_register in SEGMENT_NUMBERS
    return False


def uses_stack(instruction: Instruction | None, state: State) -> bool:
    """Tell whether what fails in the instruction is an access to the stack: 64-bit mode only.

    That is the explicit operand if it is in the stack segment, and otherwise what the instruction
    pushes or pops.
    """
    if instruction is None:
        return False
    if OpKind.MEMORY in (instruction.op0_kind, instruction.op1_kind):
        operand = effective_address(state, instruction, state.rip)
        if not state.is_canonical(operand.linear):
            return operand.segment == SegmentIndex.SS
    return instruction.is_stack_instruction


def linear_address(state: State, segment: int, offset: int) -> int:
    """Add the segment's base, as the mode has it."""
    if state.is_64bit:
        base = state.segment_base(segment) if segment >= SegmentIndex.FS else 0
        return (base + offset) & 0xFFFF_FFFF_FFFF_FFFF
    return (state.segment_base(segment) + offset) & 0xFFFF_FFFF
