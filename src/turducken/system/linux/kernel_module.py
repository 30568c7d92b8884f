"""Kernel modules as files: read, and with a call left out of one function, to plant a mistake.

Linux documentation, "Kernel module signing facility": what follows the ELF file is its signature. A
module that has been changed must not have one any more; the kernel then loads it as unsigned.
"""

import io
import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from turducken.machine.boot import ImageError
from turducken.machine.boot.container import read_file
from turducken.machine.boot.elf import ELF_MAGIC

_SIGNATURE_END = b"~Module signature appended~\n"
_SIGNATURE_SIZE = 12
_RELA = struct.Struct("<QQq")
_NOTHING = 0
"""R_X86_64_NONE: a relocation that changes nothing."""
_CALL, _NOP = b"\xe8", bytes.fromhex("0f1f440000")
_SUFFIXES = ("", ".xz")


@dataclass(frozen=True, slots=True)
class KernelModule:
    """A module to load: file name, content and parameters."""

    name: str
    content: bytes
    parameters: str = ""


def read_kernel_module(argument: str) -> KernelModule:
    """Return the module that ``FILE [PARAMETERS]`` names."""
    path, _, parameters = argument.partition(" ")
    content = read_file(path)
    if path.endswith(".xz"):
        try:
            content = lzma.decompress(content)
        except lzma.LZMAError as error:
            raise ImageError(f"{path}: not a sound xz file: {error}") from None
    if not content.startswith(ELF_MAGIC):
        raise ImageError(f"{path}: no kernel module (an ELF file)")
    return KernelModule(Path(path).name.removesuffix(".xz"), content, parameters.strip())


def find_module(folder: Path, name: str) -> KernelModule:
    """Read the module ``name`` (a path below ``folder``, such as ``kernel/virt/lib/x.ko``)."""
    for suffix in _SUFFIXES:
        path = folder / (name + suffix)
        if path.exists():
            return read_kernel_module(str(path))
    raise ImageError(f"{folder / name}: no such kernel module")


def leave_out_calls(module: KernelModule, function: str, callee: str) -> KernelModule:
    """Return the module with no calls of ``callee`` in ``function``, and without its signature.

    Raises ImageError where there are none.
    """
    content = bytearray(_unsigned(module.content))
    count = 0
    for at, relocation in _calls(bytes(content), module.name, function, callee):
        content[at - 1 : at + 4] = _NOP
        where, _, addend = _RELA.unpack_from(content, relocation)
        _RELA.pack_into(content, relocation, where, _NOTHING, addend)
        count += 1
    if not count:
        raise ImageError(f"{module.name}: no function {function} that calls {callee}")
    return KernelModule(module.name, bytes(content), module.parameters)


def _unsigned(content: bytes) -> bytes:
    if not content.endswith(_SIGNATURE_END):
        return content
    end = len(content) - len(_SIGNATURE_END)
    (size,) = struct.unpack_from(">I", content, end - 4)
    return content[: end - _SIGNATURE_SIZE - size]


def _calls(data: bytes, name: str, function: str, callee: str) -> Iterator[tuple[int, int]]:
    """Yield the file offsets of each call's operand and of the relocation that fills it in."""
    try:
        elf = ELFFile(io.BytesIO(data))
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return
        for symbol in table.get_symbol_by_name(function) or ():
            section = symbol["st_shndx"]
            if isinstance(section, int):
                begin, size = symbol["st_value"], symbol["st_size"]
                yield from _in_section(elf, section, range(begin, begin + size), callee)
    except (ELFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ImageError(f"{name}: not a sound kernel module: {error}") from None


def _in_section(
    elf: ELFFile, section: int, within: range, callee: str
) -> Iterator[tuple[int, int]]:
    start = elf.get_section(section)["sh_offset"]
    for table in elf.iter_sections(type="SHT_RELA"):
        if table["sh_info"] != section or not isinstance(table, RelocationSection):
            continue
        symbols = elf.get_section(table["sh_link"])
        if not isinstance(symbols, SymbolTableSection):
            continue
        for number, one in enumerate(table.iter_relocations()):
            at = one["r_offset"]
            if at not in within or symbols.get_symbol(one["r_info_sym"]).name != callee:
                continue
            elf.stream.seek(start + at - 1)
            if elf.stream.read(1) == _CALL:
                yield start + at, table["sh_offset"] + number * _RELA.size
