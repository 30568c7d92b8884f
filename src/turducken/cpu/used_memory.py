"""Where in memory an instruction is about to read and write: what it names and what it implies."""

from collections.abc import Iterator
from typing import NamedTuple

from iced_x86 import Instruction, InstructionInfoFactory, OpAccess, Register, UsedMemory

from turducken.cpu.decoder import SEGMENT_NUMBERS, linear_address, memory_size, read_register
from turducken.cpu.engine import State

_info = InstructionInfoFactory()
_NO_ACCESS = frozenset({OpAccess.NONE, OpAccess.NO_MEM_ACCESS})
_WRITES = frozenset(
    {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
)
_ADDRESS_BITS = {1: 16, 2: 32, 3: 64}
_COUNTERS = {1: Register.CX, 2: Register.ECX, 3: Register.RCX}


class Access(NamedTuple):
    """A run of bytes at a linear address; ``kind`` is iced's memory size."""

    address: int
    size: int
    kind: int
    is_write: bool


def accesses_of(state: State, instruction: Instruction) -> Iterator[Access]:
    """Yield what the instruction at RIP accesses (one iteration of a repeated one)."""
    used = _info.info(instruction).used_memory()
    if _is_idle(state, instruction, used):
        return
    for one in used:
        if one.access not in _NO_ACCESS:
            kind = one.memory_size or instruction.memory_size
            yield Access(
                _address(state, instruction, one), memory_size(kind), kind, one.access in _WRITES
            )


def _is_idle(state: State, instruction: Instruction, used: list[UsedMemory]) -> bool:
    """Tell whether a string instruction's counter is zero."""
    if not (instruction.has_rep_prefix or instruction.has_repne_prefix):
        return False
    if not instruction.is_string_instruction:
        return False
    return not read_register(state, _COUNTERS[used[0].address_size])


def _address(state: State, instruction: Instruction, one: UsedMemory) -> int:
    offset = one.displacement
    if one.base != Register.NONE:
        offset += read_register(state, one.base)
    elif instruction.is_ip_rel_memory_operand:
        offset += state.rip  # decoded at address 0
    if one.index != Register.NONE:
        offset += read_register(state, one.index) * one.scale
    offset &= (1 << _ADDRESS_BITS.get(one.address_size, 64)) - 1
    return linear_address(state, SEGMENT_NUMBERS[one.segment], offset)
