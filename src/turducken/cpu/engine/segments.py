"""Segment registers: as the manual has them, as the engine holds them, and the one way between.

The engine holds a register as three words: selector, base, and limit with the descriptor's upper
half. What it leaves undone when it loads one is made good here, so that whoever looks at a register
(a VM exit, a task switch, a handler of ours) finds what a processor would have in it.
"""

from enum import IntEnum
from typing import NamedTuple

UNUSABLE = 1 << 16
_ACCESSED, _BUSY, _CODE_OR_DATA, _DPL, _PRESENT = 1, 2, 0x10, 0x60, 0x80
_RIGHTS = 0xF0FF


class SegmentIndex(IntEnum):
    """Segment and descriptor-table registers in the engine's order (that of segment encodings)."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5
    LDTR = 6
    TR = 7
    GDTR = 8
    IDTR = 9


_SS, _TR = SegmentIndex.SS, SegmentIndex.TR


class Segment(NamedTuple):
    """A segment register with its hidden part; ``access`` in the VMCS's format.

    SDM 3C, "Guest Register State": bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G,
    16 unusable.
    """

    selector: int
    base: int
    limit: int
    access: int


def rights_of(index: int, flags: int, cpl: int) -> int:
    """Return a register's access rights from the engine's ``flags`` for it.

    A code or data segment that is loaded has been accessed (SDM 3A, "Code- and Data-Segment
    Descriptor Types"); the DPL of SS is the CPL, even where SS is unusable (SDM 3C, "Saving
    Segment Registers and Descriptor-Table Registers"); a task register names a busy TSS.
    """
    access = flags >> 8 & _RIGHTS
    if not access & _PRESENT:
        access |= UNUSABLE
    elif access & _CODE_OR_DATA:
        access |= _ACCESSED
    elif index == _TR:
        access |= _BUSY
    if index == _SS:
        access = access & ~_DPL | cpl << 5
    return access


def flags_of(index: int, access: int) -> int:
    """Return the engine's flags for a register with these access rights."""
    flags = access & _RIGHTS
    if access & UNUSABLE:
        flags = flags & ~_PRESENT if index == _SS else 0
    if index == _TR:
        flags &= ~_BUSY  # the engine gives up on a call gate's TSS that is busy
    return flags << 8
