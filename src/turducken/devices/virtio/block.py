"""A virtio block device: VIRTIO 1.2, "Block Device"."""

import struct

from turducken.devices.virtio.function import VirtioFunction
from turducken.devices.virtio.queue import Chain, gather, scatter
from turducken.memory import Memory
from turducken.storage import BlockImage, MediumError

_KIND = 2
_MASS_STORAGE = 0x010000
_READ_ONLY, _FLUSH_FEATURE = 1 << 5, 1 << 9
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_SECTOR = 512
_HEADER = struct.Struct("<IIQ")


class VirtioBlock(VirtioFunction):
    """A disk whose contents are ``image``."""

    def __init__(self, image: BlockImage, memory: Memory, serial: str = "TD00001") -> None:
        self._image = image
        self._serial = serial.encode("ascii")[:20].ljust(20, b"\0")
        features = _FLUSH_FEATURE | (0 if image.is_writable else _READ_ONLY)
        super().__init__(_KIND, _MASS_STORAGE, memory, 1, features)

    def configuration(self) -> bytes:
        """Return the capacity in sectors, and nothing of what was not negotiated."""
        return struct.pack("<Q", self._image.size // _SECTOR).ljust(64, b"\0")

    def notified(self, number: int) -> None:
        """Execute the requests of the queue."""
        queue, done = self.queues[number], False
        for chain in queue.requests(self.memory):
            queue.complete(self.memory, chain, self._execute(chain))
            done = True
        if done and queue.wants_interrupt(self.memory):
            self.raise_queue_interrupt()

    def _execute(self, chain: Chain) -> int:
        """Execute a request; return how many bytes were written to it."""
        room = chain.room
        if not room:
            return 0
        sent = gather(self.memory, chain.readable)
        if len(sent) < _HEADER.size:
            return self._finish(chain, b"", _IO_ERROR)
        kind, _, sector = _HEADER.unpack_from(sent)
        try:
            data = self._data(kind, sector * _SECTOR, room - 1, sent[_HEADER.size :])
        except MediumError:
            return self._finish(chain, b"", _IO_ERROR)
        return self._finish(chain, data or b"", _UNSUPPORTED if data is None else _OK)

    def _data(self, kind: int, offset: int, room: int, sent: bytes) -> bytes | None:
        """Do what a request says; return its data, None where it is not known."""
        if kind == _IN:
            self._check(offset, room)
            return self._image.read(offset, room)
        if kind == _OUT:
            self._check(offset, len(sent))
            self._image.write(offset, sent)
            return b""
        if kind == _FLUSH:
            self._image.flush()
            return b""
        return self._serial[:room] if kind == _GET_ID else None

    def _check(self, offset: int, length: int) -> None:
        if length % _SECTOR or offset + length > self._image.size:
            raise MediumError("beyond the end")

    def _finish(self, chain: Chain, data: bytes, status: int) -> int:
        """Write data, and the status to the last byte that may be written."""
        written = scatter(self.memory, chain.writable, data)
        address, length = next(one for one in reversed(chain.writable) if one[1])
        self.memory.write(address + length - 1, bytes([status]))
        return written + 1
