"""The machine's RAM and ROM: real bytes, shared by processors, hypervisor, devices and tools.

RAM below the 32-bit device hole and RAM above 4 GiB are one lazily backed mapping, so that a
machine with many GiB costs only the pages that are touched. A ROM ends at 4 GiB.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turducken.address import GIB, PAGE_SHIFT, PAGE_SIZE, Hpa

LOW_LIMIT = 3 * GIB
"""RAM stops here; device registers follow up to 4 GiB, and the rest of the RAM after that."""

HIGH_BASE = 4 * GIB

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Asks for addresses without memory behind them. Python knows the flag by name only since 3.13."""

EMPTY_BUS = 0xFF
"""What a byte reads as where there is no memory."""


@dataclass(frozen=True, slots=True)
class RamRegion:
    """A run of RAM: ``size`` bytes at host-physical ``base``, stored from ``offset`` on."""

    base: Hpa
    size: int
    offset: int


def _regions(size: int) -> tuple[RamRegion, ...]:
    low = RamRegion(Hpa(0), min(size, LOW_LIMIT), 0)
    if size <= LOW_LIMIT:
        return (low,)
    return (low, RamRegion(Hpa(HIGH_BASE), size - LOW_LIMIT, LOW_LIMIT))


class WriteWatch:
    """The frames whose writes one observer wants to learn of."""

    def __init__(
        self, watches: "list[WriteWatch]", watched: set[int], observer: Callable[[int, int], None]
    ) -> None:
        self._watches = watches
        self._watched = watched
        self.observer = observer
        self.frames: set[int] = set()

    def add(self, frame: int) -> None:
        """Learn of writes to a frame from now on."""
        self.frames.add(frame)
        self._watched.add(frame)

    def discard(self, frame: int) -> None:
        """Want to know no more of a frame."""
        self.frames.discard(frame)
        if all(frame not in one.frames for one in self._watches):
            self._watched.discard(frame)


class PhysicalMemory:
    """``size`` bytes of RAM (a multiple of 4 KiB), addressed by host-physical address.

    ``rom`` (whole pages, less than the device hole) can be read up to 4 GiB and is never written;
    ``rom_region`` is where it is. Reads where there is neither give all ones and writes there are
    lost, as on an empty bus. `watch_writes` registers an observer that learns of every write made
    through this object (by hypervisor, devices and tools; processors write natively) to a page it
    has marked.
    """

    def __init__(self, size: int, rom: bytes = b"") -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"RAM size {size:#x} is not a positive multiple of 4 KiB")
        if len(rom) % PAGE_SIZE or len(rom) >= HIGH_BASE - LOW_LIMIT:
            raise ValueError(f"a ROM of {len(rom):#x} bytes does not fit below 4 GiB")
        self.size = size
        self.regions = _regions(size)
        self.rom_region = RamRegion(Hpa(HIGH_BASE - len(rom)), len(rom), size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._map = mmap.mmap(-1, size + len(rom), flags=flags)
        self._map[size:] = rom
        self.bytes = memoryview(self._map)[:size]
        self.words = self.bytes.cast("Q")
        self._low_size = self.regions[0].size
        self._watched: set[int] = set()
        self._watches: list[WriteWatch] = []

    @property
    def host_pointer(self) -> int:
        """The address, in this process, of the first byte of RAM (for the engine's mapping)."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def watch_writes(self, observer: Callable[[int, int], None]) -> WriteWatch:
        """Let ``observer(address, length)`` see writes to the frames that are added to the result.

        A write reaches into one frame only: longer ones are told piece by piece.
        """
        watch = WriteWatch(self._watches, self._watched, observer)
        self._watches.append(watch)
        return watch

    def offset_of(self, address: int) -> int | None:
        """Return where the byte at ``address`` is stored, or None if it is not RAM."""
        if 0 <= address < self._low_size:
            return address
        offset = address - HIGH_BASE + LOW_LIMIT
        return offset if address >= HIGH_BASE and offset < self.size else None

    def readable_offset(self, address: int) -> int | None:
        """Return where the byte at ``address`` is stored, or None if it is neither RAM nor ROM."""
        rom = self.rom_region
        if rom.base <= address < HIGH_BASE:
            return rom.offset + address - rom.base
        return self.offset_of(address)

    def is_readable(self, address: int, length: int = 1) -> bool:
        """Tell whether all of ``length`` bytes at host-physical ``address`` are RAM, or all ROM."""
        if 0 <= address <= self._low_size - length:
            return True
        return self.is_ram(address, length) or self.is_rom(address, length)

    def is_rom(self, address: int, length: int = 1) -> bool:
        """Tell whether all of ``length`` bytes at host-physical ``address`` are ROM."""
        return self.rom_region.base <= address <= HIGH_BASE - length

    def is_ram(self, address: int, length: int = 1) -> bool:
        """Tell whether all of ``length`` bytes at host-physical ``address`` are RAM."""
        if 0 <= address <= self._low_size - length:
            return True
        first, last = self.offset_of(address), self.offset_of(address + length - 1)
        return first is not None and last is not None and last - first == length - 1

    def find(self, pattern: bytes, start: int = 0) -> int | None:
        """Return the first address from ``start`` on at which RAM has these bytes, or None."""
        at = self.offset_of(start)
        if at is None:
            at = self._low_size if self._low_size <= start < HIGH_BASE else self.size
        found = self._map.find(pattern, at)
        if found < 0:
            return None
        return found if found < self._low_size else found - LOW_LIMIT + HIGH_BASE

    def load(self, address: int, size: int) -> int:
        """Return the naturally aligned little-endian word of ``size`` (1 to 8) bytes."""
        if size == 8 and 0 <= address < self._low_size:
            return self.words[address >> 3]
        return int.from_bytes(self.read(address, size), "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Replace the naturally aligned little-endian word of ``size`` (1 to 8) bytes."""
        if size == 8 and 0 <= address < self._low_size:
            self.words[address >> 3] = value
            if address >> PAGE_SHIFT in self._watched:
                self._tell(address, 8)
            return
        self.write(address, value.to_bytes(size, "little"))

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at host-physical ``address``; all ones where nothing is."""
        if address >= 0 and address + length <= self._low_size:
            return bytes(self.bytes[address : address + length])
        return b"".join(
            bytes([EMPTY_BUS]) * count if offset is None else self._map[offset : offset + count]
            for offset, count in self._runs(address, length, self.readable_offset)
        )

    def write(self, address: int, data: bytes) -> None:
        """Replace bytes at host-physical ``address``; what is not RAM is lost."""
        done = 0
        for offset, count in self._runs(address, len(data), self.offset_of):
            if offset is not None:
                self.bytes[offset : offset + count] = data[done : done + count]
                if address + done >> PAGE_SHIFT in self._watched:
                    self._tell(address + done, count)
            done += count

    def _tell(self, address: int, count: int) -> None:
        frame = address >> PAGE_SHIFT
        for one in self._watches:
            if frame in one.frames:
                one.observer(address, count)

    @staticmethod
    def _runs(
        address: int, length: int, offset_of: Callable[[int], int | None]
    ) -> Iterator[tuple[int | None, int]]:
        """Split a range into runs inside one region (or one hole): ``(offset, count)``."""
        while length > 0:
            offset = offset_of(address)
            count = min(length, PAGE_SIZE - address % PAGE_SIZE)
            yield offset, count
            address += count
            length -= count
