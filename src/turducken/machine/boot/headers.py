"""Multiboot headers in an image.

Multiboot Specification 0.6.96, "OS image format"; Multiboot2 Specification 2.0, "OS image format".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from turducken.bits import Layout, bit, bits
from turducken.machine.boot.errors import ImageError

MAGIC_1, BOOT_MAGIC_1 = 0x1BADB002, 0x2BADB002
MAGIC_2, BOOT_MAGIC_2 = 0xE85250D6, 0x36D76289

_SEARCH_1, _SEARCH_2 = 8192, 32768
_WORD = 0xFFFF_FFFF

FLAGS = Layout(
    "Multiboot header flags",
    32,
    bit("PAGE_ALIGN", 0, "modules must start at pages"),
    bit("MEMORY_INFO", 1, "memory information is wanted"),
    bit("VIDEO_MODE", 2, "video information is wanted"),
    bits("REQUIRED", 15, 3, "unknown requirements"),
    bit("ADDRESS_FIELDS", 16, "the header has load addresses"),
    bits("OPTIONAL", 31, 17, "unknown wishes"),
    source='Multiboot Specification 0.6.96, "The magic fields of Multiboot header"',
)


@dataclass(frozen=True, slots=True)
class LoadAddresses:
    """Where to load an image that is not an ELF file.

    ``offset`` is the byte in the file that belongs at physical ``load``; ``load_end`` and
    ``bss_end`` are 0 where the header leaves them out.
    """

    offset: int
    load: int
    load_end: int
    bss_end: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """Where an image may be loaded instead of where it is linked."""

    lowest: int
    highest: int
    align: int
    prefers_high: bool


@dataclass(frozen=True, slots=True)
class Header:
    """A Multiboot header: ``version`` 1 or 2 and what it asks for."""

    version: int
    addresses: LoadAddresses | None = None
    entry: int | None = None
    wants_video: bool = False
    relocation: Relocation | None = None

    @property
    def boot_magic(self) -> int:
        """What EAX holds at the entry point."""
        return BOOT_MAGIC_1 if self.version == 1 else BOOT_MAGIC_2


def has_header(data: bytes) -> bool:
    """Tell whether there is a Multiboot header of any version, whatever it asks for."""
    return _place_1(data) is not None or _place_2(data) is not None


def find_header(data: bytes, name: str, version: int | None = None) -> Header:
    """Return the header of ``version``, or the one there is (version 1 if there are both).

    Raises ImageError where there is none, or where it demands what is not offered.
    """
    finders = {1: _find_1, 2: _find_2}
    for one in (1, 2) if version is None else (version,):
        header = finders[one](data, name)
        if header is not None:
            return header
    raise ImageError(f"{name}: {_what_it_is(data)} no Multiboot{_suffix(version)} header")


def _suffix(version: int | None) -> str:
    return {None: " or Multiboot2", 1: "", 2: "2"}[version]


def _what_it_is(data: bytes) -> str:
    if not data:
        return "an empty file;"
    return "an ELF file with" if data.startswith(b"\x7fELF") else "has"


def _addresses(at: int, fields: tuple[int, ...], name: str) -> LoadAddresses:
    header, load, load_end, bss_end = fields
    if load == _WORD:  # Multiboot2: from the start of the file
        return LoadAddresses(0, (header - at) & _WORD, load_end, bss_end)
    offset = at - (header - load)
    if load > header or offset < 0:
        raise ImageError(f"{name}: the Multiboot header's load addresses contradict its place")
    return LoadAddresses(offset, load, load_end, bss_end)


# -- Multiboot 1 -----------------------------------------------------------------------------------


def _place_1(data: bytes) -> tuple[int, int] | None:
    """Return where the first header is, and its flags."""
    area = data[:_SEARCH_1]
    for at in range(0, len(area) - 11, 4):
        magic, flags, check = struct.unpack_from("<III", area, at)
        if magic == MAGIC_1 and (magic + flags + check) & _WORD == 0:
            return at, flags
    return None


def _find_1(data: bytes, name: str) -> Header | None:
    place = _place_1(data)
    return None if place is None else _parse_1(data[:_SEARCH_1], *place, name)


def _parse_1(area: bytes, at: int, flags: int, name: str) -> Header:
    unknown = FLAGS["REQUIRED"].get(flags)
    if unknown:
        raise ImageError(f"{name}: the Multiboot header has unknown requirements {unknown << 3:#x}")
    wants_video = bool(flags & FLAGS.mask("VIDEO_MODE"))
    if not flags & FLAGS.mask("ADDRESS_FIELDS"):
        return Header(1, wants_video=wants_video)
    if at + 32 > len(area):
        raise ImageError(f"{name}: the Multiboot header is cut off")
    *fields, entry = struct.unpack_from("<5I", area, at + 12)
    return Header(1, _addresses(at, tuple(fields), name), entry, wants_video)


# -- Multiboot 2 -----------------------------------------------------------------------------------

_END, _REQUEST, _ADDRESS, _ENTRY, _CONSOLE, _FRAMEBUFFER = range(6)
_MODULE_ALIGN, _BOOT_SERVICES, _ENTRY_EFI32, _ENTRY_EFI64, _RELOCATABLE = range(6, 11)
_OPTIONAL = 1
_I386 = 0


def _place_2(data: bytes) -> tuple[int, int, int] | None:
    """Return where the first header is, its architecture and its length."""
    area = data[:_SEARCH_2]
    for at in range(0, len(area) - 15, 8):
        magic, architecture, length, check = struct.unpack_from("<IIII", area, at)
        if magic == MAGIC_2 and not (magic + architecture + length + check) & _WORD:
            return at, architecture, length
    return None


def _find_2(data: bytes, name: str) -> Header | None:
    place, area = _place_2(data), data[:_SEARCH_2]
    if place is None:
        return None
    at, architecture, length = place
    if architecture != _I386:
        raise ImageError(f"{name}: the Multiboot2 header is not for i386")
    if at + length > len(area):
        raise ImageError(f"{name}: the Multiboot2 header is cut off")
    return _parse_2(area[: at + length], at, name)


def _tags(area: bytes, at: int, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and content of the header's tags."""
    position = at + 16
    while position + 8 <= len(area):
        kind, flags, size = struct.unpack_from("<HHI", area, position)
        if kind == _END:
            return
        if size < 8 or position + size > len(area):
            break
        yield kind, flags, area[position + 8 : position + size]
        position += (size + 7) & ~7
    raise ImageError(f"{name}: the tags of the Multiboot2 header do not end")


def _parse_2(area: bytes, at: int, name: str) -> Header:
    addresses = entry = relocation = None
    wants_video = False
    for kind, flags, content in _tags(area, at, name):
        match kind:
            case 2 if len(content) >= 16:
                addresses = _addresses(at, struct.unpack_from("<4I", content), name)
            case 3 if len(content) >= 4:
                (entry,) = struct.unpack_from("<I", content)
            case 5:
                wants_video = True
            case 10 if len(content) >= 16:
                relocation = _relocation(content)
            case 1 | 4 | 6 | 7 | 8 | 9:
                pass  # wishes that need nothing, and entries for firmware that this PC has not
            case _ if not flags & _OPTIONAL:
                raise ImageError(f"{name}: the Multiboot2 header demands unknown tag {kind}")
    if addresses is not None and entry is None:
        raise ImageError(f"{name}: the Multiboot2 header has load addresses but no entry address")
    return Header(2, addresses, entry, wants_video, relocation)


def _relocation(content: bytes) -> Relocation:
    lowest, highest, align, preference = struct.unpack_from("<4I", content)
    return Relocation(lowest, highest, max(align, 1), prefers_high=preference == 2)
