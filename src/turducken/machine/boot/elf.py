"""ELF32 and ELF64 files for x86: segments, section headers and symbols.

Tool Interface Standard, "Executable and Linking Format (ELF) Specification".
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.elffile import ELFFile

from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.symbols import Symbol, Symbols

ELF_MAGIC = b"\x7fELF"
_MACHINES = frozenset({"EM_386", "EM_X86_64"})
_TYPES = frozenset({"ET_EXEC", "ET_DYN"})

_SYMBOL_32, _SYMBOL_64 = struct.Struct("<IIIBBH"), struct.Struct("<IBBHQQ")
_SECTION_32, _SECTION_64 = struct.Struct("<10I"), struct.Struct("<IIQQQQIIQQ")
_SECTION_ADDRESS_FIELD = 3
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1
_FUNCTION, _FILE, _SECTION = 2, 4, 3


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of an image: ``data`` goes to physical ``address``, zeros follow up to ``size``."""

    address: int
    data: bytes
    size: int
    linear: int = 0
    """The address at which the image is linked to run."""

    @property
    def end(self) -> int:
        """The physical address that follows the segment."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class TableSection:
    """A symbol or string table that is in no segment; a Multiboot loader brings it along."""

    index: int
    data: bytes


class ElfImage:
    """An ELF file that holds code for x86; raises ImageError where it does not, or is cut off."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self._data = data
        try:
            self._read_header()
            self.segments = tuple(self._read_segments())
        except ImageError:
            raise
        except (ELFError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> ImageError:
        detail = " ".join(str(error).split()) or type(error).__name__
        return ImageError(f"{self.name}: not a sound ELF file: {detail}")

    def _read_header(self) -> None:
        self._elf = ELFFile(io.BytesIO(self._data))
        header = self._elf.header
        self.is_64 = self._elf.elfclass == 64
        if not self._elf.little_endian or header["e_machine"] not in _MACHINES:
            raise ImageError(f"{self.name}: an ELF file, but not for x86")
        if header["e_type"] not in _TYPES:
            raise ImageError(f"{self.name}: an ELF file, but not an executable one")
        self.linked_entry: int = header["e_entry"]
        if header["e_phoff"] + header["e_phnum"] * header["e_phentsize"] > len(self._data):
            raise ImageError(f"{self.name}: the ELF file is cut off in its program headers")

    def _read_segments(self) -> Iterator[Segment]:
        for number in range(self._elf.num_segments()):
            header = self._elf.get_segment(number).header
            if header["p_type"] != "PT_LOAD" or header["p_memsz"] == 0:
                continue
            offset, count = header["p_offset"], header["p_filesz"]
            if offset + count > len(self._data):
                raise ImageError(
                    f"{self.name}: the ELF file is cut off: segment {number} ends at byte "
                    f"{offset + count}, the file at {len(self._data)}"
                )
            if count > header["p_memsz"]:
                raise ImageError(f"{self.name}: ELF segment {number} is larger in the file")
            content = self._data[offset : offset + count]
            yield Segment(header["p_paddr"], content, header["p_memsz"], header["p_vaddr"])

    @property
    def entry(self) -> int:
        """The physical address of the entry point.

        The header gives a linear address, which may be a physical one already: one that is in no
        segment's linear addresses is taken as it stands.
        """
        for one in self.segments:
            if one.linear <= self.linked_entry < one.linear + one.size:
                return self.linked_entry - one.linear + one.address
        return self.linked_entry

    @property
    def has_interpreter(self) -> bool:
        """Whether the program needs an interpreter: a dynamic one."""
        kinds = (self._elf.get_segment(n).header["p_type"] for n in range(self._elf.num_segments()))
        return "PT_INTERP" in kinds

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield owner, type and content of each note in a segment for notes."""
        for number in range(self._elf.num_segments()):
            header = self._elf.get_segment(number).header
            if header["p_type"] == "PT_NOTE":
                start = header["p_offset"]
                yield from _notes(self._data[start : start + header["p_filesz"]])

    # -- sections and symbols ----------------------------------------------------------------------

    @property
    def section_count(self) -> int:
        """How many section headers the file has, 0 where they cannot be used."""
        header = self._elf.header
        end = header["e_shoff"] + header["e_shnum"] * header["e_shentsize"]
        usable = header["e_shentsize"] == self._section_format.size and end <= len(self._data)
        return int(header["e_shnum"]) if usable and header["e_shoff"] else 0

    @property
    def section_size(self) -> int:
        """Size in bytes of a section header."""
        return self._section_format.size

    @property
    def section_names(self) -> int:
        """Index of the section that holds the sections' names."""
        return int(self._elf.header["e_shstrndx"])

    @property
    def _section_format(self) -> struct.Struct:
        return _SECTION_64 if self.is_64 else _SECTION_32

    def _section(self, index: int) -> tuple[int, ...]:
        """Return name, type, flags, address, offset, size, link, ... of a section header."""
        start = self._elf.header["e_shoff"] + index * self.section_size
        return self._section_format.unpack_from(self._data, start)

    def tables(self) -> list[TableSection]:
        """Return the symbol and string tables that no segment holds."""
        found = []
        for index in range(self.section_count):
            _, kind, _, address, offset, size, *_ = self._section(index)
            if kind in (2, 3) and address == 0 and offset + size <= len(self._data):
                found.append(TableSection(index, self._data[offset : offset + size]))
        return found

    def section_headers(self, addresses: dict[int, int]) -> bytes:
        """Return all section headers, with the addresses of tables that were loaded filled in."""
        headers = []
        for index in range(self.section_count):
            fields = list(self._section(index))
            fields[_SECTION_ADDRESS_FIELD] = addresses.get(index, fields[_SECTION_ADDRESS_FIELD])
            headers.append(self._section_format.pack(*fields))
        return b"".join(headers)

    def debug_information(self) -> DWARFInfo | None:
        """Return the file's DWARF, or None where it has none that can be read."""
        try:
            return self._elf.get_dwarf_info() if self._elf.has_dwarf_info() else None
        except (ELFError, struct.error, ValueError, KeyError, TypeError, AttributeError):
            return None

    def symbols(self) -> Symbols:
        """Return the named addresses of the symbol table (none where it is missing or broken)."""
        for index in range(self.section_count):
            _, kind, _, _, offset, size, link, *_ = self._section(index)
            if kind == 2 and link < self.section_count:
                _, _, _, _, names, names_size, *_ = self._section(link)
                strings = self._data[names : names + names_size]
                return Symbols(self._read_symbols(self._data[offset : offset + size], strings))
        return Symbols()

    def _read_symbols(self, table: bytes, strings: bytes) -> Iterator[Symbol]:
        layout = _SYMBOL_64 if self.is_64 else _SYMBOL_32
        for fields in layout.iter_unpack(table[: len(table) // layout.size * layout.size]):
            name_at, value, size, info, section = _symbol_fields(fields, is_64=self.is_64)
            if section in (_UNDEFINED, _ABSOLUTE) or info & 0xF in (_FILE, _SECTION):
                continue
            name = strings[name_at : strings.find(b"\0", name_at)].decode("utf-8", "replace")
            if name:
                yield Symbol(value, size, name, info & 0xF == _FUNCTION)


def _notes(area: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the notes of an area, as many as are whole; names and contents take whole words."""
    at = 0
    while at + 12 <= len(area):
        owner_size, size, kind = struct.unpack_from("<III", area, at)
        start = at + 12 + (owner_size + 3 & ~3)
        at = start + (size + 3 & ~3)
        if start + size > len(area):
            return
        owner = area[start - (owner_size + 3 & ~3) :][:owner_size]
        yield owner.rstrip(b"\0"), kind, area[start : start + size]


def _symbol_fields(fields: tuple[Any, ...], *, is_64: bool) -> tuple[int, int, int, int, int]:
    if is_64:
        name, info, _, section, value, size = fields
    else:
        name, value, size, info, _, section = fields
    return name, value, size, info, section
