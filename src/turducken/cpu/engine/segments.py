"""Segment registers between the manual's form and the engine's: the one way.

The engine holds a register as three words: selector, base, and limit with the descriptor's upper
half. What it leaves undone when it loads one is made good here, so that whoever looks at a register
(a VM exit, a task switch, a handler of ours) finds what a processor would have in it.
"""

from turducken.arch.segments import UNUSABLE, Segment, SegmentIndex

__all__ = ["UNUSABLE", "Segment", "SegmentIndex"]

_ACCESSED, _BUSY, _CODE_OR_DATA, _DPL, _PRESENT = 1, 2, 0x10, 0x60, 0x80
_RIGHTS = 0xF0FF
_SS, _TR = SegmentIndex.SS, SegmentIndex.TR


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
    return flags << 8
