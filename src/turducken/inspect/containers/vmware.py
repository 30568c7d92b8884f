"""VMware's suspended states and snapshots (.vmss, .vmsn), and the memory beside them (.vmem).

A state is groups of tags. The group ``memory`` says which pages of the memory's file lie where in
the machine's memory (a machine of more than 3 GiB has a hole below 4 GiB, which the file has not),
or holds the memory itself. VMware documents none of it; tools that read it do.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turducken.inspect.containers import raw
from turducken.inspect.containers.notes import Cpu
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece

PAGE = 4096
_MAGICS = (0xBED2BED0, 0xBAD1BAD1, 0xBED2BED2, 0xBED3BED3)
_HEADER = struct.Struct("<III")
_GROUP = struct.Struct("<64sQQ")
_LARGE = (62, 63)
_MAX_GROUPS, _MAX_TAGS = 4096, 1 << 20
_CR0_PG, _EFER_LMA = 1 << 31, 1 << 10

HOLE = 3 << 30
"""Where the hole below 4 GiB usually begins."""


def is_state(head: bytes) -> bool:
    """Tell whether a file begins as .vmss and .vmsn files do."""
    return len(head) >= 4 and struct.unpack_from("<I", head)[0] in _MAGICS


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag's value lies at ``offset``; ``stored`` differs from ``size`` where it is compressed."""

    name: str
    indices: tuple[int, ...]
    offset: int
    size: int
    stored: int


def open_state(file: FileMap) -> FileSource:
    """Open a .vmss or .vmsn file, with the .vmem beside it if the memory is there."""
    tags = _Tags(file)
    regions = tags.regions()
    blob = next((one for one in tags.of("memory") if one.name == "Memory" and one.size), None)
    if blob is not None:
        if blob.stored != blob.size:
            raise InspectError(
                f"{file.path}: the memory in it is compressed; suspend it to a .vmem"
            )
        memory, base = file, blob.offset
        size = blob.size
        kind = "VMware state with its memory"
    else:
        path = Path(file.path).with_suffix(".vmem")
        if not path.exists():
            raise InspectError(f"{file.path}: the memory is in a .vmem file, and {path} is missing")
        memory, base, kind = FileMap.open(str(path)), 0, "VMware state and memory"
        size = len(memory.data)
    pieces = [Piece(at, base + begin, length) for at, begin, length in regions or [(0, 0, size)]]
    source = FileSource(file.path, kind, [memory], pieces)
    for number, cpu in enumerate(tags.cpus()):
        source.roots[f"cpu{number}.cr3"] = cpu.cr3
        if not number:
            source.roots["cr3"], source.paging = cpu.cr3, cpu.paging
    return source


def open_vmem(file: FileMap) -> FileSource:
    """Open a .vmem file as the state beside it says; without one, say what is assumed."""
    for suffix in (".vmss", ".vmsn"):
        path = Path(file.path).with_suffix(suffix)
        if path.exists():
            return open_state(FileMap.open(str(path)))
    if len(file.data) <= HOLE:
        return raw.open_unknown(file, 0)
    pieces = [Piece(0, 0, HOLE), Piece(4 << 30, HOLE, len(file.data) - HOLE)]
    source = FileSource(file.path, "VMware memory", [file], pieces)
    source.warnings.append(
        f"{file.path}: no .vmss or .vmsn beside it; a hole from 3 to 4 GiB is assumed, as VMware's "
        "machines have it"
    )
    return source


class _Tags:
    """The tags of a state, group by group."""

    def __init__(self, file: FileMap) -> None:
        self._file = file
        magic, _, count = _HEADER.unpack_from(file.data.tobytes() if len(file.data) < 12 else
                                              file.data)  # fmt: skip
        self._width = 4 if magic == _MAGICS[0] else 8
        self._groups: dict[str, int] = {}
        if count > _MAX_GROUPS or _HEADER.size + count * _GROUP.size > len(file.data):
            raise InspectError(f"{file.path}: the groups of the VMware state are cut short")
        for number in range(count):
            name, at, _ = _GROUP.unpack_from(file.data, _HEADER.size + number * _GROUP.size)
            self._groups[name.rstrip(b"\0").decode("latin-1")] = at
        if "memory" not in self._groups:
            raise InspectError(f"{file.path}: a VMware state without a group for memory")

    def of(self, group: str) -> Iterator[_Tag]:
        """Yield the tags of a group; those that are cut short end it."""
        data, at = self._file.data, self._groups.get(group)
        for _ in range(_MAX_TAGS):
            if at is None or at + 2 > len(data) or not (data[at] or data[at + 1]):
                return
            flags, length = data[at], data[at + 1]
            name = bytes(data[at + 2 : at + 2 + length]).decode("latin-1")
            at += 2 + length
            count = flags >> 6 & 3
            size = stored = flags & 0x3F
            large = 2 * self._width + 2 if size in _LARGE else 0
            if at + 4 * count + large > len(data):
                return
            indices = struct.unpack_from(f"<{count}I", data, at)
            at += 4 * count
            if large:
                code = "<II" if self._width == 4 else "<QQ"
                stored, size = struct.unpack_from(code, data, at)
                at += 2 * self._width
                (padding,) = struct.unpack_from("<H", data, at)
                at += 2 + padding
            yield _Tag(name, indices, at, size, stored)
            at += stored

    def value(self, tag: _Tag) -> int:
        """Return a tag's value as a number."""
        return int.from_bytes(self._file.data[tag.offset : tag.offset + min(tag.size, 8)], "little")

    def regions(self) -> list[tuple[int, int, int]]:
        """Return (physical address, offset in the memory, size) of each region."""
        found: dict[tuple[str, int], int] = {}
        for tag in self.of("memory"):
            if tag.name in ("regionPPN", "regionPageNum", "regionSize") and len(tag.indices) == 1:
                found[tag.name, tag.indices[0]] = self.value(tag)
        numbers = sorted(number for name, number in found if name == "regionSize")
        try:
            return [
                (
                    found["regionPPN", one] * PAGE,
                    found["regionPageNum", one] * PAGE,
                    found["regionSize", one] * PAGE,
                )
                for one in numbers
            ]
        except KeyError:
            raise InspectError(f"{self._file.path}: a region of the memory is incomplete") from None

    def cpus(self) -> list[Cpu]:
        """Return the processors whose control registers the state has."""
        control: dict[int, dict[int, int]] = {}
        efer: dict[int, int] = {}
        for tag in self.of("cpu"):
            if tag.name in ("CR", "CR64") and len(tag.indices) == 2:
                control.setdefault(tag.indices[0], {})[tag.indices[1]] = self.value(tag)
            if tag.name in ("EFER", "efer") and tag.indices:
                efer[tag.indices[0]] = self.value(tag)
        return [
            Cpu(one[0], one[3], one.get(4, 0), bool(efer.get(number, 0) & _EFER_LMA))
            if number in efer
            else Cpu(one[0], one[3], one.get(4, 0), is_long=True)
            for number, one in sorted(control.items())
            if 0 in one and 3 in one
        ]
