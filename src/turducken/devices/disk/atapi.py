"""An ATAPI CD-ROM drive: ATA/ATAPI Command Set, "PACKET", and the MMC commands that it takes."""

import struct
from collections.abc import Callable

from turducken.devices.disk.ata import ata_string, words
from turducken.devices.disk.taskfile import (
    ABORTED,
    ERR,
    READY,
    SEEK,
    Completion,
    Taskfile,
    Transfer,
    failure,
)
from turducken.storage import BlockImage, MediumError

CD_SECTOR = 2048
PACKET_SIZE = 12
_MODEL, _FIRMWARE = "TURDUCKEN CD-ROM", "1.0"
_IDENTIFY_PACKET, _IDENTIFY, _RESET, _SET_FEATURES, _DIAGNOSE = 0xA1, 0xEC, 0x08, 0xEF, 0x90
_NOTHING_TO_DO = frozenset({0x00, 0xE0, 0xE1, 0xE2, 0xE3, 0xE5, 0xE6})

_REQUEST_SENSE = 0x03
_NO_SENSE, _MEDIUM_ERROR, _ILLEGAL_REQUEST = 0, 3, 5
_UNRECOVERED, _BAD_COMMAND, _OUT_OF_RANGE, _BAD_FIELD = 0x11, 0x20, 0x21, 0x24
_LEAD_OUT = 0xAA
_DATA_TRACK = 0x14
_MSF_FRAMES = 75
_LEAD_IN_FRAMES = 150


