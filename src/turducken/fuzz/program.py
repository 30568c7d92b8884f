"""Programs for the image `fuzz-amd64` (guests/fuzz): short pieces of code in L1 and in L2.

A program is data in the image, behind a marker; the layout is that of `struct program` in fuzz.c.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

MARKER = b"TURDUCKEN FUZZ PROGRAM\0\0"
SLOTS, CODE, REGISTERS, WRITES = 48, 24, 8, 2
IMAGE = "fuzz-amd64"
_TAG = 0xFA57_FA57_FA57 << 16
_LOW = 0xFFFF_FFFF_FFFF_FFFF


class Place(IntEnum):
    """Addresses that only the image knows, for registers and fields."""

    SCRATCH = 0
    ACROSS_PAGES = 1
    """Four bytes before the end of the scratch page."""
    OTHER_REGION = 2
    """Of the physical address of a VMCS region that is not the current one's."""
    NOWHERE = 3
    """Of an address that is none of a VMCS region."""
    DESCRIPTOR = 4
    """Of a descriptor for INVEPT and INVVPID."""
    CODE = 5

    @property
    def value_in_program(self) -> int:
        """What stands for it in a program."""
        return _TAG | self


class Level(IntEnum):
    """Where a piece runs; NOTHING: it was left out."""

    NOTHING = 0
    L1 = 1
    L2 = 2


@dataclass(frozen=True, slots=True)
class Write:
    """A change of a VMCS field for one piece in L2: an XOR (``flip``), or a value."""

    field: int
    value: int
    flip: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """Some instructions, the registers that they find, and changes of the VMCS (in L2)."""

    level: Level
    text: str
    """The instructions, for people."""
    code: bytes
    registers: tuple[int, ...] = (0,) * REGISTERS
    """RAX, RCX, RDX, RBX, RSI, RDI, R8, R9."""
    writes: tuple[Write, ...] = ()

    def pack(self) -> bytes:
        """Return it as the image has it."""
        assert len(self.code) <= CODE, self.text
        writes = [*self.writes, *[Write(0, 0)] * (WRITES - len(self.writes))]
        return (
            struct.pack("<II", self.level, len(self.code))
            + self.code.ljust(CODE, b"\x90")
            + struct.pack(f"<{REGISTERS}Q", *(one & _LOW for one in self.registers))
            + b"".join(struct.pack("<IIQ", w.field, w.flip, w.value & _LOW) for w in writes)
        )


Program = Sequence[Piece]


def put_into(image: bytes, program: Program) -> bytes:
    """Return the image's file with a program in it."""
    place = image.index(MARKER)
    assert image.find(MARKER, place + 1) < 0
    data = MARKER + struct.pack("<II", len(program), 0) + b"".join(one.pack() for one in program)
    return image[:place] + data + image[place + len(data) :]


def smaller(program: Program) -> Iterator[list[Piece]]:
    """Yield simpler programs: halves left out, pieces left out, changes of the VMCS left out.

    What is left out leaves its number behind, so that lines can be compared with the whole's.
    """
    used = [number for number, one in enumerate(program) if one.level is not Level.NOTHING]
    size = len(used) // 2
    while size >= 1:
        for start in range(0, len(used), size):
            gone = frozenset(used[start : start + size])
            yield [
                replace(one, level=Level.NOTHING) if number in gone else one
                for number, one in enumerate(program)
            ]
        size //= 2
    for number in used:
        for write in program[number].writes:
            less = tuple(one for one in program[number].writes if one is not write)
            yield [*program[:number], replace(program[number], writes=less), *program[number + 1 :]]
