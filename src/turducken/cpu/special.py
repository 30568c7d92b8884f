"""Instructions that the engine would execute by itself, wrongly or not repeatably.

RDRAND and RDSEED would read the host's randomness; INS stores to memory before it asks, and
both INS and OUTS would go word by word; XGETBV,
XSETBV, INVD and INT1 would not stop; SYSCALL and SYSENTER would do nothing, SYSRET is AMD's, and
protection keys are not the engine's; far transfers, loads of SS, WRFSBASE and WRGSBASE, and the
instructions of `turducken.cpu.intercepts.checked` accept what no processor does, and so does LOCK;
and it takes AVX for SSE.
Blocks that contain one are executed one instruction at a time.
"""

from iced_x86 import Code, Decoder, EncodingKind, Instruction, Mnemonic, Register

from turducken.cpu.absent import AbsentInstructions, compile_suspects

_SUSPECTS = (
    rb"[\x6c-\x6f\xf0\xf1\x9a\xea\xc4\xc5\x62\xca\xcb\x17]",
    rb"\x0f[\x05\x07\x08\x34\xb2]",
    rb"\x0f\xc7[\xf0-\xff]",
    rb"\x0f\x01[\xd0\xd1\xee\xef]",
    rb"\x0f\x38[\xf0\xf1]",
    rb"\x0f\xae[\x00-\x17\x30-\x57\x70-\x97\xb0-\xbf\xd0-\xdf]",
    rb"\x8e[\x10-\x17\x50-\x57\x90-\x97\xd0-\xd7]",
    rb"\xff[\x18-\x1f\x28-\x2f\x58-\x5f\x68-\x6f\x98-\x9f\xa8-\xaf]",
)

SPECIAL = frozenset(
    {
        Mnemonic.RDRAND,
        Mnemonic.RDSEED,
        Mnemonic.INSB,
        Mnemonic.INSW,
        Mnemonic.INSD,
        Mnemonic.OUTSB,
        Mnemonic.OUTSW,
        Mnemonic.OUTSD,
        Mnemonic.XGETBV,
        Mnemonic.XSETBV,
        Mnemonic.INVD,
        Mnemonic.INT1,
        Mnemonic.SYSCALL,
        Mnemonic.SYSRET,
        Mnemonic.SYSRETQ,
        Mnemonic.SYSENTER,
        Mnemonic.RDPKRU,
        Mnemonic.WRPKRU,
        Mnemonic.WRFSBASE,
        Mnemonic.WRGSBASE,
        Mnemonic.RETF,
        Mnemonic.LSS,
        Mnemonic.LDMXCSR,
        Mnemonic.FXSAVE,
        Mnemonic.FXSAVE64,
        Mnemonic.FXRSTOR,
        Mnemonic.FXRSTOR64,
        Mnemonic.CLFLUSH,
        Mnemonic.CLFLUSHOPT,
        Mnemonic.CLWB,
    }
)

_FAR_INDIRECT = frozenset(
    {
        Code.CALL_M1616,
        Code.CALL_M1632,
        Code.CALL_M1664,
        Code.JMP_M1616,
        Code.JMP_M1632,
        Code.JMP_M1664,
    }
)


class BlockScanner:
    """Finds the blocks of code with an instruction that is ours, or that the processor lacks."""

    def __init__(self, absent: AbsentInstructions) -> None:
        self.absent = absent
        self._suspects = compile_suspects((*_SUSPECTS, *absent.patterns))

    def has_special(self, code: bytes, bits: int) -> bool:
        """Tell whether a block of ``bits``-bit code has such an instruction.

        What the engine takes for the end of a block may be the middle of one that it does not know.
        """
        if self._suspects.search(code) is None:
            return False
        return any(_is_special(one) or self.absent.has(one) for one in Decoder(bits, code))


def _is_special(one: Instruction) -> bool:
    return (
        one.is_invalid
        or one.mnemonic in SPECIAL
        or is_far(one)
        or loads_stack_segment(one)
        or is_vector(one)
    )


_BIT_MANIPULATION = frozenset(
    {
        Mnemonic.ANDN,
        Mnemonic.BEXTR,
        Mnemonic.BLSI,
        Mnemonic.BLSMSK,
        Mnemonic.BLSR,
        Mnemonic.BZHI,
        Mnemonic.MULX,
        Mnemonic.PDEP,
        Mnemonic.PEXT,
        Mnemonic.RORX,
        Mnemonic.SARX,
        Mnemonic.SHLX,
        Mnemonic.SHRX,
    }
)
"""What else has a VEX prefix."""


def is_vector(instruction: Instruction) -> bool:
    """Tell whether an instruction is one of AVX or later."""
    if instruction.encoding == EncodingKind.LEGACY:
        return False
    return instruction.mnemonic not in _BIT_MANIPULATION


def is_far(instruction: Instruction) -> bool:
    """Tell whether an instruction is a far JMP or CALL."""
    return instruction.is_call_far or instruction.is_jmp_far or instruction.code in _FAR_INDIRECT


def loads_stack_segment(instruction: Instruction) -> bool:
    """Tell whether an instruction is MOV or POP to SS, or LSS."""
    if instruction.mnemonic == Mnemonic.LSS:
        return True
    is_load = instruction.mnemonic in (Mnemonic.MOV, Mnemonic.POP)
    return is_load and bool(instruction.op0_register == Register.SS)
