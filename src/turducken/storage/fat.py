"""Making a FAT16 disk image of files, for firmware to boot from.

Microsoft Extensible Firmware Initiative FAT32 File System Specification. The whole disk is one file
system, without a partition table.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

SECTOR = 512
_ROOT_ENTRIES = 512
_RESERVED, _FATS = 1, 2
_LEAST_CLUSTERS, _MOST_CLUSTERS = 4200, 65500
"""Well within what makes it FAT16 ("FAT Type Determination")."""
_LARGEST_CLUSTER = 128
_DIRECTORY, _ARCHIVE = 0x10, 0x20
_END = 0xFFFF
_DATE = 44 << 9 | 1 << 5 | 1
"""The first of January 2024."""


@dataclass(slots=True)
class _Directory:
    entries: dict[str, "bytes | _Directory"] = field(default_factory=dict)


def short_name(name: str) -> bytes:
    """Return a name of at most 8 and 3 characters as a directory has it; ValueError for others."""
    stem, _, extension = name.upper().partition(".")
    allowed = all(one.isalnum() or one in "_-" for one in stem + extension)
    if not 1 <= len(stem) <= 8 or len(extension) > 3 or not allowed:
        raise ValueError(f"{name!r} is no name of 8 and 3 characters")
    return stem.ljust(8).encode("ascii") + extension.ljust(3).encode("ascii")


def fat_image(files: Mapping[str, bytes]) -> bytes:
    """Return a disk image with these files; the names are paths, of 8 and 3 characters each part.

    Raises ValueError where they do not fit a FAT16 file system.
    """
    root = _Directory()
    for path, content in files.items():
        *parents, name = path.split("/")
        place = root
        for parent in parents:
            below = place.entries.setdefault(parent, _Directory())
            if not isinstance(below, _Directory):
                raise ValueError(f"{path}: {parent} is a file")
            place = below
        place.entries[name] = content
    return _Writer(root).image()


class _Writer:
    def __init__(self, root: _Directory) -> None:
        self._root = root
        self._cluster = SECTOR
        while self._needed(root) > _MOST_CLUSTERS:
            self._cluster *= 2
            if self._cluster > _LARGEST_CLUSTER * SECTOR:
                raise ValueError("the files are too large for a FAT16 file system")
        self._clusters = max(self._needed(root) + 16, _LEAST_CLUSTERS)
        self._fat = [0xFFF8, _END]
        self._data = bytearray()

    def _needed(self, directory: _Directory) -> int:
        """Return how many clusters the contents of a directory fill."""
        total = 0
        for one in directory.entries.values():
            if isinstance(one, _Directory):
                size = 32 * (len(one.entries) + 2)
                total += self._needed(one)
            else:
                size = len(one)
            total += -(-size // self._cluster)
        return total

    def image(self) -> bytes:
        root = self._entries(self._root, 0)
        if len(root) > 32 * _ROOT_ENTRIES:
            raise ValueError("too many files in the root directory")
        fat_sectors = -(-2 * (self._clusters + 2) // SECTOR)
        fat = struct.pack(f"<{len(self._fat)}H", *self._fat).ljust(fat_sectors * SECTOR, b"\0")
        data = bytes(self._data).ljust(self._clusters * self._cluster, b"\0")
        return (
            self._boot_sector(fat_sectors)
            + fat * _FATS
            + root.ljust(32 * _ROOT_ENTRIES, b"\0")
            + data
        )

    def _boot_sector(self, fat_sectors: int) -> bytes:
        """Return the sector of "Boot Sector and BPB"."""
        per_cluster = self._cluster // SECTOR
        sectors = _RESERVED + _FATS * fat_sectors + 32 * _ROOT_ENTRIES // SECTOR
        sectors += self._clusters * per_cluster
        sector = struct.pack(
            "<3s8sHBHBHHBHHHII",
            b"\xeb\x3c\x90",
            b"TURDUCKN",
            SECTOR,
            per_cluster,
            _RESERVED,
            _FATS,
            _ROOT_ENTRIES,
            sectors if sectors < 1 << 16 else 0,
            0xF8,
            fat_sectors,
            63,
            16,
            0,
            sectors if sectors >= 1 << 16 else 0,
        )
        sector += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x20240101, b"TURDUCKEN  ", b"FAT16   ")
        return sector.ljust(510, b"\0") + b"\x55\xaa"

    def _store(self, content: bytes) -> int:
        """Give contents a chain of clusters; return the first one."""
        if not content:
            return 0
        count = -(-len(content) // self._cluster)
        first = len(self._fat)
        self._fat += [*range(first + 1, first + count), _END]
        self._data += content.ljust(count * self._cluster, b"\0")
        return first

    def _entries(self, directory: _Directory, parent: int) -> bytes:
        """Store what is in a directory; return its entries."""
        entries = b""
        for name, content in directory.entries.items():
            if isinstance(content, _Directory):
                entries += self._entry(short_name(name), _DIRECTORY, self._folder(content, parent))
            else:
                first = self._store(content)
                entries += self._entry(short_name(name), _ARCHIVE, first, len(content))
        return entries

    def _folder(self, directory: _Directory, parent: int) -> int:
        """Store a directory below the cluster of its ``parent`` (0: the root); return its own."""
        size = 32 * (len(directory.entries) + 2)
        own = self._store(bytes(size))
        place = len(self._data) - -(-size // self._cluster) * self._cluster
        dots = self._entry(b".".ljust(11), _DIRECTORY, own)
        dots += self._entry(b"..".ljust(11), _DIRECTORY, parent)
        self._data[place : place + size] = dots + self._entries(directory, own)
        return own

    @staticmethod
    def _entry(name: bytes, attributes: int, first: int, size: int = 0) -> bytes:
        """Return an entry: "FAT 32 Byte Directory Entry Structure"."""
        return struct.pack(
            "<11sBBBHHHHHHHI", name, attributes, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, first, size
        )
