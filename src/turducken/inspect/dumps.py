"""Formats of memory dumps: raw, ELF core (QEMU, kdump, our own snapshots) and LiME.

An ELF core holds physical memory in PT_LOAD segments by ``p_paddr``: System V ABI, "Program
Header". LiME's ranges are described in its documentation under "Format".
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turducken.inspect.errors import InspectError
from turducken.inspect.numbers import parse_number
from turducken.inspect.source import FileMap, FileSource, Piece, Region

LIME_MAGIC = 0x4C694D45
LIME_HEADER = struct.Struct("<IIQQQ")  # magic, version, first, last, reserved

NOTE_NAME = b"TURDUCKEN\0"
NOTE_TYPE = 1
"""Our snapshots' note: a JSON object with ``roots`` (name to register value), and optionally
``maxphyaddr`` and ``ram`` (a list of base and size)."""

PT_LOAD, PT_NOTE = 1, 4
ET_CORE = 4
PN_XNUM = 0xFFFF

_COMPRESSED = {
    b"KDUMP   ": "a compressed kdump file; convert it with makedumpfile -E",
    b"DISKDUMP": "a diskdump file; convert it with makedumpfile -E",
    b"makedumpfile": "a flattened kdump file; rearrange it with makedumpfile -R, then -E",
    b"PAGEDUMP": "a 32-bit Windows crash dump, which is not supported",
    b"PAGEDU64": "a 64-bit Windows crash dump, which is not supported",
    b"EVM\0": "a QEMU save file; use dump-guest-memory or pmemsave instead",
    b"QEVM": "a QEMU save file; use dump-guest-memory or pmemsave instead",
}


def open_raw(name: str, parts: Sequence[tuple[str, int]]) -> FileSource:
    """Open files that hold memory byte for byte, each from its base address on."""
    files = [FileMap.open(path) for path, _ in parts]
    pieces = [
        Piece(base, 0, len(file.data), index)
        for index, (file, (_, base)) in enumerate(zip(files, parts, strict=True))
    ]
    return FileSource(name, "raw dump", files, pieces)


def open_dump(path: str, *, base: int = 0) -> FileSource:
    """Open a dump of whatever format its first bytes tell; ``base`` is for raw ones."""
    file = FileMap.open(path)
    head = bytes(file.data[:16])
    for magic, what in _COMPRESSED.items():
        if head.startswith(magic):
            raise InspectError(f"{path}: this is {what}")
    if head.startswith(b"\x7fELF"):
        return open_elf(file)
    if head[:4] == struct.pack("<I", LIME_MAGIC):
        return open_lime(file)
    return FileSource(path, "raw dump", [file], [Piece(base, 0, len(file.data))])


# LiME.


def open_lime(file: FileMap) -> FileSource:
    """Open a LiME dump: a header before every range."""
    pieces: list[Piece] = []
    at, cut = 0, ""
    while at < len(file.data):
        if at + LIME_HEADER.size > len(file.data):
            cut = f"the header at offset {at:#x} is cut short"
            break
        magic, version, first, last, _ = LIME_HEADER.unpack_from(file.data, at)
        if magic != LIME_MAGIC or version != 1 or last < first:
            if not pieces:
                raise InspectError(f"{file.path}: the LiME header at offset {at:#x} is not valid")
            cut = f"what follows at offset {at:#x} is not a LiME header; ignored"
            break
        pieces.append(Piece(first, at + LIME_HEADER.size, last - first + 1))
        at += LIME_HEADER.size + last - first + 1
    source = FileSource(file.path, "LiME dump", [file], pieces)
    source.warnings += [f"{file.path}: {cut}"] if cut else []
    return source


# ELF.


@dataclass(frozen=True, slots=True)
class _Elf:
    """Where an ELF class keeps what we need."""

    header: struct.Struct
    """e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize,
    e_phnum."""
    segment: struct.Struct
    order: tuple[int, int, int, int, int]
    """Positions of p_type, p_offset, p_paddr, p_filesz, p_memsz in a segment header."""
    section_info: tuple[int, str]
    """Where section header 0 keeps the number of segments, if it does not fit in e_phnum."""


_ELF = {
    1: _Elf(struct.Struct("<HHIIIIIHHH"), struct.Struct("<IIIIIIII"), (0, 1, 3, 4, 5), (28, "<I")),
    2: _Elf(struct.Struct("<HHIQQQIHHH"), struct.Struct("<IIQQQQQQ"), (0, 2, 4, 5, 6), (44, "<I")),
}


def open_elf(file: FileMap) -> FileSource:
    """Open an ELF core that holds physical memory."""
    segments = _segments(file)
    loads = [one for one in segments if one[0] == PT_LOAD and one[3]]
    if not loads:
        raise InspectError(f"{file.path}: an ELF file without memory in it")
    if len(loads) > 1 and not any(paddr for _, _, paddr, _, _ in loads):
        raise InspectError(
            f"{file.path}: this ELF core has no physical addresses (is it a process's core?)"
        )
    pieces = [Piece(paddr, offset, filesz) for _, offset, paddr, filesz, _ in loads]
    source = FileSource(file.path, "ELF core", [file], pieces)
    for kind, offset, _, filesz, _ in segments:
        if kind == PT_NOTE:
            _read_notes(source, bytes(file.data[offset : offset + min(filesz, 1 << 20)]))
    return source


def _segments(file: FileMap) -> list[tuple[int, int, int, int, int]]:
    """Return (type, offset, physical address, size in the file, size in memory) of each segment."""
    data, path = file.data, file.path
    elf = _ELF.get(data[4]) if len(data) > 5 else None
    if elf is None or data[5] != 1 or len(data) < 16 + elf.header.size:
        raise InspectError(f"{path}: not a complete little-endian ELF header")
    fields = elf.header.unpack_from(data, 16)
    kind, phoff, shoff, phentsize, phnum = (
        fields[0],
        fields[4],
        fields[5],
        fields[8],
        fields[9],
    )
    if kind != ET_CORE:
        raise InspectError(f"{path}: an ELF file, but not a core")
    if phnum == PN_XNUM:
        offset, code = elf.section_info
        if shoff + offset + 4 > len(data):
            raise InspectError(f"{path}: the ELF section header is cut short")
        (phnum,) = struct.unpack_from(code, data, shoff + offset)
    if phentsize < elf.segment.size or phoff + phnum * phentsize > len(data):
        raise InspectError(f"{path}: the ELF program headers are cut short")
    result = []
    for index in range(phnum):
        values = elf.segment.unpack_from(data, phoff + index * phentsize)
        kind, offset, paddr, filesz, memsz = (values[position] for position in elf.order)
        result.append((kind, offset, paddr, filesz, memsz))
    return result


def _read_notes(source: FileSource, data: bytes) -> None:
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name_end = at + 12 + name_size
        body = name_end + -name_size % 4
        if body + size > len(data):
            return
        if data[at + 12 : name_end] == NOTE_NAME and kind == NOTE_TYPE:
            _apply_note(source, data[body : body + size])
        at = body + size + -size % 4


def _apply_note(source: FileSource, text: bytes) -> None:
    try:
        note = json.loads(text)
        source.roots = {str(name): int(value) for name, value in note.get("roots", {}).items()}
        bits, ram = note.get("maxphyaddr"), note.get("ram")
        source.maxphyaddr = None if bits is None else int(bits)
        source.ram = None if ram is None else [Region(int(base), int(size)) for base, size in ram]
        source.kind = "turducken snapshot"
    except (ValueError, AttributeError, TypeError):
        source.warnings.append(f"{source.name}: the snapshot's note cannot be read; ignored")


# Names of sources, as commands take them.

_OPENERS: dict[str, Callable[[FileMap], FileSource]] = {"elf": open_elf, "lime": open_lime}


def _raw_parts(text: str) -> list[tuple[str, int]]:
    parts = []
    for part in text.split(","):
        path, at, base = part.rpartition("@")
        parts.append((path, parse_number(base, "base")) if at else (base, 0))
    return parts


def open_file(name: str, *, base: int = 0) -> FileSource:
    """Open a file as commands name it.

    ``PATH``, ``elf:PATH``, ``lime:PATH`` or ``raw:PATH[@BASE][,PATH[@BASE]...]``.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "raw":
        return open_raw(name, _raw_parts(rest))
    if colon and kind in _OPENERS:
        return _OPENERS[kind](FileMap.open(rest))
    return open_dump(name, base=base)
