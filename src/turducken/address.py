"""The kinds of addresses, and the page arithmetic that all of them share.

Nobody should ever wonder whose address a variable holds: functions say it in their signatures.
"""

from typing import NewType

Gva = NewType("Gva", int)
"""A linear address of whatever runs on the processor (guest-virtual when that is a guest)."""

Gpa2 = NewType("Gpa2", int)
"""An address that L2 calls physical: the input of EPT12 and of EPT02."""

Gpa1 = NewType("Gpa1", int)
"""An address that L1 calls physical: the output of EPT12, the input of EPT01."""

Hpa = NewType("Hpa", int)
"""An address that the machine calls physical: the output of EPT01 and of EPT02."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_OFFSET_MASK = PAGE_SIZE - 1

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def page_base(address: int) -> int:
    """Return ``address`` with its offset in the 4 KiB page cleared."""
    return address & ~PAGE_OFFSET_MASK


def is_page_aligned(address: int) -> bool:
    """Tell whether ``address`` is the first byte of a 4 KiB page."""
    return address & PAGE_OFFSET_MASK == 0


def is_canonical(address: int, *, width: int) -> bool:
    """Tell whether a 64-bit linear address is canonical for ``width`` implemented bits.

    SDM 1, "Canonical Addressing": bits 63 down to the most-significant implemented bit are equal.
    """
    upper = (address & 0xFFFF_FFFF_FFFF_FFFF) >> (width - 1)
    return upper in (0, (1 << (65 - width)) - 1)
