"""What docs/machine.md says is not modelled, and what happens then."""

import struct

from cpu_support import DS, RAX, Pc, segment

from turducken.arch.exceptions import Vector
from turducken.machine.machine import Outcome

DATA, SMALL_LIMIT = 0x3_0000, 0xFFF


def test_accesses_beyond_a_segments_limit_are_made() -> None:
    pc = Pc().protected("a1 00000300 f4")
    pc.memory.store(DATA, 4, 0x1234)
    pc.state.set_segment(DS, segment(0x10, 0x4093, limit=SMALL_LIMIT))
    assert pc.run() is Outcome.HALTED
    assert (pc.vector(), pc.state.gpr[RAX]) == (None, 0x1234)


def test_but_not_those_of_instructions_that_are_ours() -> None:
    pc = Pc().protected("0f0115 00000300 f4")
    pc.state.set_segment(DS, segment(0x10, 0x4093, limit=SMALL_LIMIT))
    assert pc.event() == Vector.GP


def test_sse_operands_need_not_be_aligned() -> None:
    """MOVAPS XMM0, [DATA + 8]; MOVD EAX, XMM0."""
    pc = Pc().long("0f280425 08000300 660f7ec0 f4")
    pc.memory.store(DATA + 8, 8, 0x77)
    assert pc.run() is Outcome.HALTED
    assert (pc.vector(), pc.state.gpr[RAX]) == (None, 0x77)


def test_unmasked_simd_exceptions_are_as_masked_ones() -> None:
    """LDMXCSR with nothing masked; DIVSS of 1 by 0; MOVD EAX, XMM0: infinity."""
    pc = Pc().long("0fae1425 00000300 f30f100425 04000300 f30f5e0425 08000300 660f7ec0 f4")
    pc.memory.write(DATA, struct.pack("<Iff", 0, 1.0, 0.0))
    assert pc.run() is Outcome.HALTED
    infinity = struct.unpack("<I", struct.pack("<f", float("inf")))[0]
    assert (pc.vector(), pc.state.gpr[RAX]) == (None, infinity)


def test_sti_blocks_interrupts_for_an_instruction_whatever_if_was() -> None:
    pc = Pc().protected("fb 90 f4")
    pc.state.rflags |= 0x200
    pc.p.engine.run(0)
    assert pc.state.in_shadow
