"""Where tools read physical memory from: files that are mapped, never loaded."""

import bisect
import io
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from turducken.inspect.errors import InspectError
from turducken.memory import Memory, MemoryHoleError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from turducken.paging.readers import TableReader


EPT_ABILITIES = ("execute_only", "pages_1gib", "pages_2mib")
"""What an EPT may be able to, by the names that `turducken.paging.formats.Features` has."""


class Region(NamedTuple):
    """``size`` bytes of physical memory from ``base`` on."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.base + self.size


class Source(Memory, Protocol):
    """Physical memory that a tool can read, with what is known about it."""

    name: str
    kind: str
    """What it is, in a few words."""
    regions: Sequence[Region] | None
    """Where there is memory, ascending; None where the source cannot tell."""
    roots: dict[str, int]
    """Register values that the source itself names (``ept01``, ``cr3`` ...), for ``--via``."""
    ram: Sequence[Region] | None
    """Where the machine had RAM, if the source tells; it may hold only a part of that."""
    maxphyaddr: int | None
    paging: str | None
    """How the source's CR3 is read (``4-level`` ...), if it tells."""
    lacks: frozenset[str]
    """What the processor's EPT has not, as far as the source tells: of `EPT_ABILITIES`."""
    mtrrs: Sequence[tuple[int, int, int]] | None
    """The machine's memory types by its MTRRs (base, size, type), if the source tells."""
    warnings: list[str]


class Piece(NamedTuple):
    """``size`` bytes of a file at ``offset`` that are the memory from ``base`` on."""

    base: int
    offset: int
    size: int
    file: int = 0


@dataclass
class FileMap:
    """A file, mapped read-only."""

    path: str
    data: memoryview = field(repr=False)
    notes: list[str] = field(default_factory=list)
    """What a user has to know of the file, if it was made from another."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Where a sparse file has no bytes of its own, from offset to offset: zeros for who reads."""

    @classmethod
    def open(cls, path: str) -> "FileMap":
        """Map the file at ``path``; raise `InspectError` if that cannot be done."""
        try:
            with open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if not size:
                    raise InspectError(f"{path}: the file is empty")
                mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
                return cls(path, mapped, holes=_holes(stream.fileno(), size))
        except OSError as error:
            raise InspectError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise InspectError(f"{path}: cannot be mapped ({error})") from None

    def stream(self) -> BinaryIO:
        """Return the file's bytes as a stream."""
        return io.BufferedReader(_Octets(self.data))

    def behind(self, offset: int) -> "FileMap":
        """Return the file without its first ``offset`` bytes."""
        return FileMap(self.path, self.data[offset:])


