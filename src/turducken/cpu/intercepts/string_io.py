"""INS and OUTS: one iteration, or as many as a device takes in one piece.

SDM 2A, "INS/INSB/INSW/INSD"; SDM 2B, "OUTS/OUTSB/OUTSW/OUTSD". Whoever calls comes back for what is
left of a repeated instruction, so that interrupts are taken between the pieces.
"""

from typing import TYPE_CHECKING

from turducken.address import PAGE_SIZE
from turducken.arch.registers import RFLAGS
from turducken.cpu.decoder import Instruction, linear_address, operand_segment
from turducken.cpu.engine import SegmentIndex
from turducken.cpu.guest_controls import Primary
from turducken.cpu.intercepts import io
from turducken.cpu.operands import check_write, read, write

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_DF, _TF = RFLAGS.mask("DF"), RFLAGS.mask("TF")
_RCX, _RDX, _RSI, _RDI = 1, 2, 6, 7


class _String:
    """One INS or OUTS: its operands, and how far it can go in one piece."""

    def __init__(self, p: "Processor", instruction: Instruction, *, is_in: bool) -> None:
        state = p.state
        self._p = p
        self._instruction = instruction
        self.size = io.STRING_SIZES[instruction.mnemonic]
        kind = instruction.op0_kind if is_in else instruction.op1_kind
        self._width = io.ADDRESS_BYTES[kind]
        self._mask = (1 << 8 * self._width) - 1
        self.is_repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
        self.left = state.gpr[_RCX] & self._mask if self.is_repeated else 1
        self._pointer = _RDI if is_in else _RSI
        self.offset = state.gpr[self._pointer] & self._mask
        self.segment = int(SegmentIndex.ES) if is_in else operand_segment(state, instruction)
        self._linear = linear_address(state, self.segment, self.offset)
        self.port = state.gpr[_RDX] & 0xFFFF
        self._is_down = bool(state.rflags & _DF)

    @property
    def piece(self) -> int:
        """How many iterations stay within a page, upwards, without a wrap of the address.

        Just one where there is to be a trap after each.
        """
        guest = self._p.guest
        is_watched = guest is not None and guest.primary & Primary.MONITOR_TRAP_FLAG
        stops = is_watched or self._p.breakpoints.enabled
        if self._is_down or stops or self._p.state.rflags & _TF:
            return 1
        room = min(PAGE_SIZE - self._linear % PAGE_SIZE, self._mask + 1 - self.offset)
        return max(1, min(self.left, room // self.size))

    def advance(self, count: int) -> None:
        """Note that ``count`` iterations are done; leave the instruction with the last one."""
        step = self.size * (-count if self._is_down else count)
        self._set(self._pointer, self.offset + step)
        if self.is_repeated:
            self._set(_RCX, self.left - count)
        self._p.breakpoints.port(self.port, self.size)
        if count == self.left:
            self._p.advance(self._instruction.len)
        else:
            self._p.complete_iteration()

    def _set(self, number: int, value: int) -> None:
        gpr = self._p.state.gpr
        value &= self._mask
        gpr[number] = gpr[number] & ~0xFFFF | value if self._width == 2 else value

    def is_over(self) -> bool:
        """Leave the instruction if it has nothing to do; return whether that is so."""
        if not self.left:
            self._p.advance(self._instruction.len)
        return not self.left


def ins(p: "Processor", instruction: Instruction) -> None:
    """Execute a piece of INS."""
    string = _String(p, instruction, is_in=True)
    if string.is_over():
        return
    if p.accesses.port_is_refused(string.port, string.size):
        io.on_io(p)
        return
    # The destination is checked before the port is read.
    piece = string.piece
    wrong = check_write(p, string.segment, string.offset, string.size * piece)
    if wrong is not None and piece > 1:
        piece = 1
        wrong = check_write(p, string.segment, string.offset, string.size)
    if wrong is not None:
        p.refuse(wrong)
        return
    data = p.platform.port_in_block(p.index, string.port, string.size, piece)
    failed = write(p, string.segment, string.offset, data)
    assert failed is None
    string.advance(len(data) // string.size)


def outs(p: "Processor", instruction: Instruction) -> None:
    """Execute a piece of OUTS."""
    string = _String(p, instruction, is_in=False)
    if string.is_over():
        return
    if p.accesses.port_is_refused(string.port, string.size):
        io.on_io(p)
        return
    piece = string.piece
    data = read(p, string.segment, string.offset, string.size * piece)
    if not isinstance(data, bytes) and piece > 1:
        data = read(p, string.segment, string.offset, string.size)
    if not isinstance(data, bytes):
        p.refuse(data)
        return
    written = p.platform.port_out_block(p.index, string.port, string.size, data)
    string.advance(written // string.size)
