"""The VM-exit instruction-information field.

SDM 3C, "Information for VM Exits Due to Instruction Execution".
"""

from iced_x86 import Instruction, OpKind, Register

from turducken.cpu.decoder import gpr_number, operand_segment, register_size
from turducken.cpu.engine import State

_SCALE = {1: 0, 2: 1, 4: 2, 8: 3}
_ADDRESS_SIZE = {2: 0, 4: 1, 8: 2}
_INDEX_INVALID, _BASE_INVALID, _IS_REGISTER = 1 << 22, 1 << 27, 1 << 10


def address_size(instruction: Instruction, state: State) -> int:
    """Return the effective address size in bytes."""
    for register in (instruction.memory_base, instruction.memory_index):
        if register != Register.NONE:
            return register_size(register)
    if instruction.memory_displ_size:
        return max(2, instruction.memory_displ_size)
    return 8 if state.is_64bit else 4


def memory_information(instruction: Instruction, state: State) -> int:
    """Return the bits that describe a memory operand."""
    base, index = instruction.memory_base, instruction.memory_index
    word = _ADDRESS_SIZE[address_size(instruction, state)] << 7
    word |= operand_segment(state, instruction) << 15
    if index == Register.NONE:
        word |= _INDEX_INVALID
    else:
        word |= _SCALE[instruction.memory_index_scale] | gpr_number(index) << 18
    if base == Register.NONE or instruction.is_ip_rel_memory_operand:
        word |= _BASE_INVALID
    else:
        word |= gpr_number(base) << 23
    return word


def instruction_information(instruction: Instruction, state: State, *, second: int = 0) -> int:
    """Return the field for VMX instructions and INVPCID; ``second`` is the register operand."""
    word = gpr_number(second) << 28 if second != Register.NONE else 0
    return word | memory_information(instruction, state)


def field_access_information(
    instruction: Instruction, state: State, *, data_operand: int, encoding: int
) -> int:
    """Return the field for VMREAD and VMWRITE: where the data is, and the encoding's register."""
    word = gpr_number(encoding) << 28
    if instruction.op_kind(data_operand) == OpKind.MEMORY:
        return word | memory_information(instruction, state)
    register = instruction.op_register(data_operand)
    return word | _IS_REGISTER | gpr_number(register) << 3


def descriptor_information(instruction: Instruction, state: State, identity: int) -> int:
    """Return the field for descriptor-table accesses; ``identity`` tells the instruction."""
    word = identity << 28
    if instruction.op0_kind != OpKind.MEMORY:
        return word | _IS_REGISTER | gpr_number(instruction.op0_register) << 3
    if state.is_64bit or state.is_32bit_code:
        word |= 1 << 11
    return word | memory_information(instruction, state)


def displacement(instruction: Instruction, rip: int) -> int:
    """Return the exit qualification of instructions with a memory operand: the displacement.

    A RIP-relative one is the sum of displacement and the next instruction's address.
    """
    if instruction.is_ip_rel_memory_operand:
        return (instruction.ip_rel_memory_address + rip) & 0xFFFF_FFFF_FFFF_FFFF
    value = instruction.memory_displacement
    if instruction.memory_displ_size == 1:
        value = (value & 0xFF ^ 0x80) - 0x80
    elif instruction.memory_displ_size == 4:
        value = (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
    return value & 0xFFFF_FFFF_FFFF_FFFF
