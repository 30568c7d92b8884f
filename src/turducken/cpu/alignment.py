"""Alignment checks: #AC in user mode, where CR0.AM and RFLAGS.AC are set.

The engine makes none, so code with these bits set is executed one instruction at a time and each
one's operands are looked at first. SDM 3A, "Interrupt 17 - Alignment Check Exception (#AC)".
"""

from collections.abc import Iterator

from iced_x86 import (
    CpuidFeature,
    InstructionInfoFactory,
    MemorySize,
    OpAccess,
    Register,
    UsedMemory,
)

from turducken.arch.registers import CR0, CR4, RFLAGS
from turducken.cpu.decoder import (
    SEGMENT_NUMBERS,
    Instruction,
    linear_address,
    memory_size,
    read_register,
)
from turducken.cpu.engine import State

_AM, _TS_EM, _SMAP = CR0.mask("AM"), CR0.mask("TS", "EM"), CR4.mask("SMAP")
_AC = RFLAGS.mask("AC")
_info = InstructionInfoFactory()

_BY_SIZE = {2: 2, 4: 4, 6: 4, 8: 8, 10: 8, 14: 2, 28: 4, 94: 2, 108: 4}
"""Operands of other sizes are not checked, or only with #GP."""
_BY_KIND: dict[int, int] = {
    MemorySize.SEG_PTR16: 2,
    MemorySize.BOUND16_WORD_WORD: 2,
    MemorySize.BOUND32_DWORD_DWORD: 4,
}
_NO_ACCESS = frozenset({OpAccess.NONE, OpAccess.NO_MEM_ACCESS})
_ADDRESS_BITS = {1: 16, 2: 32, 3: 64}
_COUNTERS = {1: Register.CX, 2: Register.ECX, 3: Register.RCX}
_FLOATING = frozenset(
    {
        CpuidFeature.FPU,
        CpuidFeature.FPU287,
        CpuidFeature.FPU387,
        CpuidFeature.MMX,
        CpuidFeature.SSE,
        CpuidFeature.SSE2,
        CpuidFeature.SSE3,
        CpuidFeature.SSSE3,
        CpuidFeature.SSE4_1,
        CpuidFeature.SSE4_2,
    }
)


def flags_to_watch(state: State) -> int | None:
    """Return the bits of RFLAGS at which code must stop; None: after each instruction.

    Where SMAP is in use, the kernel sets RFLAGS.AC for its own purposes: what sets it for user mode
    is noticed when the engine stops next.
    """
    if not state.cr0 & _AM:
        return 0
    uses_smap = state.cr4 & _SMAP
    if not state.rflags & _AC:
        return 0 if uses_smap else _AC
    return 0 if uses_smap and state.cpl < 3 else None


def is_misaligned(state: State, instruction: Instruction) -> bool:
    """Tell whether an instruction causes #AC."""
    if state.cpl != 3 or not state.cr0 & _AM or not state.rflags & _AC or instruction.is_privileged:
        return False
    if state.cr0 & _TS_EM and not _FLOATING.isdisjoint(instruction.cpuid_features()):
        return False
    if _is_idle(state, instruction):
        return False
    return any(
        address & alignment - 1 and (not state.is_64bit or state.is_canonical(address))
        for address, alignment in _operands(state, instruction)
    )


def _is_idle(state: State, instruction: Instruction) -> bool:
    """Tell whether a string instruction's counter is zero."""
    if not (instruction.has_rep_prefix or instruction.has_repne_prefix):
        return False
    if not instruction.is_string_instruction:
        return False
    used = _info.info(instruction).used_memory()
    return not read_register(state, _COUNTERS[used[0].address_size])


def _operands(state: State, instruction: Instruction) -> Iterator[tuple[int, int]]:
    """Yield the linear address and the alignment of everything an instruction accesses."""
    for one in _info.info(instruction).used_memory():
        kind = one.memory_size or instruction.memory_size
        alignment = _BY_KIND.get(kind) or _BY_SIZE.get(memory_size(kind), 1)
        if alignment > 1 and one.access not in _NO_ACCESS:
            yield _address(state, instruction, one), alignment


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
