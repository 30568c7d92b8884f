"""Instructions that the engine executes without a check that the manual asks for: made here first.

SDM 2A, "CLFLUSH", "FXRSTOR", "FXSAVE", "LDMXCSR"; SDM 3A, "Interrupt 6 - Invalid Opcode Exception".
"""

from typing import TYPE_CHECKING

from iced_x86 import Decoder, DecoderError, Instruction, Mnemonic

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, CR4, RFLAGS
from turducken.cpu import operands
from turducken.cpu.decoder import code_bits, effective_address
from turducken.cpu.events import exception
from turducken.cpu.transfers.steps import Refusal
from turducken.mmu.rights import READ

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_EM_TS, _OSFXSR, _AC = CR0.mask("EM", "TS"), CR4.mask("OSFXSR"), RFLAGS.mask("AC")
_MXCSR_AT, _MXCSR_BITS = 24, 0xFFFF
_LONGEST = 15


def _is_off(p: "Processor") -> bool:
    """Tell whether the instruction is #UD or #NM anyway, which the engine knows."""
    return bool(p.state.cr0 & _EM_TS) or not p.state.cr4 & _OSFXSR


def _check_mxcsr(p: "Processor", segment: int, offset: int) -> Refusal:
    raw = operands.read(p, segment, offset, 4)
    if not isinstance(raw, bytes):
        return raw
    is_reserved = int.from_bytes(raw, "little") & ~_MXCSR_BITS
    return exception(Vector.GP, 0) if is_reserved else None


def _load_mxcsr(p: "Processor", instruction: Instruction) -> Refusal:
    if _is_off(p):
        return None
    place = effective_address(p.state, instruction, p.state.rip)
    return _check_mxcsr(p, place.segment, place.offset)


def _save_area(p: "Processor", instruction: Instruction) -> Refusal:
    """FXSAVE and FXRSTOR: aligned to 16 bytes, and what is loaded has no reserved bit set."""
    if p.state.cr0 & _EM_TS:
        return None
    place = effective_address(p.state, instruction, p.state.rip)
    if place.linear & 0xF:
        return exception(Vector.GP, 0)
    if instruction.mnemonic in (Mnemonic.FXSAVE, Mnemonic.FXSAVE64):
        return None
    return _check_mxcsr(p, place.segment, place.offset + _MXCSR_AT)


def _flush_line(p: "Processor", instruction: Instruction) -> Refusal:
    """CLFLUSH, CLFLUSHOPT, CLWB: caches are not modelled, but it is an access that reads."""
    state = p.state
    place = effective_address(state, instruction, state.rip)
    linear = operands.check(state, place.segment, place.offset, 1, write=False)
    if not isinstance(linear, int):
        return linear
    found = p.linear.physical(linear, READ, user=state.cpl == 3, ac=bool(state.rflags & _AC))
    return None if isinstance(found, int) else found


CHECKS: "dict[int, Callable[[Processor, Instruction], Refusal]]" = {
    Mnemonic.LDMXCSR: _load_mxcsr,
    Mnemonic.FXSAVE: _save_area,
    Mnemonic.FXSAVE64: _save_area,
    Mnemonic.FXRSTOR: _save_area,
    Mnemonic.FXRSTOR64: _save_area,
    Mnemonic.CLFLUSH: _flush_line,
    Mnemonic.CLFLUSHOPT: _flush_line,
    Mnemonic.CLWB: _flush_line,
}
"""What may refuse an instruction that the engine executes then."""


def refuse_undefined(p: "Processor", code: bytes) -> bool:
    """Cause the exception of what is no instruction; False where bytes of it are missing.

    LOCK where it does not belong, and MOVBE between registers, are none: #UD. One that is longer
    than 15 bytes is #GP(0).
    """
    decoder = Decoder(code_bits(p.state), code)
    decoder.decode()
    if decoder.last_error == DecoderError.INVALID_INSTRUCTION:
        p.raise_exception(Vector.UD)
    elif len(code) == _LONGEST:
        p.general_protection()
    else:
        return False
    return True
