"""Compressed kdump files (makedumpfile's and QEMU's), also flattened.

makedumpfile's IMPLEMENTATION describes them: a header, a sub-header, two bitmaps of which the
second says which pages are there, a descriptor for each of these, and their data. A flattened file
is such a file as a list of (offset, size) and bytes, big-endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from turducken.inspect.containers import notes
from turducken.inspect.containers.codecs import Codec, codec
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece, Scratch

PAGE = 4096
MAX_NOTE = 1 << 24
_KDUMP, _DISKDUMP, _FLAT = b"KDUMP   ", b"DISKDUMP", b"makedumpfile"
_FLAT_HEADER = 4096
_FLAT_RECORD = struct.Struct(">qq")
_END = -1

_HEADER_VERSION = 8
_NUMBERS = 424
"""Where the header's numbers begin: behind signature, version, six names of 65 bytes, time."""
_NUMBERS_LAYOUT = struct.Struct("<IIIIIIIIII")
"""status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr, total_ram_blocks, device_blocks,
written_blocks, current_cpu, nr_cpus."""
_NOTE_AT, _MAX_MAPNR_64 = 48, 96
"""Offsets in the sub-header of (offset_note, size_note) and of max_mapnr_64."""

_DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
_CODECS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}
_COMPRESSED = 0x1 | 0x2 | 0x4 | 0x20


def is_kdump(head: bytes) -> bool:
    """Tell whether a file begins as kdump files do."""
    return head.startswith((_KDUMP, _DISKDUMP, _FLAT))


@dataclass(frozen=True, slots=True)
class _Header:
    block: int
    bitmap_at: int
    bitmap_size: int
    frames: int
    note: tuple[int, int]


def open_kdump(file: FileMap) -> FileSource:
    """Open a kdump file; its pages are unpacked into a temporary file."""
    flat = bytes(file.data[: len(_FLAT)]) == _FLAT
    if flat:
        file = _rearranged(file)
    header = _read_header(file)
    frames = _present(file, header)
    scratch = Scratch(file.path)
    missing = 0
    for number, page in _pages(file, header, len(frames)):
        if page is None:
            missing += 1
        else:
            scratch.put(number * PAGE, page)
    scratch.size = max(scratch.size, len(frames) * PAGE)
    if missing:
        scratch.note(f"{missing} pages lie behind the file's end and read as zeros")
    kind = "flattened kdump file" if flat else "kdump file"
    source = FileSource(file.path, kind, [scratch.finish()], _pieces(frames))
    at, size = header.note
    notes.apply(source, bytes(file.data[at : at + min(size, MAX_NOTE)]))
    return source


def _rearranged(file: FileMap) -> FileMap:
    scratch, at = Scratch(file.path), _FLAT_HEADER
    while at + _FLAT_RECORD.size <= len(file.data):
        offset, size = _FLAT_RECORD.unpack_from(file.data, at)
        at += _FLAT_RECORD.size
        if offset == _END:
            break
        if offset < 0 or size < 0 or offset > 1 << 46:
            raise InspectError(f"{file.path}: a record of the flattened file at {at:#x} is invalid")
        scratch.put(offset, bytes(file.data[at : at + size]))
        at += size
    else:
        scratch.note("the flattened file is cut short")
    return scratch.finish()


def _read_header(file: FileMap) -> _Header:
    data, path = file.data, file.path
    if not bytes(data[:8]).startswith((_KDUMP, _DISKDUMP)) or len(data) < PAGE:
        raise InspectError(f"{path}: not a complete kdump header")
    (version,) = struct.unpack_from("<I", data, _HEADER_VERSION)
    _, block, sub_size, bitmap_blocks, frames, *_ = _NUMBERS_LAYOUT.unpack_from(data, _NUMBERS)
    if block != PAGE:
        raise InspectError(f"{path}: a kdump file with blocks of {block} bytes; 4096 are known")
    sub = block
    note = (0, 0)
    if version >= 4 and len(data) >= sub + 64:
        note = struct.unpack_from("<QQ", data, sub + _NOTE_AT)
    if version >= 6 and len(data) >= sub + _MAX_MAPNR_64 + 8:
        (frames,) = struct.unpack_from("<Q", data, sub + _MAX_MAPNR_64)
    return _Header(block, block * (1 + sub_size), block * bitmap_blocks, frames, note)


def _present(file: FileMap, header: _Header) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Return the numbers of the page frames that the file has, ascending."""
    half = header.bitmap_size // 2
    begin = header.bitmap_at + half
    if not half or begin + half > len(file.data):
        raise InspectError(f"{file.path}: the bitmaps of the kdump file are cut short")
    bits = np.frombuffer(file.data[begin : begin + half], dtype=np.uint8)
    frames = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    frames = frames[frames < header.frames]
    if not len(frames):
        raise InspectError(f"{file.path}: a kdump file without pages")
    return frames


def _pages(file: FileMap, header: _Header, count: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, page) of each page that is there; None for one behind the file's end."""
    begin = header.bitmap_at + header.bitmap_size
    room = max(0, len(file.data) - begin) // _DESCRIPTOR.itemsize
    rows = np.frombuffer(
        file.data[begin : begin + min(count, room) * _DESCRIPTOR.itemsize], dtype=_DESCRIPTOR
    )
    codecs: dict[int, Codec] = {}
    last: tuple[int, bytes | None] = (-1, None)
    columns = (rows[name].tolist() for name in ("offset", "size", "flags"))
    for number, (offset, size, flags) in enumerate(zip(*columns, strict=True)):
        if offset != last[0]:  # pages that are alike share their data: most of them zero
            last = offset, _page(file, codecs, (offset, size, flags))
        yield number, last[1]
    for number in range(len(rows), count):
        yield number, None


def _page(file: FileMap, codecs: dict[int, Codec], where: tuple[int, int, int]) -> bytes | None:
    offset, size, flags = where
    if size > PAGE or offset + size > len(file.data):
        return None
    data = bytes(file.data[offset : offset + size])
    kind = flags & _COMPRESSED
    if kind:
        if kind not in codecs:
            name = _CODECS.get(kind, "")
            if name in ("", "lzo"):
                raise InspectError(
                    f"{file.path}: a kdump file compressed by LZO; convert it with makedumpfile -E"
                )
            codecs[kind] = codec(name, file.path)
        data = codecs[kind](data, PAGE)
    return data.ljust(PAGE, b"\0")


def _pieces(frames: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> list[Piece]:
    first = np.concatenate(([0], np.flatnonzero(np.diff(frames) != 1) + 1))
    last = np.concatenate((first[1:], [len(frames)]))
    return [
        Piece(int(frames[low]) * PAGE, low * PAGE, (high - low) * PAGE)
        for low, high in zip(first.tolist(), last.tolist(), strict=True)
    ]
