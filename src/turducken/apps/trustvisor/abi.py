"""What a guest sees of TrustVisor: numbers, registers and structures. docs/trustvisor.md has more.

A hypercall is a VMCALL with a `Function` in EAX and operands in (R)BX and (R)CX; it returns a
`Status` in EAX and a value in EDX. Structures are little-endian and the same for 32- and 64-bit
callers.
"""

import struct
from enum import IntEnum

SIGNATURE = 0x5456_5054
"""What `Function.PING` returns in EDX."""
FUNCTION_MASK = 0xFFFF_0000
FUNCTION_BASE = 0x5456_0000

VERSION = 1
MOST_SECTIONS = 8
MOST_PARAMETERS = 6
MOST_PAGES = 64
"""Of one PAL."""
MOST_PALS = 32
MOST_BUFFER = 1 << 16

RETURN_ADDRESS = 4
"""Where a PAL returns to: the page of this linear address is mapped in no PAL."""

DIGEST_SIZE = 32


class Function(IntEnum):
    """Hypercalls."""

    PING = FUNCTION_BASE
    REGISTER = FUNCTION_BASE + 1
    UNREGISTER = FUNCTION_BASE + 2
    LIST = FUNCTION_BASE + 3
    PCR_READ = FUNCTION_BASE + 4
    PCR_EXTEND = FUNCTION_BASE + 5


class Status(IntEnum):
    """How a hypercall, or a failed call of a PAL, ended."""

    SUCCESS = 0
    UNKNOWN_FUNCTION = 1
    BAD_ADDRESS = 2
    """An operand is not in memory that the caller's user mode can use so."""
    BAD_DESCRIPTOR = 3
    BAD_SECTION = 4
    BAD_ENTRY = 5
    BAD_PARAMETERS = 6
    OVERLAP = 7
    """A page is in two sections, or lent already."""
    NOT_OWNED = 8
    """A page is not the caller's own writable RAM."""
    NO_ROOM = 9
    NO_SUCH_PAL = 10
    NOT_ALLOWED = 11
    BUSY = 12
    PAL_FAULT = 13


class SectionKind(IntEnum):
    """What a section is for, which decides how it is lent and what the PAL may do with it."""

    CODE = 1
    DATA = 2
    PARAMETERS = 3
    STACK = 4
    SHARED_CODE = 5


class ParameterKind(IntEnum):
    """How a parameter is passed."""

    INTEGER = 1
    IN = 2
    OUT = 3
    IN_OUT = 4


DESCRIPTOR_HEAD = struct.Struct("<IIQII")
"""version, number of sections, entry point, number of parameters, 0"""
PARAMETER = struct.Struct("<II")
"""kind, size in bytes (0 for integers)"""
SECTION = struct.Struct("<IIQ")
"""kind, number of pages, linear address"""
DESCRIPTOR_SIZE = (
    DESCRIPTOR_HEAD.size + MOST_PARAMETERS * PARAMETER.size + MOST_SECTIONS * SECTION.size
)

LIST_RECORD = struct.Struct(f"<IIQ{DIGEST_SIZE}s{DIGEST_SIZE}sQ")
"""id, flags, entry point, measurement, PCR, number of calls"""
FLAG_64BIT, FLAG_L2 = 1, 2
