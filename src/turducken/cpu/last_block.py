"""The block of code that the engine ran last, where what it did must be known afterwards."""

from typing import TYPE_CHECKING

from iced_x86 import Decoder, FlowControl, Instruction

from turducken.cpu.decoder import code_bits

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_MOST_BYTES = 2048


def starts_of(p: "Processor", address: int, size: int) -> list[int]:
    """Return the linear addresses of the instructions of a block."""
    code = p.linear.fetch(address, size, user=p.state.cpl == 3)
    if not isinstance(code, bytes):
        return []
    return [one.ip for one in Decoder(code_bits(p.state), code, ip=address)]


def last_branch(p: "Processor") -> Instruction | None:
    """Return the instruction that ended the last block, if it is one that leaves the line."""
    begin = p.engine.last_block
    known = p.engine.branches.get(begin)
    if known is not None:
        return known
    code = p.linear.fetch(begin, _MOST_BYTES, user=p.state.cpl == 3)
    if not isinstance(code, bytes):
        return None
    for one in Decoder(code_bits(p.state), code, ip=begin):
        if one.flow_control != FlowControl.NEXT:
            p.engine.branches[begin] = one
            return one
    return None


def undo_branch(p: "Processor") -> None:
    """Go back to the branch that led to where the engine cannot fetch: it is that that faults.

    SDM 2A, "JMP - Jump" and "CALL - Call Procedure"; SDM 2B, "RET - Return From Procedure": #GP(0)
    where the target is not canonical, with RSP as it was.
    """
    state, branch = p.state, last_branch(p)
    if branch is None or not state.is_64bit:
        return
    if branch.is_stack_instruction:
        pointer = state.gpr[4] - branch.stack_pointer_increment
        state.gpr[4] = pointer & 0xFFFF_FFFF_FFFF_FFFF
    state.rip = branch.ip