def _holes(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Return the holes of a sparse file of ``size`` bytes; none where the system cannot tell."""
    holes: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size:
            begin = os.lseek(descriptor, at, os.SEEK_HOLE)
            if begin >= size:
                break
            try:
                at = os.lseek(descriptor, begin, os.SEEK_DATA)
            except OSError:
                at = size  # nothing but a hole up to the end
            holes.append((begin, at))
    except OSError:
        return []
    return holes


class _Octets(io.RawIOBase):
    """Bytes as a stream."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        room = memoryview(buffer).cast("B")
        part = self._data[self._at : self._at + len(room)]
        room[: len(part)] = part
        self._at += len(part)
        return len(part)


class Scratch:
    """A temporary file for what has to be unpacked; zeros take no space in it.

    It is removed when it is mapped, and lives as long as the mapping.
    """

    HOLE = 4096

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = tempfile.NamedTemporaryFile(prefix="turducken-")  # noqa: SIM115 - see finish
        self._notes: list[str] = []
        self.size = 0

    @property
    def name(self) -> str:
        """Where the file is, until `finish`."""
        return self._file.name

    def append(self, data: bytes) -> None:
        """Write ``data`` behind what is there."""
        self.put(self.size, data)

    def put(self, offset: int, data: bytes, *, zeros: bool = False) -> None:
        """Write ``data`` at ``offset``; what is between is zero.

        With ``zeros`` zeros are written, too: something else may have been there.
        """
        for at in range(0, len(data), self.HOLE):
            part = data[at : at + self.HOLE]
            if zeros or part.count(0) != len(part):
                self._file.seek(offset + at)
                self._file.write(part)
        self.size = max(self.size, offset + len(data))

    def grow(self) -> None:
        """Learn the size of what somebody else has written to the file by its name."""
        self.size = os.fstat(self._file.fileno()).st_size

    def note(self, text: str) -> None:
        """Remember what a user of the file has to know."""
        self._notes.append(text)

    def finish(self) -> FileMap:
        """Return the file, mapped under the name of what it was made from."""
        self._file.truncate(max(self.size, 1))
        self._file.flush()
        mapped = FileMap.open(self._file.name)
        mapped.path = self._path
        mapped.notes += self._notes
        self._file.close()
        return mapped


class FileSource:
    """Memory that is made of pieces of mapped files. See `Source`."""

    def __init__(self, name: str, kind: str, files: Sequence[FileMap], pieces: list[Piece]) -> None:
        self.name = name
        self.kind = kind
        self.files = tuple(files)
        self.warnings = [f"{one.path}: {note}" for one in files for note in one.notes]
        self.roots: dict[str, int] = {}
        self.maxphyaddr: int | None = None
        self.paging: str | None = None
        self.ram: Sequence[Region] | None = None
        self.mtrrs: Sequence[tuple[int, int, int]] | None = None
        self.lacks: frozenset[str] = frozenset()
        self.pieces = self._fitting(pieces)
        if not self.pieces:
            raise InspectError(f"{name}: no memory in it")
        self._bases = [one.base for one in self.pieces]
        self.regions: Sequence[Region] | None = _regions(self.pieces)

    def _fitting(self, pieces: list[Piece]) -> list[Piece]:
        """Return the pieces in order, cut to the file's end and so that none overlaps another."""
        fitting: list[Piece] = []
        end = 0
        for base, offset, size, file in sorted(pieces):
            have = max(0, min(size, len(self.files[file].data) - offset))
            if have < size:
                missing = f"{size - have:#x} bytes of the memory from {base:#x} on are missing"
                self.warnings.append(f"{self.files[file].path}: the file is cut short: {missing}")
            skip = max(0, min(end - base, have))
            if skip:
                self.warnings.append(
                    f"{self.files[file].path}: the memory from {base:#x} to {base + skip:#x} is "
                    "there twice; the piece that begins first is taken"
                )
            if have > skip:
                fitting.append(Piece(base + skip, offset + skip, have - skip, file))
                end = base + have
        return fitting

    def _find(self, address: int) -> Piece | None:
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        piece = self.pieces[index]
        return piece if address < piece.base + piece.size else None

    def load(self, address: int, size: int) -> int | None:
        """Return the little-endian word at ``address``, or None if the source lacks part of it."""
        piece = self._find(address)
        if piece is None:
            return None
        at = address - piece.base
        if at + size <= piece.size:
            at += piece.offset
            return int.from_bytes(self.files[piece.file].data[at : at + size], "little")
        try:
            return int.from_bytes(self.read(address, size), "little")
        except MemoryHoleError:
            return None

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes; raise `MemoryHoleError` at the first that is not there."""
        parts = []
        while length > 0:
            piece = self._find(address)
            if piece is None:
                raise MemoryHoleError(address)
            at = address - piece.base
            count = min(length, piece.size - at)
            at += piece.offset
            parts.append(bytes(self.files[piece.file].data[at : at + count]))
            address += count
            length -= count
        return b"".join(parts)

    def store(self, address: int, size: int, value: int) -> None:
        """Refuse: sources are read-only."""
        raise InspectError(f"{self.name} is read-only")

    def write(self, address: int, data: bytes) -> None:
        """Refuse: sources are read-only."""
        raise InspectError(f"{self.name} is read-only")

    def table_reader(self) -> "TableReader":
        """Return a reader that finds tables in the mapped files (needs NumPy)."""
        import numpy as np

        from turducken.paging.readers import Segment, SegmentReader

        octets = [np.frombuffer(one.data, dtype=np.uint8) for one in self.files]
        return SegmentReader(
            [
                Segment(
                    one.base,
                    octets[one.file][one.offset : one.offset + one.size],
                    _within(self.files[one.file].holes, one),
                )
                for one in self.pieces
            ]
        )


def _within(holes: Sequence[tuple[int, int]], piece: Piece) -> tuple[tuple[int, int], ...]:
    """Return the holes of a file inside a piece of it, as offsets in the piece."""
    first = max(0, bisect.bisect_right(holes, (piece.offset, 0)) - 1)
    found = []
    for begin, end in holes[first:]:
        if begin >= piece.offset + piece.size:
            break
        low, high = max(begin - piece.offset, 0), min(end - piece.offset, piece.size)
        if high > low:
            found.append((low, high))
    return tuple(found)


def _regions(pieces: list[Piece]) -> list[Region]:
    regions: list[Region] = []
    for piece in pieces:
        if regions and regions[-1].end == piece.base:
            regions[-1] = Region(regions[-1].base, regions[-1].size + piece.size)
        else:
            regions.append(Region(piece.base, piece.size))
    return regions
