"""An ATA disk: ATA/ATAPI Command Set, "Command Descriptions"."""

import struct
from collections.abc import Callable
from functools import partial

from turducken.devices.disk.taskfile import (
    ABORTED,
    LBA_MODE,
    NOT_FOUND,
    SECTOR,
    UNCORRECTABLE,
    Completion,
    Taskfile,
    Transfer,
    failure,
)
from turducken.storage import BlockImage, MediumError

HEADS, SECTORS_PER_TRACK, MOST_CYLINDERS = 16, 63, 16383
LEAST_CYLINDERS = 2
"""So that a BIOS finds the first sectors of the smallest disk."""
MOST_MULTIPLE = 16
_MODEL, _FIRMWARE = "TURDUCKEN HARDDISK", "1.0"

# "Command Descriptions": which commands transfer sectors, and how.
_READS = {0x20: False, 0x21: False, 0x24: True, 0xC4: False, 0x29: True, 0xC8: False, 0xC9: False}
_READS |= {0x25: True}
_WRITES = {0x30: False, 0x31: False, 0x34: True, 0xC5: False, 0x39: True, 0xCA: False, 0xCB: False}
_WRITES |= {0x35: True, 0x3D: True}
_DMA = frozenset({0x25, 0xC8, 0xC9, 0x35, 0x3D, 0xCA, 0xCB})
_MULTIPLE = frozenset({0xC4, 0x29, 0xC5, 0x39})
_VERIFIES = {0x40: False, 0x41: False, 0x42: True}
_IDENTIFY, _SET_MULTIPLE, _SET_FEATURES, _SET_GEOMETRY, _DIAGNOSE = 0xEC, 0xC6, 0xEF, 0x91, 0x90
_CHECK_POWER, _NATIVE_MAX, _NATIVE_MAX_EXT = 0xE5, 0xF8, 0x27
_FLUSHES = frozenset({0xE7, 0xEA})
_NOTHING_TO_DO = frozenset({*range(0x10, 0x20), 0x70, 0xE0, 0xE1, 0xE2, 0xE3, 0xE6})
_MOST_LBA_28 = 0x0FFF_FFFF
_FEATURES = frozenset({0x02, 0x03, 0x55, 0x66, 0x82, 0xAA, 0xCC})


def ata_string(text: str, size: int) -> bytes:
    """Return a text as the identify data have it: blanks behind, bytes of each word swapped."""
    padded = text.encode("ascii").ljust(size)[:size]
    return b"".join(padded[at + 1 : at + 2] + padded[at : at + 1] for at in range(0, size, 2))


def words(values: dict[int, int], texts: dict[int, bytes]) -> bytearray:
    """Return the 256 words of identify data."""
    data = bytearray(SECTOR)
    for number, value in values.items():
        struct.pack_into("<H", data, 2 * number, value)
    for number, text in texts.items():
        data[2 * number : 2 * number + len(text)] = text
    return data


