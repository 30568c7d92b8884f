"""Segments and descriptors: SDM 3A, "Segment Descriptors" and "System Descriptor Types"."""

from enum import IntEnum
from typing import NamedTuple

UNUSABLE = 1 << 16
"""Of a segment register's access rights."""

_EXPAND_DOWN, _WRITABLE, _CODE = 4, 2, 8


class SegmentIndex(IntEnum):
    """Segment and descriptor-table registers, in the order of segment encodings."""

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


class SystemType(IntEnum):
    """Types of system descriptors (those of 16 bits do not exist in IA-32e mode)."""

    TSS16 = 1
    LDT = 2
    BUSY_TSS16 = 3
    CALL_GATE16 = 4
    TASK_GATE = 5
    TSS = 9
    BUSY_TSS = 0xB
    CALL_GATE = 0xC


class Segment(NamedTuple):
    """A segment register with its hidden part; ``access`` in the VMCS's format.

    SDM 3C, "Guest Register State": bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G,
    16 unusable.
    """

    selector: int
    base: int
    limit: int
    access: int

    @property
    def is_usable(self) -> bool:
        """It may be used for accesses."""
        return not self.access & UNUSABLE

    def holds(self, offset: int, size: int) -> bool:
        """Tell whether ``size`` bytes at ``offset`` are within the limit.

        SDM 3A, "Limit Checking": an expand-down segment holds what is above its limit.
        """
        last = offset + size - 1
        if self.access & (_CODE | _EXPAND_DOWN) == _EXPAND_DOWN:
            upper = 0xFFFF_FFFF if self.access >> 14 & 1 else 0xFFFF
            return self.limit < offset and last <= upper
        return last <= self.limit

    def allows(self, *, write: bool) -> bool:
        """Tell whether its type allows data to be read or written: SDM 3A, "Type Checking"."""
        if not self.is_usable:
            return False
        if self.access & _CODE:
            return not write and bool(self.access & _WRITABLE)  # readable, of a code segment
        return not write or bool(self.access & _WRITABLE)


class Descriptor(NamedTuple):
    """A descriptor's first eight bytes, and the linear address where they stand."""

    raw: int
    linear: int

    @property
    def is_system(self) -> bool:
        """S = 0: a gate, TSS or LDT."""
        return not self.raw >> 44 & 1

    @property
    def segment_type(self) -> int:
        """Bits 3:0 of the access rights: of a system descriptor, a `SystemType`."""
        return self.raw >> 40 & 0xF

    @property
    def is_code(self) -> bool:
        """A code segment."""
        return bool(self.raw >> 44 & 1) and bool(self.segment_type & 8)

    @property
    def is_readable(self) -> bool:
        """A data segment, or a code segment that can be read."""
        return bool(self.raw >> 44 & 1) and self.segment_type & 0xA != 8

    @property
    def is_writable_data(self) -> bool:
        """A data segment that can be written."""
        return bool(self.raw >> 44 & 1) and self.segment_type & 0xA == 2

    @property
    def is_conforming(self) -> bool:
        """A conforming code segment."""
        return self.is_code and bool(self.segment_type & 4)

    @property
    def is_accessed(self) -> bool:
        """A code or data segment's accessed bit."""
        return bool(self.raw >> 40 & 1)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.raw >> 45 & 3

    @property
    def is_present(self) -> bool:
        """The present bit."""
        return bool(self.raw >> 47 & 1)

    @property
    def is_long(self) -> bool:
        """The L bit."""
        return bool(self.raw >> 53 & 1)

    @property
    def is_default_32(self) -> bool:
        """The D/B bit."""
        return bool(self.raw >> 54 & 1)

    @property
    def limit(self) -> int:
        """The segment's limit in bytes."""
        limit = self.raw & 0xFFFF | self.raw >> 32 & 0xF_0000
        return limit << 12 | 0xFFF if self.raw >> 55 & 1 else limit

    @property
    def base(self) -> int:
        """Bits 31:0 of the segment's base."""
        return self.raw >> 16 & 0xFF_FFFF | (self.raw >> 56 & 0xFF) << 24

    @property
    def target(self) -> int:
        """The selector that a gate holds."""
        return self.raw >> 16 & 0xFFFF

    def segment(self, selector: int) -> Segment:
        """Return the segment register that holds this descriptor, once it is loaded."""
        access = self.raw >> 40 & 0xF0FF
        return Segment(selector, self.base, self.limit, access if self.is_system else access | 1)
