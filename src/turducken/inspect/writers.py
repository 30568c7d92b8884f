"""Writing memory as files that other tools open: raw, ELF core (our snapshots too), LiME."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from turducken.inspect.containers import lime
from turducken.inspect.containers.elf import ET_CORE, PN_XNUM, PT_LOAD, PT_NOTE
from turducken.inspect.containers.notes import NOTE_NAME, NOTE_TYPE
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


def _runs(extents: Sequence[Extent]) -> list[list[Extent]]:
    """Group extents (ascending) that follow one another without a gap."""
    runs: list[list[Extent]] = []
    end = None
    for extent in extents:
        if extent.address == end:
            runs[-1].append(extent)
        else:
            runs.append([extent])
        end = extent.address + extent.size
    return runs


def _size(run: Sequence[Extent]) -> int:
    return sum(extent.size for extent in run)


def _chunks(memory: Memory, extent: Extent) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the extent, bytes), leaving out chunks that are all zero."""
    zeros = bytes(CHUNK)
    for at in range(0, extent.size, CHUNK):
        count = min(CHUNK, extent.size - at)
        data = memory.read(extent.place + at, count)
        if data != zeros[:count]:
            yield at, data


def _copy(memory: Memory, extent: Extent, stream: IO[bytes], offset: int) -> None:
    for at, data in _chunks(memory, extent):
        stream.seek(offset + at)
        stream.write(data)


def write_raw(
    stream: IO[bytes], memory: Memory, extents: Sequence[Extent], *, base: int = 0
) -> None:
    """Write memory byte for byte: the byte at address A is at offset A - ``base``.

    What is not memory becomes a hole in the file (zeros, for who reads it).
    """
    for extent in extents:
        _copy(memory, extent, stream, extent.address - base)
    if extents:
        stream.truncate(extents[-1].address + extents[-1].size - base)


def write_lime(stream: IO[bytes], memory: Memory, extents: Sequence[Extent]) -> None:
    """Write a LiME dump: every run of adjacent extents after a header."""
    at = 0
    for run in _runs(extents):
        address, size = run[0].address, _size(run)
        stream.seek(at)
        stream.write(lime.HEADER.pack(lime.MAGIC, 1, address, address + size - 1, 0))
        at += lime.HEADER.size
        for extent in run:
            _copy(memory, extent, stream, at + extent.address - address)
        at += size
    stream.truncate(at)


def write_elf(
    stream: IO[bytes],
    memory: Memory,
    extents: Sequence[Extent],
    *,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write an ELF core with one PT_LOAD segment per run of adjacent extents.

    With ``about`` it is a turducken snapshot: a note keeps it, see
    `turducken.inspect.containers.notes`.
    """
    runs = _runs(extents)
    if len(runs) + 1 >= PN_XNUM:
        raise InspectError(f"{len(runs)} separate ranges are too many for an ELF core")
    note = _note(about) if about is not None else b""
    count = len(runs) + bool(note)
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
    for run in runs:
        address, size = run[0].address, _size(run)
        stream.write(_PHDR.pack(PT_LOAD, 7, at, address, address, size, size, 4096))
        at += size
    stream.write(note)
    at = data_at
    for run in runs:
        for extent in run:
            _copy(memory, extent, stream, at + extent.address - run[0].address)
        at += _size(run)
    stream.truncate(at)


def _note(about: Mapping[str, object]) -> bytes:
    text = json.dumps(dict(about), sort_keys=True).encode()
    name = NOTE_NAME.ljust(-(-len(NOTE_NAME) // 4) * 4, b"\0")
    padding = b"\0" * (-len(text) % 4)
    return _NHDR.pack(len(NOTE_NAME), len(text), NOTE_TYPE) + name + text + padding


def write_snapshot(
    stream: IO[bytes],
    memory: Memory,
    regions: Sequence[tuple[int, int]],
    *,
    roots: Mapping[str, int],
    maxphyaddr: int | None = None,
    ram: Sequence[tuple[int, int]] | None = None,
    mtrrs: Sequence[tuple[int, int, int]] | None = None,
    lacks: Sequence[str] = (),
) -> None:
    """Write a turducken snapshot of the memory in ``regions`` (base, size) to ``stream``.

    ``roots`` names register values for ``--via``, such as ``cpu0.ept01``. ``ram`` tells where the
    machine has RAM, if ``regions`` are not all of it, and ``mtrrs`` (base, size, type) which memory
    types its MTRRs give, and ``lacks`` what its EPT has not. Zero pages take no space in the file.
    """
    about: dict[str, object] = {"roots": dict(roots)}
    if maxphyaddr is not None:
        about["maxphyaddr"] = maxphyaddr
    if ram is not None:
        about["ram"] = [list(one) for one in ram]
    if mtrrs is not None:
        about["mtrrs"] = [list(one) for one in mtrrs]
    if lacks:
        about["lacks"] = list(lacks)
    extents = [Extent(base, size, base) for base, size in regions]
    write_elf(stream, memory, extents, about=about)


WRITERS: dict[str, Callable[[IO[bytes], Memory, Sequence[Extent]], None]] = {
    "raw": write_raw,
    "elf": write_elf,
    "lime": write_lime,
}
