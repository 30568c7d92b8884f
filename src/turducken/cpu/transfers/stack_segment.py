"""Loading SS: MOV, POP and LSS, which hold back events for one instruction.

SDM 2B, "MOV - Move" and "POP - Pop a Value From the Stack"; SDM 3A, "Masking Exceptions and
Interrupts When Switching Stacks". The engine has them otherwise: it takes any null selector, and
does not tell what holds events back.
"""

from typing import TYPE_CHECKING

from iced_x86 import Instruction, Mnemonic, OpKind

from turducken.arch.exceptions import Vector
from turducken.arch.segments import Descriptor, Segment, SegmentIndex
from turducken.cpu import operands
from turducken.cpu.decoder import effective_address, read_register, register_size, write_register
from turducken.cpu.descriptors import mark_accessed
from turducken.cpu.events import Event
from turducken.cpu.transfers import steps
from turducken.cpu.transfers.steps import Refusal
from turducken.mmu.faults import Fault

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_SS = SegmentIndex.SS


def load_stack_segment(p: "Processor", instruction: Instruction) -> Refusal:
    """MOV SS, POP SS or LSS."""
    state = p.state
    pointer: int | None = None
    if instruction.mnemonic == Mnemonic.POP:
        size = 4 if instruction.stack_pointer_increment == 4 else 2
        words = operands.read_stack(p, 0, size, 1)
        if not isinstance(words, list):
            return words
        selector = words[0] & 0xFFFF
        mask = operands.stack_mask(state)
    elif instruction.op1_kind == OpKind.MEMORY:
        width = register_size(instruction.op0_register) if _is_lss(instruction) else 0
        found = effective_address(state, instruction, state.rip)
        raw = operands.read(p, found.segment, found.offset, width + 2)
        if not isinstance(raw, bytes):
            return raw
        selector = int.from_bytes(raw[width:], "little")
        pointer = int.from_bytes(raw[:width], "little")
    else:
        selector = read_register(state, instruction.op1_register) & 0xFFFF
    segment = _segment(p, selector)
    if not isinstance(segment, Segment):
        return segment
    if instruction.mnemonic == Mnemonic.POP:
        operands.set_stack_pointer(state, state.gpr[4] + size, mask)
    state.set_segment(_SS, segment)
    state.update_mode()
    if _is_lss(instruction):
        assert pointer is not None
        write_register(state, instruction.op0_register, pointer)
        p.advance(instruction.len)
    else:
        p.advance_into_shadow(instruction.len)
    return None


def _is_lss(instruction: Instruction) -> bool:
    return bool(instruction.mnemonic == Mnemonic.LSS)


def _segment(p: "Processor", selector: int) -> Segment | Event | Fault:
    """Return SS as ``selector`` loads it."""
    state = p.state
    if steps.is_real_or_8086(state):
        return state.segment(_SS)._replace(selector=selector, base=selector << 4)
    level = state.cpl
    if selector & 0xFFFC == 0 and state.is_64bit and level < 3 and selector == level:
        return steps.null_stack(level)
    found = steps.check_stack(p, selector, level, Vector.GP)
    if not isinstance(found, Descriptor):
        return found
    failed = mark_accessed(p.linear, found)
    return found.segment(selector) if failed is None else failed
