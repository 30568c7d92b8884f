"""Reading QEMU's qcow2 images, versions 2 and 3.

QEMU documentation, "Qcow2 Image File Format": clusters found through two levels of tables, plain,
compressed (deflate), zero or in a backing file. Encryption, external data files and extended L2
entries are not supported, and said so.
"""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from turducken.storage.image import BlockImage, DiskImageError, MediumError, RawImage

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _COMPRESSION_TYPE = 1 << 0, 1 << 1, 1 << 3
_SUPPORTED = _DIRTY | _COMPRESSION_TYPE
_LEAST_CLUSTER_BITS, _MOST_CLUSTER_BITS = 9, 21
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1
_MOST_L1 = 32 << 20
_MOST_BACKING = 16
_MOST_NAME = 1023


def is_qcow2(path: str) -> bool:
    """Tell whether a file begins as a qcow2 image does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


class Qcow2Image:
    """A qcow2 image; ``depth`` counts the images that have this one as their backing file."""

    is_writable = False

    def __init__(self, path: str, depth: int = 0) -> None:
        self._path = path
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
            self._read_header()
        except (OSError, ValueError, struct.error) as error:
            reason = getattr(error, "strerror", None) or "its header is damaged"
            raise self._error(reason) from None
        self._backing = self._open_backing(depth)
        self._l2_tables: dict[int, tuple[int, ...]] = {}

    def _error(self, reason: str) -> DiskImageError:
        return DiskImageError(f"{self._path}: a qcow2 image that cannot be used: {reason}")

    def _read_header(self) -> None:
        header = self._file.read(_HEADER.size)
        fields = _HEADER.unpack(header)
        magic, version, backing_at, backing_size, bits, self.size, encryption = fields[:7]
        l1_entries, l1_at = fields[7:9]
        if magic != MAGIC or version not in (2, 3):
            raise self._error(f"its version is {version}, not 2 or 3")
        incompatible = 0
        if version == 3:
            incompatible = _HEADER_3.unpack(self._file.read(_HEADER_3.size))[0]
        if encryption:
            raise self._error("it is encrypted")
        if incompatible & _CORRUPT:
            raise self._error("it is marked as corrupt")
        if incompatible & ~_SUPPORTED:
            raise self._error(f"it uses features that are not supported ({incompatible:#x})")
        if incompatible & _COMPRESSION_TYPE:
            self._check_compression()
        if not _LEAST_CLUSTER_BITS <= bits <= _MOST_CLUSTER_BITS:
            raise self._error(f"clusters of 2^{bits} bytes")
        self._bits = bits
        self._l2_bits = bits - 3
        needed = -(-self.size >> bits + self._l2_bits)
        if not self.size or l1_entries < needed or 8 * l1_entries > _MOST_L1:
            raise self._error("the size of its L1 table does not fit its contents")
        self._file.seek(l1_at)
        self._l1: tuple[int, ...] = struct.unpack(
            f">{l1_entries}Q", self._file.read(8 * l1_entries)
        )
        self._backing_name = ""
        if backing_at:
            if backing_size > _MOST_NAME:
                raise self._error("the name of its backing file is too long")
            self._file.seek(backing_at)
            self._backing_name = self._file.read(backing_size).decode()

    def _check_compression(self) -> None:
        self._file.seek(_HEADER.size + _HEADER_3.size)
        if self._file.read(1) not in (b"", b"\0"):
            raise self._error("its clusters are not compressed with deflate")

    def _open_backing(self, depth: int) -> BlockImage | None:
        if not self._backing_name:
            return None
        if depth >= _MOST_BACKING:
            raise self._error("too many backing files, one behind the other")
        name = str(Path(self._path).parent / self._backing_name)
        return Qcow2Image(name, depth + 1) if is_qcow2(name) else RawImage(name)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the disk."""
        parts = []
        cluster = 1 << self._bits
        while length > 0:
            first = offset & cluster - 1
            count = min(length, cluster - first)
            parts.append(self._read_cluster(offset, first, count))
            offset += count
            length -= count
        return b"".join(parts)

    def _read_cluster(self, offset: int, first: int, count: int) -> bytes:
        try:
            entry = self._entry(offset)
            if entry & _COMPRESSED:
                return self._decompress(entry)[first : first + count].ljust(count, b"\0")
            place = entry & _OFFSET_MASK
            if entry & _ZERO:
                return bytes(count)
            if not place:
                return self._read_backing(offset, count)
            self._file.seek(place + first)
            return self._file.read(count).ljust(count, b"\0")
        except (OSError, ValueError, zlib.error, struct.error) as error:
            raise MediumError(f"{self._path}: at {offset:#x}: {error}") from None

    def _entry(self, offset: int) -> int:
        number = offset >> self._bits
        table_at = self._l1[number >> self._l2_bits] & _OFFSET_MASK
        if not table_at:
            return 0
        table = self._l2_tables.get(table_at)
        if table is None:
            entries = 1 << self._l2_bits
            self._file.seek(table_at)
            table = struct.unpack(f">{entries}Q", self._file.read(8 * entries))
            self._l2_tables[table_at] = table
        return int(table[number & (1 << self._l2_bits) - 1])

    def _decompress(self, entry: int) -> bytes:
        """Return a cluster's bytes.

        "Compressed Clusters Descriptor": the offset, and how many more 512-byte sectors.
        """
        offset_bits = 62 - (self._bits - 8)
        place = entry & (1 << offset_bits) - 1
        sectors = (entry >> offset_bits & (1 << self._bits - 8) - 1) + 1
        self._file.seek(place)
        data = self._file.read(sectors * 512 - place % 512)
        return zlib.decompressobj(-12).decompress(data, 1 << self._bits)

    def _read_backing(self, offset: int, count: int) -> bytes:
        backing = self._backing
        if backing is None or offset >= backing.size:
            return bytes(count)
        return backing.read(offset, min(count, backing.size - offset)).ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Refuse."""
        raise MediumError("qcow2 images are only read")

    def flush(self) -> None:
        """Nothing is written."""
