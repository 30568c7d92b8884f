"""Dumps in a compressed file: unpacked into a temporary file, then opened as whatever is in it."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from turducken.inspect.containers.codecs import library
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, Scratch

HEAD = 0x200
"""Bytes that must be looked at to recognise a file."""

CHUNK = 1 << 20
MAX_SIZE = 1 << 40
"""What an unpacked file may have at most."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` unpacked bytes; none at the end."""


_STANDARD: dict[bytes, tuple[str, Callable[[BinaryIO], _Readable]]] = {
    b"\x1f\x8b": ("gzip", lambda stream: gzip.GzipFile(fileobj=stream)),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
    b"BZh": ("bzip2", bz2.BZ2File),
}
_LIBRARY = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
}
_MAGICS = (*_STANDARD, *_LIBRARY)


def is_packed(head: bytes) -> bool:
    """Tell whether a file that begins with ``head`` is a compressed one."""
    return head.startswith(_MAGICS)


def unpack(file: FileMap) -> FileMap:
    """Return what the compressed ``file`` holds; raise `InspectError` where it is damaged."""
    head = bytes(file.data[:HEAD])
    name = next((name for magic, name in _LIBRARY.items() if head.startswith(magic)), None)
    scratch = Scratch(file.path)
    if name is not None:
        _by_library(file, name, scratch)
    else:
        kind, opener = next(one for magic, one in _STANDARD.items() if head.startswith(magic))
        _by_standard(file, kind, opener, scratch)
    if not scratch.size:
        raise InspectError(f"{file.path}: the compressed file is empty")
    unpacked = scratch.finish()
    unpacked.path = file.path
    return unpacked


def _by_standard(
    file: FileMap, kind: str, opener: Callable[[BinaryIO], _Readable], scratch: Scratch
) -> None:
    with file.stream() as stream:
        reader = opener(stream)
        try:
            while chunk := reader.read(CHUNK):
                _append(scratch, chunk, file.path)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if not scratch.size:
                raise InspectError(f"{file.path}: damaged {kind} data ({error})") from None
            scratch.note(f"the {kind} data is damaged after {scratch.size:#x} bytes ({error})")


def _by_library(file: FileMap, name: str, scratch: Scratch) -> None:
    cramjam = library(f"{name} files", file.path)
    output = cramjam.File(scratch.name)
    try:
        getattr(cramjam, name).decompress_into(file.data, output)
    except Exception as error:  # the library's own, and what its codecs raise
        scratch.grow()
        if not scratch.size:
            raise InspectError(f"{file.path}: damaged {name} data ({error})") from None
        scratch.note(f"the {name} data is damaged after {scratch.size:#x} bytes ({error})")
    scratch.grow()


def _append(scratch: Scratch, data: bytes, path: str) -> None:
    scratch.append(data)
    if scratch.size > MAX_SIZE:
        raise InspectError(f"{path}: unpacks to more than {MAX_SIZE >> 40} TiB")
