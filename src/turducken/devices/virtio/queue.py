"""Split virtqueues: VIRTIO 1.2, "Split Virtqueues". Everything in them is the guest's."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from turducken.memory import Memory

LARGEST = 256
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
_DESCRIPTOR = struct.Struct("<QIHH")
_MOST_BYTES = 64 << 20
"""A request may be as long as this; what a guest asks for beyond it is left out."""


@dataclass(slots=True)
class Chain:
    """A request: its descriptors' ``(address, length)``, those to read before those to write."""

    head: int
    readable: list[tuple[int, int]] = field(default_factory=list)
    writable: list[tuple[int, int]] = field(default_factory=list)

    @property
    def room(self) -> int:
        """How many bytes may be written."""
        return sum(length for _, length in self.writable)


@dataclass(slots=True)
class Virtqueue:
    """One queue: what the driver has set up, and how far the device has come."""

    size: int = LARGEST
    enabled: bool = False
    descriptors: int = 0
    driver: int = 0
    device: int = 0
    seen: int = 0
    used: int = 0

    def reset(self) -> None:
        """Forget everything."""
        self.size, self.enabled = LARGEST, False
        self.descriptors = self.driver = self.device = self.seen = self.used = 0

    def requests(self, memory: Memory) -> Iterator[Chain]:
        """Yield the requests that the driver has made available, at most a queue full of them."""
        for _ in range(self.size):
            available = _word(memory, self.driver + 2)
            if available == self.seen:
                return
            head = _word(memory, self.driver + 4 + 2 * (self.seen % self.size))
            self.seen = self.seen + 1 & 0xFFFF
            yield self._chain(memory, head)

    def _chain(self, memory: Memory, head: int) -> Chain:
        chain = Chain(head)
        table, size, number = self.descriptors, self.size, head
        total = 0
        for _ in range(self.size + 1):
            if number >= size:
                break
            place = table + _DESCRIPTOR.size * number
            address, length, flags, following = _DESCRIPTOR.unpack(
                memory.read(place, _DESCRIPTOR.size)
            )
            if flags & _INDIRECT and table == self.descriptors:
                table, size, number = address, min(length // _DESCRIPTOR.size, LARGEST), 0
                continue
            total += length
            if total > _MOST_BYTES:
                break
            (chain.writable if flags & _WRITE else chain.readable).append((address, length))
            if not flags & _NEXT:
                break
            number = following
        return chain

    def complete(self, memory: Memory, chain: Chain, written: int) -> None:
        """Give a request back, with ``written`` bytes in it."""
        place = self.device + 4 + 8 * (self.used % self.size)
        memory.write(place, struct.pack("<II", chain.head, written))
        self.used = self.used + 1 & 0xFFFF
        memory.write(self.device + 2, struct.pack("<H", self.used))

    def wants_interrupt(self, memory: Memory) -> bool:
        """Whether the driver wants to be told of what was completed."""
        return not _word(memory, self.driver) & _NO_INTERRUPT


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 2), "little")


def gather(memory: Memory, parts: list[tuple[int, int]]) -> bytes:
    """Return what is in parts of memory."""
    return b"".join(memory.read(address, length) for address, length in parts)


def scatter(memory: Memory, parts: list[tuple[int, int]], data: bytes) -> int:
    """Write to parts of memory what fits there; return how much that was."""
    done = 0
    for address, length in parts:
        piece = data[done : done + length]
        memory.write(address, piece)
        done += len(piece)
    return done