class AtapiCdrom:
    """A CD-ROM drive with ``image`` (sectors of 2048 bytes) in it."""

    signature = 0xEB1401
    takes_packets = True

    def __init__(self, image: BlockImage) -> None:
        self._image = image
        self.sectors = image.size // CD_SECTOR
        self._sense = _NO_SENSE, 0

    def reset(self) -> None:
        """Forget the last error."""
        self._sense = _NO_SENSE, 0

    def execute(self, taskfile: Taskfile) -> Completion | Transfer:
        """Begin a command other than PACKET."""
        command = taskfile.command
        if command == _IDENTIFY_PACKET:
            return Transfer(True, self._identify())
        if command in (_IDENTIFY, _RESET):
            # "IDENTIFY DEVICE": a packet device aborts it, with its signature.
            error = ABORTED if command == _IDENTIFY else 0
            status = READY | ERR if error else 0
            return Completion(status, error or 1, {"lba": self.signature, "count": 1})
        if command == _DIAGNOSE:
            return Completion(0, 1, {"lba": self.signature, "count": 1})
        if command in _NOTHING_TO_DO or command == _SET_FEATURES:
            return Completion()
        return failure(ABORTED)

    def packet(self, command: bytes, limit: int, *, is_dma: bool) -> Completion | Transfer:
        """Begin a packet command."""
        if command[0] != _REQUEST_SENSE:
            self._sense = _NO_SENSE, 0
        operation = _PACKETS.get(command[0])
        if operation is None:
            self._refuse(_ILLEGAL_REQUEST, _BAD_COMMAND)
        data = None if operation is None else operation(self, command)
        if data is None:
            return Completion(READY | SEEK | ERR, self._sense[0] << 4 | ABORTED, {"count": 3})
        if not data:
            return Completion(registers={"count": 3})
        block = max(limit & ~1, 2)
        return Transfer(True, bytearray(data), block, is_dma=is_dma)

    def _refuse(self, key: int, code: int) -> None:
        """Remember why a packet command fails."""
        self._sense = key, code

    def _do_nothing(self, _packet: bytes) -> bytes:
        return b""

    # -- sectors -----------------------------------------------------------------------------------

    def _capacity(self, _packet: bytes) -> bytes:
        return struct.pack(">II", self.sectors - 1, CD_SECTOR)

    def _read_10(self, packet: bytes) -> bytes | None:
        return self._read(*struct.unpack(">IxH", packet[2:9]))

    def _read_12(self, packet: bytes) -> bytes | None:
        return self._read(*struct.unpack(">II", packet[2:10]))

    def _read(self, first: int, count: int) -> bytes | None:
        if first + count > self.sectors:
            self._refuse(_ILLEGAL_REQUEST, _OUT_OF_RANGE)
            return None
        try:
            return self._image.read(first * CD_SECTOR, count * CD_SECTOR)
        except MediumError:
            self._refuse(_MEDIUM_ERROR, _UNRECOVERED)
            return None

    def _read_cd(self, packet: bytes) -> bytes | None:
        first, count = struct.unpack(">I", packet[2:6])[0], int.from_bytes(packet[6:9], "big")
        if packet[9] & 0xF8 not in (0x00, 0x10):  # only user data
            self._refuse(_ILLEGAL_REQUEST, _BAD_FIELD)
            return None
        return self._read(first, count) if packet[9] else b""

    # -- what the drive says of itself -------------------------------------------------------------

    def _request_sense(self, packet: bytes) -> bytes:
        key, code = self._sense
        self._sense = _NO_SENSE, 0
        return struct.pack(">BxBIB4xBB4x", 0x70, key, 0, 10, code, 0)[: packet[4]]

    def _inquiry(self, packet: bytes) -> bytes:
        data = struct.pack(">BBBBB3x8s16s4s", 5, 0x80, 0, 0x21, 31, b"TURDUCKN", b"CD-ROM", b"1.0")
        return data[: int.from_bytes(packet[3:5], "big")]

    def _mode_page(self, packet: bytes) -> bytes | None:
        page = packet[2] & 0x3F
        pages = {
            0x01: bytes((0x01, 6, 0, 5, 0, 0, 0, 0)),
            0x2A: bytes((0x2A, 18, 0, 0, 0x71, 0x60, 0x2B, 0)) + bytes(12),
        }
        if page == 0x3F:
            return b"".join(pages.values())
        if page not in pages:
            self._refuse(_ILLEGAL_REQUEST, _BAD_FIELD)
        return pages.get(page)

    def _mode_sense_10(self, packet: bytes) -> bytes | None:
        page = self._mode_page(packet)
        if page is None:
            return None
        data = struct.pack(">HB5x", 6 + len(page), 0) + page
        return data[: int.from_bytes(packet[7:9], "big")]

    def _mode_sense_6(self, packet: bytes) -> bytes | None:
        page = self._mode_page(packet)
        return None if page is None else (bytes((3 + len(page), 0, 0, 0)) + page)[: packet[4]]

    def _configuration(self, _packet: bytes) -> bytes:
        """No features, and the profile of a CD-ROM."""
        return struct.pack(">IHH", 4, 0, 8)

    def _mechanism_status(self, _packet: bytes) -> bytes:
        return bytes(8)

    def _event_status(self, packet: bytes) -> bytes | None:
        if not packet[1] & 1:
            self._refuse(_ILLEGAL_REQUEST, _BAD_FIELD)
            return None
        data = bytes((0, 6, 4, 0x10, 0, 2, 0, 0))  # nothing new of the medium, which is there
        return data[: int.from_bytes(packet[7:9], "big")]

    def _disc_information(self, packet: bytes) -> bytes:
        data = struct.pack(">HBBBBBB", 32, 0x0E, 1, 1, 1, 1, 0x20).ljust(34, b"\0")
        return data[: int.from_bytes(packet[7:9], "big")]

    def _address(self, sector: int, *, is_msf: bool) -> bytes:
        if not is_msf:
            return struct.pack(">I", sector)
        seconds, frame = divmod(sector + _LEAD_IN_FRAMES, _MSF_FRAMES)
        minutes, second = divmod(seconds, 60)
        return bytes((0, minutes & 0xFF, second, frame))

    def _read_toc(self, packet: bytes) -> bytes | None:
        """One data track, and the lead-out."""
        is_msf = bool(packet[1] & 2)
        kind = packet[2] & 0x0F or packet[9] >> 6
        if kind == 1:
            data = struct.pack(">HBBBBBx", 10, 1, 1, 0, _DATA_TRACK, 1)
            data += self._address(0, is_msf=is_msf)
        elif kind == 0:
            tracks = [(1, 0), (_LEAD_OUT, self.sectors)]
            if packet[6] > 1:
                tracks = tracks[1:]
            entries = b"".join(
                bytes((0, _DATA_TRACK, track, 0)) + self._address(sector, is_msf=is_msf)
                for track, sector in tracks
            )
            data = struct.pack(">HBB", 2 + len(entries), 1, 1) + entries
        else:
            self._refuse(_ILLEGAL_REQUEST, _BAD_FIELD)
            return None
        return data[: int.from_bytes(packet[7:9], "big")]

    def _identify(self) -> bytearray:
        """Return the words of "IDENTIFY PACKET DEVICE" that software looks at."""
        values = {0: 0x8580, 49: 0x0F00, 53: 7, 63: 0x0007, 64: 3, 65: 120, 66: 120, 67: 120}
        values |= {68: 120, 80: 0x00F0, 82: 0x4010, 83: 0x4000, 84: 0x4000, 88: 0x203F, 93: 0x6001}
        texts = {10: ata_string("TD00CD1", 20), 23: ata_string(_FIRMWARE, 8)}
        return words(values, texts | {27: ata_string(_MODEL, 40)})


_PACKETS: dict[int, Callable[[AtapiCdrom, bytes], bytes | None]] = {
    0x00: AtapiCdrom._do_nothing,  # TEST UNIT READY
    _REQUEST_SENSE: AtapiCdrom._request_sense,
    0x12: AtapiCdrom._inquiry,
    0x1A: AtapiCdrom._mode_sense_6,
    0x1B: AtapiCdrom._do_nothing,  # START STOP UNIT
    0x1E: AtapiCdrom._do_nothing,  # PREVENT ALLOW MEDIUM REMOVAL
    0x25: AtapiCdrom._capacity,
    0x28: AtapiCdrom._read_10,
    0x2B: AtapiCdrom._do_nothing,  # SEEK
    0x43: AtapiCdrom._read_toc,
    0x46: AtapiCdrom._configuration,
    0x4A: AtapiCdrom._event_status,
    0x51: AtapiCdrom._disc_information,
    0x5A: AtapiCdrom._mode_sense_10,
    0xA8: AtapiCdrom._read_12,
    0xBD: AtapiCdrom._mechanism_status,
    0xBE: AtapiCdrom._read_cd,
}
"""The packet commands: each returns its data (b"": it has none), or None where it fails."""
