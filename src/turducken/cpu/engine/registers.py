"""The engine's registers as native functions see them, by the layout that `state` describes."""

from collections.abc import Sequence
from typing import Annotated

from turducken.cpu.engine.state import EXCEPTION
from turducken.native import U32, U64, Record, Words


class SegmentWords(Record):
    """A segment or descriptor-table register; ``flags`` are bits 63:32 of its descriptor."""

    selector: U64
    base: U64
    limit: U32
    flags: U32


class Registers(Record):
    """What native code looks at.

    The arithmetic flags are apart from ``eflags`` in the middle of a run: with ``cc_operation`` =
    `state.CC_OP_EFLAGS` they are in ``cc_source``, and DF is in ``direction`` (1 or -1).
    """

    gpr: Annotated[Words, 16]
    rip: U64
    eflags: U64
    cc_result: U64
    cc_source: U64
    cc_source2: U64
    cc_operation: U32
    direction: U32
    hflags: U32
    hflags2: U32
    segments: Annotated[Sequence[SegmentWords], 8]
    gdtr: SegmentWords
    idtr: SegmentWords
    cr0: U64
    cr1: U64
    cr2: U64
    cr3: U64
    cr4: U64
    others: Annotated[Words, EXCEPTION - 58]
    error_code: U32
    is_software: U32
