"""LiME dumps: a header before every range, as LiME's documentation describes under "Format".

LiME's padded dumps have no headers: they are raw.
"""

import struct

from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece

MAGIC = 0x4C694D45
HEADER = struct.Struct("<IIQQQ")
"""Magic, version, first address, last address, reserved."""


def is_lime(head: bytes) -> bool:
    """Tell whether a file begins as LiME's do."""
    return head[:4] == struct.pack("<I", MAGIC)


def open_lime(file: FileMap) -> FileSource:
    """Open a LiME dump."""
    pieces: list[Piece] = []
    at, cut = 0, ""
    while at < len(file.data):
        if at + HEADER.size > len(file.data):
            cut = f"the header at offset {at:#x} is cut short"
            break
        magic, version, first, last, _ = HEADER.unpack_from(file.data, at)
        if magic != MAGIC or version != 1 or last < first:
            if not pieces:
                raise InspectError(f"{file.path}: the LiME header at offset {at:#x} is not valid")
            cut = f"what follows at offset {at:#x} is not a LiME header; ignored"
            break
        pieces.append(Piece(first, at + HEADER.size, last - first + 1))
        at += HEADER.size + last - first + 1
    source = FileSource(file.path, "LiME dump", [file], pieces)
    source.warnings += [f"{file.path}: {cut}"] if cut else []
    return source
