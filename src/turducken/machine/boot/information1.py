"""The Multiboot information: Multiboot Specification 0.6.96, "Boot information format"."""

import struct

from turducken.bits import Layout, bit, reserved
from turducken.machine.boot.information import (
    EGA_TEXT,
    FIRST_DISK,
    LOADER_NAME,
    NO_PARTITION,
    TEXT_BITS,
    TEXT_BUFFER,
    TEXT_COLUMNS,
    TEXT_PITCH,
    TEXT_ROWS,
    Information,
    c_string,
)

FLAGS = Layout(
    "Multiboot information flags",
    32,
    bit("MEMORY", 0, "mem_lower and mem_upper"),
    bit("BOOT_DEVICE", 1),
    bit("COMMAND_LINE", 2),
    bit("MODULES", 3),
    bit("AOUT_SYMBOLS", 4),
    bit("ELF_SECTIONS", 5),
    bit("MEMORY_MAP", 6),
    bit("DRIVES", 7),
    bit("CONFIGURATION", 8, "ROM configuration table"),
    bit("LOADER_NAME", 9),
    bit("APM", 10),
    bit("VBE", 11),
    bit("FRAMEBUFFER", 12),
    reserved(31, 13),
    source='Multiboot Specification 0.6.96, "Boot information format"',
)

SIZE = 120
_MEMORY, _DEVICE, _COMMAND_LINE, _MODULES, _SECTIONS, _MAP = 4, 12, 16, 20, 28, 44
_LOADER, _FRAMEBUFFER = 64, 88
_MAP_ENTRY_SIZE = 24


class _Builder:
    """The structure at ``base``, with the data that it points to after it."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._bytes = bytearray(SIZE)
        self._flags = 0

    def flag(self, name: str) -> None:
        self._flags |= FLAGS.mask(name)

    def put(self, offset: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}I", self._bytes, offset, *words)

    def append(self, data: bytes) -> int:
        """Add data behind the structure and return its physical address."""
        self._bytes.extend(bytes(-len(self._bytes) % 8))
        address = self._base + len(self._bytes)
        self._bytes.extend(data)
        return address

    def put_bytes(self, offset: int, data: bytes) -> None:
        self._bytes[offset : offset + len(data)] = data

    def finish(self) -> bytes:
        self.put(0, self._flags)
        return bytes(self._bytes)


def build(told: Information, base: int) -> bytes:
    """Return the structure and all that it points to, for physical address ``base``."""
    builder = _Builder(base)
    _add_memory(builder, told)
    builder.flag("BOOT_DEVICE")
    builder.put_bytes(_DEVICE, bytes((NO_PARTITION, NO_PARTITION, NO_PARTITION, FIRST_DISK)))
    builder.flag("COMMAND_LINE")
    builder.put(_COMMAND_LINE, builder.append(c_string(told.command_line)))
    _add_modules(builder, told)
    _add_sections(builder, told)
    builder.flag("LOADER_NAME")
    builder.put(_LOADER, builder.append(c_string(LOADER_NAME)))
    if told.image.header.wants_video:
        _add_text_screen(builder)
    return builder.finish()


def _add_memory(builder: _Builder, told: Information) -> None:
    builder.flag("MEMORY")
    builder.put(_MEMORY, told.memory_map.lower_kib, told.memory_map.upper_kib)
    entries = b"".join(
        struct.pack("<IQQI", _MAP_ENTRY_SIZE - 4, one.start, one.size, one.kind)
        for one in told.memory_map
    )
    builder.flag("MEMORY_MAP")
    builder.put(_MAP, len(entries), builder.append(entries))


def _add_modules(builder: _Builder, told: Information) -> None:
    entries = b"".join(
        struct.pack("<IIII", one.start, one.end, builder.append(c_string(one.string)), 0)
        for one in told.modules
    )
    builder.flag("MODULES")
    builder.put(_MODULES, len(told.modules), builder.append(entries) if entries else 0)


def _add_sections(builder: _Builder, told: Information) -> None:
    elf = told.image.elf
    if elf is None or not elf.section_count:
        return
    headers = builder.append(elf.section_headers(told.table_addresses))
    builder.flag("ELF_SECTIONS")
    builder.put(_SECTIONS, elf.section_count, elf.section_size, headers, elf.section_names)


def _add_text_screen(builder: _Builder) -> None:
    builder.flag("FRAMEBUFFER")
    screen = struct.pack(
        "<QIIIBB", TEXT_BUFFER, TEXT_PITCH, TEXT_COLUMNS, TEXT_ROWS, TEXT_BITS, EGA_TEXT
    )
    builder.put_bytes(_FRAMEBUFFER, screen)
