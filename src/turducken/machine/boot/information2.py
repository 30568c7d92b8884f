"""The Multiboot2 information: Multiboot2 Specification 2.0, "Boot information format"."""

import struct
from enum import IntEnum

from turducken.machine.boot.information import (
    EGA_TEXT,
    FIRST_DISK,
    LOADER_NAME,
    TEXT_BITS,
    TEXT_BUFFER,
    TEXT_COLUMNS,
    TEXT_PITCH,
    TEXT_ROWS,
    Information,
    c_string,
)
from turducken.machine.firmware.acpi import RSDP_V1_SIZE

ALIGN = 8
_ALL_ONES = 0xFFFF_FFFF
"""No partition."""


class Tag(IntEnum):
    """Types of the tags that are given."""

    END = 0
    COMMAND_LINE = 1
    LOADER_NAME = 2
    MODULE = 3
    MEMORY = 4
    BOOT_DEVICE = 5
    MEMORY_MAP = 6
    FRAMEBUFFER = 8
    ELF_SECTIONS = 9
    ACPI_OLD = 14
    ACPI_NEW = 15
    LOAD_BASE = 21


def _tag(kind: Tag, content: bytes = b"") -> bytes:
    size = 8 + len(content)
    return struct.pack("<II", kind, size) + content + bytes(-size % ALIGN)


def build(told: Information) -> bytes:
    """Return the information; it holds no addresses of its own, so it may go to any page."""
    tags = [
        _tag(Tag.COMMAND_LINE, c_string(told.command_line)),
        _tag(Tag.LOADER_NAME, c_string(LOADER_NAME)),
        *_modules(told),
        _tag(
            Tag.MEMORY,
            struct.pack("<II", told.memory_map.lower_kib, told.memory_map.upper_kib),
        ),
        _tag(Tag.BOOT_DEVICE, struct.pack("<III", FIRST_DISK, _ALL_ONES, _ALL_ONES)),
        _memory_map(told),
        *_sections(told),
        *_acpi(told.rsdp),
        *_screen(told),
        _tag(Tag.LOAD_BASE, struct.pack("<I", told.image.start)),
        _tag(Tag.END),
    ]
    body = b"".join(tags)
    return struct.pack("<II", 8 + len(body), 0) + body


def _modules(told: Information) -> list[bytes]:
    return [
        _tag(Tag.MODULE, struct.pack("<II", one.start, one.end) + c_string(one.string))
        for one in told.modules
    ]


def _memory_map(told: Information) -> bytes:
    entries = (struct.pack("<QQII", one.start, one.size, one.kind, 0) for one in told.memory_map)
    return _tag(Tag.MEMORY_MAP, struct.pack("<II", 24, 0) + b"".join(entries))


def _sections(told: Information) -> list[bytes]:
    elf = told.image.elf
    if elf is None or not elf.section_count:
        return []
    head = struct.pack("<III", elf.section_count, elf.section_size, elf.section_names)
    return [_tag(Tag.ELF_SECTIONS, head + elf.section_headers(told.table_addresses))]


def _acpi(rsdp: bytes) -> list[bytes]:
    if not rsdp:
        return []
    old = _tag(Tag.ACPI_OLD, rsdp[:RSDP_V1_SIZE])
    return [old, _tag(Tag.ACPI_NEW, rsdp)] if len(rsdp) > RSDP_V1_SIZE else [old]


def _screen(told: Information) -> list[bytes]:
    if not told.image.header.wants_video:
        return []
    content = struct.pack(
        "<QIIIBBH", TEXT_BUFFER, TEXT_PITCH, TEXT_COLUMNS, TEXT_ROWS, TEXT_BITS, EGA_TEXT, 0
    )
    return [_tag(Tag.FRAMEBUFFER, content)]
