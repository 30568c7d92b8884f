"""Symbol files that a user brings: ELF files, and System.map as the kernel's build writes it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turducken.address import PAGE_SIZE
from turducken.machine.boot import ImageError
from turducken.machine.boot.container import read_file, unpack
from turducken.machine.boot.elf import ELF_MAGIC, ElfImage
from turducken.machine.boot.symbols import Symbol, Symbols
from turducken.symbols.lines import Lines
from turducken.symbols.unwind import Frame, Unwinder, Word

_MAP_LINE = re.compile(rb"([0-9a-fA-F]{1,16}) ([a-zA-Z?]) (\S+)")
_FUNCTIONS = frozenset("tTwW")


@dataclass(frozen=True, slots=True)
class SymbolFile:
    """Names and lines of one file; its addresses are ``distance`` lower than those in memory."""

    name: str
    symbols: Symbols
    lines: Lines
    distance: int = 0
    unwinder: Unwinder = field(default_factory=lambda: Unwinder(None))

    def describe(self, address: int) -> str | None:
        """Return ``function+0x12, file.c:34`` for a linear address, or None where none is."""
        linked = address - self.distance
        name = self.symbols.describe(linked)
        if name is None:
            return None
        line = self.lines.at(linked)
        return name if line is None else f"{name}, {line}"

    def caller(self, frame: Frame, word: Word, *, is_innermost: bool) -> Frame | None:
        """Return the frame that called ``frame``, by this file's call frame information."""
        linked = frame._replace(pc=frame.pc - self.distance)
        return self.unwinder.caller(linked, word, is_innermost=is_innermost)


def parse_request(text: str) -> tuple[str, int | None]:
    """Split ``FILE[@ADDRESS]`` (hexadecimal); a file of the whole name goes first."""
    name, at, address = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    try:
        return name, int(address, 16)
    except ValueError:
        raise ImageError(f"--symbols {text}: {address!r} is no hexadecimal address") from None


def read_symbols(text: str) -> SymbolFile:
    """Read what ``FILE[@ADDRESS]`` names; ADDRESS is where the file's first address is in memory.

    Without it the file's own addresses hold. Raises ImageError with one clear line.
    """
    path, address = parse_request(text)
    data = unpack(read_file(path), path)
    if data.startswith(ELF_MAGIC):
        elf = ElfImage(data, path)
        symbols, lines, unwinder = elf.symbols(), Lines(elf), Unwinder(elf)
        first = min((one.linear for one in elf.segments), default=0) & -PAGE_SIZE
    else:
        symbols, lines, unwinder = Symbols(_read_map(data)), Lines(None), Unwinder(None)
        first = next(iter(symbols)).address if len(symbols) else 0
    if not len(symbols):
        raise ImageError(f"--symbols {path}: it has no symbols (stripped, or no symbol file)")
    distance = 0 if address is None else address - first
    return SymbolFile(Path(path).name, symbols, lines, distance, unwinder)


def _read_map(data: bytes) -> Iterator[Symbol]:
    """Read ``ADDRESS TYPE NAME`` lines; absolute ones (per-processor offsets) say nothing here."""
    for line in data.splitlines():
        found = _MAP_LINE.match(line)
        if found is None:
            continue
        address, kind, name = found.groups()
        if kind not in b"aA":
            is_function = kind.decode() in _FUNCTIONS
            yield Symbol(int(address, 16), 0, name.decode("utf-8", "replace"), is_function)
