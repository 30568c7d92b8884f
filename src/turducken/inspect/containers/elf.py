"""ELF cores that hold physical memory: QEMU's, kdump's, VirtualBox', Xen's, our own snapshots.

Memory is in PT_LOAD segments by ``p_paddr`` (System V ABI, "Program Header"); Xen's ``dump-core``
has it in sections instead (Xen documentation, "Format of xm dump-core").
"""

import struct
from dataclasses import dataclass

from turducken.inspect.containers import notes, xen
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece

PT_LOAD, PT_NOTE = 1, 4
ET_CORE = 4
PN_XNUM = 0xFFFF
MAX_NOTES = 1 << 24


@dataclass(frozen=True, slots=True)
class _Elf:
    """Where an ELF class keeps what we need."""

    header: struct.Struct
    """e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize,
    e_phnum, e_shentsize, e_shnum, e_shstrndx."""
    segment: struct.Struct
    order: tuple[int, int, int, int, int]
    """Positions of p_type, p_offset, p_paddr, p_filesz, p_memsz in a segment header."""
    section: struct.Struct
    place: tuple[int, int, int]
    """Positions of sh_offset, sh_size, sh_info in a section header; sh_name is first."""


_ELF = {
    1: _Elf(
        struct.Struct("<HHIIIIIHHHHHH"),
        struct.Struct("<IIIIIIII"),
        (0, 1, 3, 4, 5),
        struct.Struct("<IIIIIIIIII"),
        (4, 5, 7),
    ),
    2: _Elf(
        struct.Struct("<HHIQQQIHHHHHH"),
        struct.Struct("<IIQQQQQQ"),
        (0, 2, 4, 5, 6),
        struct.Struct("<IIQQQQIIQQ"),
        (4, 5, 7),
    ),
}


def is_elf(head: bytes) -> bool:
    """Tell whether a file is an ELF file."""
    return head.startswith(b"\x7fELF")


@dataclass(frozen=True, slots=True)
class _Header:
    """An ELF file's header, its fields by the ABI's names."""

    file: FileMap
    elf: _Elf
    phoff: int
    shoff: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


def open_elf(file: FileMap) -> FileSource:
    """Open an ELF core that holds physical memory."""
    header = _read_header(file)
    segments = _segments(header)
    loads = [one for one in segments if one[0] == PT_LOAD and one[3]]
    if not loads:
        found = xen.open_sections(file, _sections(header))
        if found is None:
            raise InspectError(f"{file.path}: an ELF file without memory in it")
        return found
    if len(loads) > 1 and not any(paddr for _, _, paddr, _, _ in loads):
        raise InspectError(
            f"{file.path}: this ELF core has no physical addresses (is it a process's core?)"
        )
    pieces = [Piece(paddr, offset, filesz) for _, offset, paddr, filesz, _ in loads]
    source = FileSource(file.path, "ELF core", [file], pieces)
    for kind, offset, _, filesz, _ in segments:
        if kind == PT_NOTE:
            notes.apply(source, bytes(file.data[offset : offset + min(filesz, MAX_NOTES)]))
    return source


def _read_header(file: FileMap) -> _Header:
    data, path = file.data, file.path
    elf = _ELF.get(data[4]) if len(data) > 5 else None
    if elf is None or data[5] != 1 or len(data) < 16 + elf.header.size:
        raise InspectError(f"{path}: not a complete little-endian ELF header")
    fields = elf.header.unpack_from(data, 16)
    if fields[0] != ET_CORE:
        raise InspectError(f"{path}: an ELF file, but not a core")
    return _Header(file, elf, fields[4], fields[5], *fields[8:13])


def _segments(header: _Header) -> list[tuple[int, int, int, int, int]]:
    """Return (type, offset, physical address, size in the file, size in memory) of each segment."""
    elf, data, path = header.elf, header.file.data, header.file.path
    phnum = header.phnum
    if phnum == PN_XNUM:
        # The number is in sh_info of the first section header.
        if header.shoff + elf.section.size > len(data):
            raise InspectError(f"{path}: the ELF section header is cut short")
        phnum = elf.section.unpack_from(data, header.shoff)[elf.place[2]]
    if not phnum:
        return []
    if header.phentsize < elf.segment.size or header.phoff + phnum * header.phentsize > len(data):
        raise InspectError(f"{path}: the ELF program headers are cut short")
    result = []
    for index in range(phnum):
        values = elf.segment.unpack_from(data, header.phoff + index * header.phentsize)
        kind, offset, paddr, filesz, memsz = (values[position] for position in elf.order)
        result.append((kind, offset, paddr, filesz, memsz))
    return result


def _sections(header: _Header) -> dict[str, tuple[int, int]]:
    """Return (offset, size) of each section by its name; empty where there are none."""
    elf, data = header.elf, header.file.data
    end = header.shoff + header.shnum * header.shentsize
    if not header.shnum or header.shentsize < elf.section.size or end > len(data):
        return {}
    rows = [
        elf.section.unpack_from(data, header.shoff + index * header.shentsize)
        for index in range(header.shnum)
    ]
    if header.shstrndx >= len(rows):
        return {}
    at, size = (rows[header.shstrndx][position] for position in elf.place[:2])
    names = bytes(data[at : at + min(size, 1 << 16)])
    result = {}
    for row in rows:
        name = names[row[0] : names.find(b"\0", row[0])].decode("latin-1")
        result[name] = (row[elf.place[0]], row[elf.place[1]])
    return result