class AtaDisk:
    """A disk whose contents are ``image``."""

    signature = 0
    takes_packets = False

    def __init__(self, image: BlockImage, serial: str = "TD00001") -> None:
        self._image = image
        self._serial = serial
        self.sectors = image.size // SECTOR
        cylinders = self.sectors // (HEADS * SECTORS_PER_TRACK)
        self._cylinders = min(max(cylinders, LEAST_CYLINDERS), MOST_CYLINDERS)
        self._geometry = HEADS, SECTORS_PER_TRACK
        self._multiple = MOST_MULTIPLE

    def reset(self) -> None:
        """Forget what SET MULTIPLE and the like have set."""
        self._multiple = MOST_MULTIPLE
        self._geometry = HEADS, SECTORS_PER_TRACK

    def packet(self, command: bytes, limit: int, *, is_dma: bool) -> Completion | Transfer:
        """A disk takes no packets."""
        return failure(ABORTED)

    def execute(self, taskfile: Taskfile) -> Completion | Transfer:
        """Begin a command."""
        command = taskfile.command
        if command in _READS:
            return self._transfer(taskfile, is_48bit=_READS[command], is_read=True)
        if command in _WRITES:
            return self._transfer(taskfile, is_48bit=_WRITES[command], is_read=False)
        if command in _VERIFIES:
            first, count = self._extent(taskfile, is_48bit=_VERIFIES[command])
            return Completion() if self._has(first, count) else failure(NOT_FOUND)
        if command in _FLUSHES:
            return self._flush()
        if command in _NOTHING_TO_DO:
            return Completion()
        other = _OTHERS.get(command)
        return failure(ABORTED) if other is None else other(self, taskfile)

    # -- sectors -----------------------------------------------------------------------------------

    def _extent(self, taskfile: Taskfile, *, is_48bit: bool) -> tuple[int, int]:
        """Return the first sector and the number of sectors."""
        if is_48bit:
            return taskfile.lba, taskfile.count or 0x1_0000
        count = taskfile.count & 0xFF or 0x100
        head = taskfile.device & 0x0F
        low = taskfile.lba & 0xFF_FFFF
        if taskfile.device & LBA_MODE:
            return head << 24 | low, count
        heads, per_track = self._geometry
        number, cylinder = low & 0xFF, low >> 8
        return (cylinder * heads + head) * per_track + number - 1, count

    def _has(self, first: int, count: int) -> bool:
        return first >= 0 and first + count <= self.sectors

    def _transfer(
        self, taskfile: Taskfile, *, is_48bit: bool, is_read: bool
    ) -> Completion | Transfer:
        first, count = self._extent(taskfile, is_48bit=is_48bit)
        if not self._has(first, count):
            return failure(NOT_FOUND)
        command = taskfile.command
        if command in _MULTIPLE and not self._multiple:
            return failure(ABORTED)
        block = SECTOR * self._multiple if command in _MULTIPLE else SECTOR
        is_dma = command in _DMA
        if is_read:
            try:
                data = bytearray(self._image.read(first * SECTOR, count * SECTOR))
            except MediumError:
                return failure(UNCORRECTABLE)
            return Transfer(True, data, block, is_dma=is_dma)
        if not self._image.is_writable:
            return failure(ABORTED)

        commit = partial(self._write, first)
        return Transfer(False, bytearray(count * SECTOR), block, commit, is_dma=is_dma)

    def _write(self, first: int, data: bytes) -> int:
        try:
            self._image.write(first * SECTOR, data)
        except MediumError:
            return UNCORRECTABLE
        return 0

    def _flush(self) -> Completion:
        try:
            self._image.flush()
        except MediumError:
            return failure(UNCORRECTABLE)
        return Completion()

    # -- the rest ----------------------------------------------------------------------------------

    def _set_multiple(self, taskfile: Taskfile) -> Completion:
        count = taskfile.count & 0xFF
        if count > MOST_MULTIPLE or count & count - 1:
            self._multiple = 0
            return failure(ABORTED)
        self._multiple = count
        return Completion()

    def _set_features(self, taskfile: Taskfile) -> Completion:
        return Completion() if taskfile.features & 0xFF in _FEATURES else failure(ABORTED)

    def _set_geometry(self, taskfile: Taskfile) -> Completion:
        self._geometry = (taskfile.device & 0x0F) + 1, taskfile.count & 0xFF or 0x100
        return Completion()

    def _native_max(self, taskfile: Taskfile) -> Completion:
        last = self.sectors - 1
        if taskfile.command == _NATIVE_MAX_EXT:
            return Completion(registers={"lba": last})
        last = min(last, _MOST_LBA_28)
        return Completion(registers={"lba": last & 0xFF_FFFF, "device_low": last >> 24})

    def _identify(self, _taskfile: Taskfile) -> Transfer:
        """Return the words of "IDENTIFY DEVICE" that software looks at."""
        chs = self._cylinders * HEADS * SECTORS_PER_TRACK
        lba28 = min(self.sectors, _MOST_LBA_28)
        values = {
            0: 0x0040,  # a fixed disk
            1: self._cylinders,
            3: HEADS,
            6: SECTORS_PER_TRACK,
            47: 0x8000 | MOST_MULTIPLE,
            48: 1,
            49: 0x0F00,  # LBA, DMA, IORDY
            51: 0x0200,
            53: 7,
            54: self._cylinders,
            55: HEADS,
            56: SECTORS_PER_TRACK,
            57: chs & 0xFFFF,
            58: chs >> 16,
            59: 0x0100 | self._multiple,
            60: lba28 & 0xFFFF,
            61: lba28 >> 16,
            63: 0x0007,
            64: 0x0003,
            65: 120,
            66: 120,
            67: 120,
            68: 120,
            80: 0x00F0,  # ATA/ATAPI-4 to 7
            82: 0x4000,
            83: 0x7400,  # 48-bit addresses, FLUSH CACHE
            84: 0x4000,
            85: 0x4000,
            86: 0x3400,
            87: 0x4000,
            88: 0x203F,  # UDMA 5 chosen
            93: 0x6001,
            **{100 + part: self.sectors >> 16 * part & 0xFFFF for part in range(4)},
        }
        texts = {
            10: ata_string(self._serial, 20),
            23: ata_string(_FIRMWARE, 8),
            27: ata_string(_MODEL, 40),
        }
        return Transfer(True, words(values, texts))


_OTHERS: dict[int, Callable[[AtaDisk, Taskfile], Completion | Transfer]] = {
    _IDENTIFY: AtaDisk._identify,
    _SET_MULTIPLE: AtaDisk._set_multiple,
    _SET_FEATURES: AtaDisk._set_features,
    _SET_GEOMETRY: AtaDisk._set_geometry,
    _DIAGNOSE: lambda _disk, _taskfile: Completion(error=1),
    _CHECK_POWER: lambda _disk, _taskfile: Completion(registers={"count": 0xFF}),
    _NATIVE_MAX: AtaDisk._native_max,
    _NATIVE_MAX_EXT: AtaDisk._native_max,
}
