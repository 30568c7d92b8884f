"""Tiny Multiboot images, and a reader of what a loader tells them."""

import struct

from turducken.address import MIB
from turducken.memory import PhysicalMemory

ENTRY_CODE = b"\xf4\xeb\xfd"  # hlt; jmp to the hlt
WORD = 0xFFFF_FFFF


def header_1(flags=0x3, fields=()):
    words = (0x1BADB002, flags, -(0x1BADB002 + flags) & WORD, *fields)
    return struct.pack(f"<{len(words)}I", *words)


def header_2(*tags, architecture=0):
    body = b"".join(
        struct.pack("<HHI", kind, flags, 8 + len(content)) + content + bytes(-len(content) % 8)
        for kind, flags, content in (*tags, (0, 0, b""))
    )
    size = 16 + len(body)
    check = -(0xE85250D6 + architecture + size) & WORD
    return struct.pack("<IIII", 0xE85250D6, architecture, size, check) + body


def elf(
    code,
    *,
    address=MIB,
    entry=None,
    memory_size=None,
    is_64=False,
    linear=None,
    machine=None,
    kind=2,
    symbols=(),
):
    """An ELF file with one segment: ``code`` at physical ``address``.

    ``symbols`` are ``(name, value, size, type)``; they come with a symbol and a string table.
    """
    linear = address if linear is None else linear
    entry = linear if entry is None else entry
    memory_size = len(code) if memory_size is None else memory_size
    machine = machine or (62 if is_64 else 3)
    header_size, program_size, section_size = (64, 56, 64) if is_64 else (52, 32, 40)
    code_at = (header_size + program_size + 15) & ~15
    tables, sections = b"", []
    if symbols:
        tables, sections = _symbol_sections(symbols, code_at + len(code), is_64=is_64)
    section_at = code_at + len(code) + len(tables) if sections else 0
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, 1, 1]) + bytes(9)
    head = struct.pack(
        "<HHIQQQIHHHHHH" if is_64 else "<HHIIIIIHHHHHH",
        kind, machine, 1, entry, header_size, section_at, 0, header_size, program_size, 1,
        section_size, len(sections), len(sections) - 1 if sections else 0,
    )  # fmt: skip
    if is_64:
        program = struct.pack(
            "<IIQQQQQQ", 1, 7, code_at, linear, address, len(code), memory_size, 0x1000
        )
    else:
        program = struct.pack("<8I", 1, code_at, linear, address, len(code), memory_size, 7, 0x1000)
    return (ident + head + program).ljust(code_at, b"\0") + code + tables + b"".join(sections)


def _symbol_sections(symbols, at, *, is_64):
    names, entries = b"\0", [bytes(24 if is_64 else 16)]
    for name, value, size, kind in symbols:
        where = len(names)
        names += name.encode() + b"\0"
        if is_64:
            entries.append(struct.pack("<IBBHQQ", where, 0x10 | kind, 0, 1, value, size))
        else:
            entries.append(struct.pack("<IIIBBH", where, value, size, 0x10 | kind, 0, 1))
    table = b"".join(entries)
    pack = struct.Struct("<IIQQQQIIQQ" if is_64 else "<10I").pack
    sections = [
        pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        pack(0, 2, 0, 0, at, len(table), 2, 1, 8, len(entries[0])),
        pack(0, 3, 0, 0, at + len(table), len(names), 0, 0, 1, 0),
    ]
    return table + names, sections


def image_1(**options):
    return elf(header_1().ljust(32, b"\0") + ENTRY_CODE, **options)


def image_2(*tags, **options):
    return elf(header_2(*tags) + ENTRY_CODE, **options)


def flat_image(*, load=MIB, bss_end=0, load_end=0, entry=None, before=b"\x90" * 16, after=b"tail"):
    """An image that is no ELF file: the header's address fields say where it goes."""
    header_address = load + len(before)
    entry = load if entry is None else entry
    return before + header_1(0x10003, (header_address, load, load_end, bss_end, entry)) + after


class Reader:
    """Reads memory as a booted image would."""

    def __init__(self, memory):
        self.memory = memory

    def word(self, address, size=4):
        return int.from_bytes(self.memory.read(address, size), "little")

    def string(self, address):
        return self.memory.read(address, 4096).split(b"\0")[0].decode()

    def information_1(self, address):
        """Return the flags and what they say is there."""
        flags = self.word(address)
        told = {"flags": flags}
        if flags & 1 << 0:
            told["memory"] = (self.word(address + 4), self.word(address + 8))
        if flags & 1 << 1:
            told["device"] = self.memory.read(address + 12, 4)
        if flags & 1 << 2:
            told["command_line"] = self.string(self.word(address + 16))
        if flags & 1 << 3:
            count, at = self.word(address + 20), self.word(address + 24)
            told["modules"] = [
                (self.word(e), self.word(e + 4), self.string(self.word(e + 8)))
                for e in range(at, at + 16 * count, 16)
            ]
        if flags & 1 << 5:
            told["sections"] = tuple(self.word(address + 28 + 4 * i) for i in range(4))
        if flags & 1 << 6:
            told["map"] = self.map_1(self.word(address + 48), self.word(address + 44))
        if flags & 1 << 9:
            told["loader"] = self.string(self.word(address + 64))
        if flags & 1 << 12:
            told["screen"] = struct.unpack("<QIIIBB", self.memory.read(address + 88, 22))
        return told

    def map_1(self, at, length):
        entries, end = [], at + length
        while at < end:
            size = self.word(at)
            start, count = self.word(at + 4, 8), self.word(at + 12, 8)
            entries.append((start, start + count, self.word(at + 20)))
            at += size + 4
        return entries

    def information_2(self, address):
        """Return the tags as ``{kind: [content, ...]}`` in their order."""
        assert address % 8 == 0
        end = address + self.word(address)
        at, tags = address + 8, {}
        while at < end:
            kind, size = self.word(at), self.word(at + 4)
            tags.setdefault(kind, []).append(self.memory.read(at + 8, size - 8))
            at += (size + 7) & ~7
        assert list(tags)[-1] == 0
        assert at == end
        return tags


class RecordingMemory(PhysicalMemory):
    """RAM that counts the bytes written through it."""

    written = 0

    def write(self, address, data):
        self.written += len(data)
        super().write(address, data)
