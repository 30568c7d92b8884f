"""Linear memory as the processor's own steps use it: delivery, descriptors, operands.

Everything goes through the MMU as an access of the guest's would, and fails as one would.
"""

from typing import Protocol

from turducken.address import PAGE_SIZE
from turducken.memory import PhysicalMemory
from turducken.mmu.faults import Fault
from turducken.mmu.mmu import Access, Mmu
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.mmu.tlb import Mapping


class Devices(Protocol):
    """Where accesses go that do not reach RAM."""

    def mmio_read(self, address: int, size: int) -> int:
        """Read a host-physical address that is not RAM."""

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write a host-physical address that is not RAM."""


_WIDEST = 8
"""Bytes of one access to a device's memory."""


class LinearMemory:
    """Reads and writes by linear address; ``user`` is false for implicit supervisor accesses."""

    def __init__(self, mmu: Mmu, memory: PhysicalMemory, devices: Devices) -> None:
        self._mmu = mmu
        self._memory = memory
        self._devices = devices

    def physical(
        self, address: int, kind: int, *, user: bool = False, ac: bool = False
    ) -> int | Fault:
        """Return the host-physical address of linear ``address`` for an access of ``kind``.

        Addresses wrap at 4 GiB where the mode has no larger ones.
        """
        address &= 0xFFFF_FFFF if self._mmu.has_32bit_addresses else 0xFFFF_FFFF_FFFF_FFFF
        found = self._mmu.translate(Access(address, kind, user, ac))
        if isinstance(found, Mapping):
            return found.page | address & ((1 << found.shift) - 1)
        return found

    def read(
        self, address: int, length: int, *, user: bool = False, ac: bool = False
    ) -> bytes | Fault:
        """Return ``length`` bytes (at most a few pages), or the fault of the first that fails."""
        return self._read(address, length, READ, user=user, ac=ac)

    def fetch(self, address: int, length: int, *, user: bool) -> bytes | Fault:
        """Return up to ``length`` instruction bytes: fewer where a following page faults."""
        found = self._read(address, min(length, PAGE_SIZE - address % PAGE_SIZE), FETCH, user=user)
        if not isinstance(found, bytes) or len(found) == length:
            return found
        rest = self._read(address + len(found), length - len(found), FETCH, user=user)
        return found + rest if isinstance(rest, bytes) else found

    def _read(
        self, address: int, length: int, kind: int, *, user: bool, ac: bool = False
    ) -> bytes | Fault:
        parts: list[bytes] = []
        for part, count in _pages(address, length):
            place = self.physical(part, kind, user=user, ac=ac)
            if not isinstance(place, int):
                return place
            parts.append(self._load(place, count))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_check(
        self, address: int, length: int, *, user: bool, ac: bool = False
    ) -> Fault | None:
        """Return the fault that a write would meet, or None."""
        for part, _ in _pages(address, length):
            place = self.physical(part, WRITE, user=user, ac=ac)
            if not isinstance(place, int):
                return place
        return None

    def write(
        self, address: int, data: bytes, *, user: bool = False, ac: bool = False
    ) -> Fault | None:
        """Write ``data``; nothing is written when any page of it faults."""
        places: list[tuple[int, int]] = []
        for part, count in _pages(address, len(data)):
            place = self.physical(part, WRITE, user=user, ac=ac)
            if not isinstance(place, int):
                return place
            places.append((place, count))
        done = 0
        for place, count in places:
            self._store(place, data[done : done + count])
            done += count
        return None

    def _load(self, place: int, count: int) -> bytes:
        if self._memory.is_readable(place, count):
            return self._memory.read(place, count)
        parts = (
            self._devices.mmio_read(place + at, min(_WIDEST, count - at)).to_bytes(
                _WIDEST, "little"
            )
            for at in range(0, count, _WIDEST)
        )
        return b"".join(parts)[:count]

    def _store(self, place: int, data: bytes) -> None:
        if self._memory.is_ram(place, len(data)):
            self._memory.write(place, data)
            return
        for at in range(0, len(data), _WIDEST):
            part = data[at : at + _WIDEST]
            self._devices.mmio_write(place + at, len(part), int.from_bytes(part, "little"))


def _pages(address: int, length: int) -> list[tuple[int, int]]:
    """Split a run of bytes at page boundaries: ``(address, count)``."""
    first = PAGE_SIZE - address % PAGE_SIZE
    if length <= first:
        return [(address, length)]
    parts = [(address, first)]
    parts.extend(
        (address + done, min(PAGE_SIZE, length - done)) for done in range(first, length, PAGE_SIZE)
    )
    return parts
