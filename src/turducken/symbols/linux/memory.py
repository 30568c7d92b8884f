"""A running kernel's own view of memory: what is at its linear addresses."""

import re
import struct
from dataclasses import dataclass

from turducken.address import PAGE_SIZE
from turducken.memory import PhysicalMemory
from turducken.paging.formats import PAGING_4LEVEL, PAGING_5LEVEL, Features
from turducken.paging.walker import Stop, walk

IMAGE_BASE = 0xFFFF_FFFF_8000_0000
"""Where the kernel is linked, and its pages are mapped: __START_KERNEL_map."""

_NOTE_START = b"OSRELEASE="
_NOTE_SIZE = 4096
_SYMBOL = re.compile(rb"^SYMBOL\((\w+)\)=([0-9a-f]+)$", re.MULTILINE)
_NUMBER = re.compile(rb"^NUMBER\((\w+)\)=(-?[0-9]+)$", re.MULTILINE)
_MOST_PAGES = 1 << 14


class Unreadable(Exception):  # noqa: N818 - what is there is no kernel's data: no error of ours
    """The memory does not hold what a kernel would have there."""


@dataclass(frozen=True, slots=True)
class Note:
    """The note that a kernel leaves for readers of its memory ("VMCOREINFO").

    ``symbols`` are linear addresses.
    """

    symbols: dict[str, int]
    numbers: dict[str, int]


def find_note(memory: PhysicalMemory) -> Note | None:
    """Return the note of the kernel that runs in ``memory``, or None before it has written one."""
    start: int | None = 0
    while start is not None:
        start = memory.find(_NOTE_START, start)
        if start is None:
            return None
        text = memory.read(start, _NOTE_SIZE).split(b"\0")[0]
        symbols = {name.decode(): int(value, 16) for name, value in _SYMBOL.findall(text)}
        numbers = {name.decode(): int(value) for name, value in _NUMBER.findall(text)}
        if "kallsyms_names" in symbols and "phys_base" in numbers:
            return Note(symbols, numbers)
        start += len(_NOTE_START)
    return None


class KernelMemory:
    """Reads by the kernel's linear addresses, through its page tables.

    Physical addresses are the machine's: those of a bare system, or of L1's identity-mapped memory.
    """

    def __init__(self, memory: PhysicalMemory, note: Note) -> None:
        self._memory = memory
        deep = note.numbers.get("pgtable_l5_enabled", 0)
        self._format = (PAGING_5LEVEL if deep else PAGING_4LEVEL).bind(Features())
        top = note.symbols.get("init_top_pgt") or note.symbols.get("swapper_pg_dir", 0)
        self._root = top - IMAGE_BASE + note.numbers["phys_base"]

    def read(self, address: int, size: int, *, at_most: bool = False) -> bytes:
        """Return ``size`` bytes; where a page is not mapped, what is before it, or Unreadable."""
        if size > _MOST_PAGES * PAGE_SIZE:
            raise Unreadable
        parts: list[bytes] = []
        while size:
            count = min(size, PAGE_SIZE - address % PAGE_SIZE)
            found = walk(self._format, self._memory, self._root, address)
            if found.stop is not Stop.PAGE:
                if at_most and parts:
                    break
                raise Unreadable
            parts.append(self._memory.read(found.output(address), count))
            address, size = address + count, size - count
        return b"".join(parts)

    def word(self, address: int, size: int = 8) -> int:
        """Return a little-endian word."""
        return int.from_bytes(self.read(address, size), "little")

    def words(self, address: int, count: int, layout: str) -> tuple[int, ...]:
        """Return ``count`` words of a `struct` layout's kind."""
        size = struct.calcsize("<" + layout)
        return struct.unpack(f"<{count}{layout}", self.read(address, count * size))
