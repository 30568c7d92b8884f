"""Linux kernels as files give them: a bzImage, a vmlinux, or an ELF file with a PVH entry."""

import struct
from dataclasses import dataclass, field

from turducken.machine.boot.elf import ElfImage, Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.linux.setup_header import (
    MAGIC,
    MAGIC_AT,
    SECTOR,
    SetupHeader,
    made_header,
    read_header,
)
from turducken.machine.boot.symbols import Symbols

_BANNER = b"Linux version "
_PVH_NOTE = (b"Xen", 18)
"""Owner and type of the note that holds the 32-bit entry point: XEN_ELFNOTE_PHYS32_ENTRY."""


@dataclass(frozen=True)
class BzImage:
    """A compressed kernel with a setup header; ``code`` is its protected-mode part."""

    name: str
    header: SetupHeader
    code: bytes
    elf: None = None
    symbols: Symbols = field(default_factory=Symbols)


@dataclass(frozen=True)
class Vmlinux:
    """An uncompressed kernel that is entered in 64-bit mode at physical ``entry``."""

    name: str
    elf: ElfImage
    entry: int
    symbols: Symbols
    header: SetupHeader = field(default_factory=made_header)


@dataclass(frozen=True)
class PvhImage:
    """An ELF file (a Linux kernel or another's) that is entered as a PVH guest."""

    name: str
    elf: ElfImage
    entry: int
    """Physical, below 4 GiB."""
    symbols: Symbols


LinuxImage = BzImage | Vmlinux | PvhImage


def is_bzimage(data: bytes) -> bool:
    """Tell whether a file has the setup header of a Linux kernel."""
    return data[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def parse_bzimage(data: bytes, name: str) -> BzImage:
    """Read a bzImage: the real-mode sectors are left out, as by every 32-bit loader."""
    header = read_header(data, name)
    start = ((header["setup_sects"] or 4) + 1) * SECTOR
    if start >= len(data):
        raise ImageError(f"{name}: the Linux kernel is cut off before its protected-mode code")
    needed = start + header["payload_offset"] + header["payload_length"]
    if needed > len(data):
        raise ImageError(
            f"{name}: the Linux kernel is cut off: its payload ends at byte {needed}, the file at "
            f"{len(data)}"
        )
    return BzImage(name, header, data[start:])


def parse_kernel_elf(data: bytes, name: str) -> Vmlinux | PvhImage | None:
    """Read an ELF file that a PVH note or 64-bit entry makes bootable; None where it is neither."""
    elf = ElfImage(data, name)
    entry = _pvh_entry(elf)
    if entry is not None:
        return PvhImage(name, elf, entry, elf.symbols())
    if elf.is_64 and elf.segments and _BANNER in data:
        return Vmlinux(name, elf, elf.entry, elf.symbols())
    return None


def _pvh_entry(elf: ElfImage) -> int | None:
    """Return the entry point of the note: PVH boot protocol, "Entry point"."""
    for owner, kind, content in elf.notes():
        if (owner, kind) == _PVH_NOTE and len(content) in (4, 8):
            (entry,) = struct.unpack("<I" if len(content) == 4 else "<Q", content)
            if entry >= 1 << 32:
                raise ImageError(f"{elf.name}: the PVH entry point {entry:#x} is above 4 GiB")
            return int(entry)
    return None


def first_and_last(segments: tuple[Segment, ...]) -> tuple[int, int]:
    """Return the lowest physical address of segments, and the one that follows the highest."""
    return min(one.address for one in segments), max(one.end for one in segments)
