"""SYSCALL, SYSRET, SYSENTER and SYSEXIT, which the engine has otherwise or not at all.

SDM 2B, "SYSCALL - Fast System Call", "SYSRET - Return From Fast System Call", "SYSENTER - Fast
System Call" and "SYSEXIT - Fast Return from Fast System Call". None of them causes a VM exit.
"""

from typing import TYPE_CHECKING

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.cpu.decoder import Code, Instruction
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.engine.state import MSR_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_PE, _LMA = CR0.mask("PE"), EFER.mask("LMA")
_VM, _IF, _RF = RFLAGS.mask("VM"), RFLAGS.mask("IF"), RFLAGS.mask("RF")
_CS, _ESP, _EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))
_STAR, _LSTAR, _FMASK = (MSR_WORDS[n] for n in (0xC000_0081, 0xC000_0082, 0xC000_0084))
_SCE = EFER.mask("SCE")
_RETURNED = 0x3C_7FD7
"""The bits of RFLAGS that SYSRET takes from R11."""
_RCX, _R11 = 1, 11


def _flat(selector: int, *, code: bool, long: bool, level: int) -> Segment:
    access = (0xB if code else 3) | 0x90 | level << 5 | 0x8000
    access |= 0x2000 if code and long else 0x4000
    return Segment(selector, 0, 0xFFFF_FFFF, access)


def syscall(p: "Processor", instruction: Instruction) -> None:
    """SYSCALL: only in 64-bit mode."""
    state, words = p.state, p.state.words
    if not (state.is_64bit and state.efer & _SCE):
        p.raise_exception(Vector.UD)
        return
    selector = words[_STAR] >> 32 & 0xFFFC
    state.gpr[_RCX], state.gpr[_R11] = state.rip + instruction.len, state.rflags & ~_RF
    state.rflags = state.rflags & ~(words[_FMASK] | _RF)
    state.set_segment(SegmentIndex.CS, _flat(selector, code=True, long=True, level=0))
    state.set_segment(SegmentIndex.SS, _flat(selector + 8, code=False, long=True, level=0))
    state.rip = words[_LSTAR]
    _begin(p, 0)


def sysret(p: "Processor", instruction: Instruction) -> None:
    """SYSRET: the return address is checked before the level changes."""
    state = p.state
    long = instruction.code == Code.SYSRETQ
    if not (state.is_64bit and state.efer & _SCE):
        p.raise_exception(Vector.UD)
        return
    rip = state.gpr[_RCX]
    if state.cpl or (long and not state.is_canonical(rip)):
        p.general_protection()
        return
    first = state.words[_STAR] >> 48
    code = first + 16 if long else first
    state.rflags = state.gpr[_R11] & _RETURNED
    state.set_segment(SegmentIndex.CS, _flat(code | 3, code=True, long=long, level=3))
    state.set_segment(SegmentIndex.SS, _flat(first + 8 | 3, code=False, long=long, level=3))
    state.rip = rip if long else rip & 0xFFFF_FFFF
    _begin(p, 3)


def sysenter(p: "Processor", _instruction: Instruction) -> None:
    """SYSENTER, in every mode but real mode."""
    state, words = p.state, p.state.words
    selector = words[_CS] & 0xFFFC
    if not state.cr0 & _PE or not selector:
        p.general_protection()
        return
    long = bool(state.efer & _LMA)
    mask = 0xFFFF_FFFF_FFFF_FFFF if long else 0xFFFF_FFFF
    state.rflags = state.rflags & ~(_VM | _IF)
    state.set_segment(SegmentIndex.CS, _flat(selector, code=True, long=long, level=0))
    state.set_segment(SegmentIndex.SS, _flat(selector + 8, code=False, long=long, level=0))
    state.gpr[4], state.rip = words[_ESP] & mask, words[_EIP] & mask
    _begin(p, 0)


def _sysexit(p: "Processor", instruction: Instruction) -> None:
    state = p.state
    selector = state.words[_CS] & 0xFFFC
    if not state.cr0 & _PE or not selector or state.cpl:
        p.general_protection()
        return
    long = instruction.code == Code.SYSEXITQ
    rip, rsp = state.gpr[2], state.gpr[1]
    if long and not (state.is_canonical(rip) and state.is_canonical(rsp)):
        p.general_protection()
        return
    if not long:
        rip, rsp = rip & 0xFFFF_FFFF, rsp & 0xFFFF_FFFF
    first = selector + (32 if long else 16)
    state.set_segment(SegmentIndex.CS, _flat(first | 3, code=True, long=long, level=3))
    state.set_segment(SegmentIndex.SS, _flat(first + 8 | 3, code=False, long=long, level=3))
    state.gpr[4], state.rip = rsp, rip
    _begin(p, 3)


def _begin(p: "Processor", cpl: int) -> None:
    """Go on at another privilege level; nothing is left of the instruction before."""
    p.state.in_shadow = False
    p.state.update_mode(cpl)
    p.attention = True  # IF may have changed


OPERATIONS: "dict[int, Callable[[Processor, Instruction], None]]" = {
    Code.SYSENTER: sysenter,
    Code.SYSEXITD: _sysexit,
    Code.SYSEXITQ: _sysexit,
}
