"""SYSENTER and SYSEXIT in IA-32e mode, which the engine's model of processor does not have.

SDM 2B, "SYSENTER - Fast System Call" and "SYSEXIT - Fast Return from Fast System Call".
"""

from typing import TYPE_CHECKING

from turducken.address import is_canonical
from turducken.arch.registers import CR0, EFER, RFLAGS
from turducken.cpu.decoder import Code, Instruction
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.engine.state import MSR_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from turducken.cpu.processor import Processor

_PE, _LMA = CR0.mask("PE"), EFER.mask("LMA")
_VM, _IF = RFLAGS.mask("VM"), RFLAGS.mask("IF")
_CS, _ESP, _EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))


def _flat(selector: int, *, code: bool, long: bool, level: int) -> Segment:
    access = (0xB if code else 3) | 0x90 | level << 5 | 0x8000
    access |= 0x2000 if code and long else 0x4000
    return Segment(selector, 0, 0xFFFF_FFFF, access)


def _sysenter(p: "Processor", _instruction: Instruction) -> None:
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
    state.update_mode(0)


def _sysexit(p: "Processor", instruction: Instruction) -> None:
    state = p.state
    selector = state.words[_CS] & 0xFFFC
    if not state.cr0 & _PE or not selector or state.cpl:
        p.general_protection()
        return
    long = instruction.code == Code.SYSEXITQ
    rip, rsp = state.gpr[2], state.gpr[1]
    if long and not (is_canonical(rip) and is_canonical(rsp)):
        p.general_protection()
        return
    if not long:
        rip, rsp = rip & 0xFFFF_FFFF, rsp & 0xFFFF_FFFF
    first = selector + (32 if long else 16)
    state.set_segment(SegmentIndex.CS, _flat(first | 3, code=True, long=long, level=3))
    state.set_segment(SegmentIndex.SS, _flat(first + 8 | 3, code=False, long=long, level=3))
    state.gpr[4], state.rip = rsp, rip
    state.update_mode(3)


OPERATIONS: "dict[int, Callable[[Processor, Instruction], None]]" = {
    Code.SYSENTER: _sysenter,
    Code.SYSEXITD: _sysexit,
    Code.SYSEXITQ: _sysexit,
}
