"""Writing memory as files that other tools open: raw, ELF core (our snapshots too), LiME."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from turducken.inspect.dumps import (
    ET_CORE,
    LIME_HEADER,
    LIME_MAGIC,
    NOTE_NAME,
    NOTE_TYPE,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
)
from turducken.inspect.errors import InspectError
from turducken.memory import Memory

CHUNK = 1 << 20
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_EM_X86_64 = 62


class Extent(NamedTuple):
    """``size`` bytes that the file shows at ``address``, read from ``place`` in the memory."""

    address: int
    size: int
    place: int


def _chunks(memory: Memory, extent: Extent) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the extent, bytes), leaving out chunks that are all zero."""
    zeros = bytes(CHUNK)
    for at in range(0, extent.size, CHUNK):
        count = min(CHUNK, extent.size - at)
        data = memory.read(extent.place + at, count)
        if data != zeros[:count]:
            yield at, data


def _copy(memory: Memory, extent: Extent, stream: BinaryIO, offset: int) -> None:
    for at, data in _chunks(memory, extent):
        stream.seek(offset + at)
        stream.write(data)


def write_raw(
    stream: BinaryIO, memory: Memory, extents: Sequence[Extent], *, base: int = 0
) -> None:
    """Write memory byte for byte: the byte at address A is at offset A - ``base``.

    What is not memory becomes a hole in the file (zeros, for who reads it).
    """
    for extent in extents:
        _copy(memory, extent, stream, extent.address - base)
    if extents:
        stream.truncate(extents[-1].address + extents[-1].size - base)


def write_lime(stream: BinaryIO, memory: Memory, extents: Sequence[Extent]) -> None:
    """Write a LiME dump: every extent after a header."""
    at = 0
    for address, size, place in extents:
        stream.seek(at)
        stream.write(LIME_HEADER.pack(LIME_MAGIC, 1, address, address + size - 1, 0))
        at += LIME_HEADER.size
        _copy(memory, Extent(address, size, place), stream, at)
        at += size
    stream.truncate(at)


def write_elf(
    stream: BinaryIO,
    memory: Memory,
    extents: Sequence[Extent],
    *,
    roots: Mapping[str, int] | None = None,
    maxphyaddr: int | None = None,
) -> None:
    """Write an ELF core with one PT_LOAD segment per extent, by physical address.

    With ``roots`` (register values by name), it is a turducken snapshot: a note keeps them.
    """
    if len(extents) + 1 >= PN_XNUM:
        raise InspectError(f"{len(extents)} separate ranges are too many for an ELF core")
    note = _note(roots, maxphyaddr) if roots is not None else b""
    count = len(extents) + bool(note)
    note_at = _EHDR.size + count * _PHDR.size
    data_at = -(-(note_at + len(note)) // 4096) * 4096
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    stream.write(
        _EHDR.pack(
            ident,
            ET_CORE,
            _EM_X86_64,
            1,
            0,
            _EHDR.size,
            0,
            0,
            _EHDR.size,
            _PHDR.size,
            count,
            0,
            0,
            0,
        )
    )
    if note:
        stream.write(_PHDR.pack(PT_NOTE, 4, note_at, 0, 0, len(note), len(note), 4))
    at = data_at
    for address, size, _ in extents:
        stream.write(_PHDR.pack(PT_LOAD, 7, at, address, address, size, size, 4096))
        at += size
    stream.write(note)
    at = data_at
    for extent in extents:
        _copy(memory, extent, stream, at)
        at += extent.size
    stream.truncate(at)


def _note(roots: Mapping[str, int], maxphyaddr: int | None) -> bytes:
    about: dict[str, object] = {"roots": dict(roots)}
    if maxphyaddr is not None:
        about["maxphyaddr"] = maxphyaddr
    text = json.dumps(about, sort_keys=True).encode()
    name = NOTE_NAME.ljust(-(-len(NOTE_NAME) // 4) * 4, b"\0")
    padding = b"\0" * (-len(text) % 4)
    return _NHDR.pack(len(NOTE_NAME), len(text), NOTE_TYPE) + name + text + padding


def write_snapshot(
    path: str,
    memory: Memory,
    regions: Sequence[tuple[int, int]],
    *,
    roots: Mapping[str, int],
    maxphyaddr: int | None = None,
) -> None:
    """Write a turducken snapshot of the memory in ``regions`` (base, size) to ``path``.

    ``roots`` names register values for ``--via``, such as ``cpu0.ept01``. Zero pages take no space.
    """
    extents = [Extent(base, size, base) for base, size in regions]
    with open(path, "wb") as stream:
        write_elf(stream, memory, extents, roots=roots, maxphyaddr=maxphyaddr)


WRITERS = {"raw": write_raw, "elf": write_elf, "lime": write_lime}
