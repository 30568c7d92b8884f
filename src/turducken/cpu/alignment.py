"""Alignment checks: #AC in user mode, where CR0.AM and RFLAGS.AC are set.

The engine makes none, so code with these bits set is executed one instruction at a time and each
one's operands are looked at first. SDM 3A, "Interrupt 17 - Alignment Check Exception (#AC)".
"""

from iced_x86 import CpuidFeature, Instruction, MemorySize

from turducken.arch.registers import CR0, CR4, RFLAGS
from turducken.cpu.engine import State
from turducken.cpu.used_memory import Access, accesses_of

_AM, _TS_EM, _SMAP = CR0.mask("AM"), CR0.mask("TS", "EM"), CR4.mask("SMAP")
_AC = RFLAGS.mask("AC")

_BY_SIZE = {2: 2, 4: 4, 6: 4, 8: 8, 10: 8, 14: 2, 28: 4, 94: 2, 108: 4}
"""Operands of other sizes are not checked, or only with #GP."""
_BY_KIND: dict[int, int] = {
    MemorySize.SEG_PTR16: 2,
    MemorySize.BOUND16_WORD_WORD: 2,
    MemorySize.BOUND32_DWORD_DWORD: 4,
}
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
    return any(
        one.address & _alignment(one) - 1
        and (not state.is_64bit or state.is_canonical(one.address))
        for one in accesses_of(state, instruction)
    )


def _alignment(access: Access) -> int:
    return _BY_KIND.get(access.kind) or _BY_SIZE.get(access.size, 1)
