"""L0's private memory: a region of RAM that no guest can reach, handed out in 4-KiB frames."""

from typing import Protocol

from turducken.address import PAGE_SIZE, Hpa
from turducken.memory import PhysicalMemory

_ZEROS = bytes(PAGE_SIZE)


class OutOfFramesError(Exception):
    """The private region is used up: it was made too small for what it has to hold."""


class FrameSource(Protocol):
    """Where tables take their frames from."""

    def allocate(self) -> Hpa:
        """Return a frame of zeros; `OutOfFramesError` where there is none left."""

    def free(self, frame: int) -> None:
        """Take a frame back."""


class FrameAllocator:
    """Hands out zeroed frames of the private ``region`` (host-physical, 4-KiB aligned)."""

    def __init__(self, memory: PhysicalMemory, region: range) -> None:
        if region.start % PAGE_SIZE or region.stop % PAGE_SIZE or not len(region):
            raise ValueError(f"private region {region} is not made of whole frames")
        if not memory.is_ram(region.start, len(region)):
            raise ValueError(f"private region {region} is not RAM")
        self.region = region
        self.in_use = 0
        self.peak = 0
        self._memory = memory
        self._next = region.start
        self._free: list[int] = []

    @property
    def available(self) -> int:
        """Number of frames that are free."""
        return len(self._free) + (self.region.stop - self._next) // PAGE_SIZE

    @property
    def untouched(self) -> range:
        """The part of the region that has never been handed out."""
        return range(self._next, self.region.stop)

    def allocate(self) -> Hpa:
        """Return a frame of zeros; `OutOfFramesError` where there is none left."""
        if self._free:
            frame = self._free.pop()
        else:
            frame = self._next
            if frame >= self.region.stop:
                raise OutOfFramesError(f"all {len(self.region) // PAGE_SIZE} frames are in use")
            self._next += PAGE_SIZE
        self._count(1)
        self._memory.write(frame, _ZEROS)
        return Hpa(frame)

    def allocate_run(self, count: int) -> Hpa:
        """Return the first of ``count`` frames that lie together; they are never given back."""
        first = self._next
        if first + count * PAGE_SIZE > self.region.stop:
            raise OutOfFramesError(f"no {count} frames together are free")
        self._next += count * PAGE_SIZE
        self._count(count)
        self._memory.write(first, bytes(count * PAGE_SIZE))
        return Hpa(first)

    def free(self, frame: int) -> None:
        """Take a frame back."""
        self._free.append(frame)
        self.in_use -= 1

    def _count(self, frames: int) -> None:
        self.in_use += frames
        self.peak = max(self.peak, self.in_use)


class FrameShare:
    """At most ``limit`` frames of an allocator, for one user of it."""

    def __init__(self, frames: FrameAllocator, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.peak = 0
        self._frames = frames

    def allocate(self) -> Hpa:
        """Return a frame of zeros; `OutOfFramesError` where the share is used up."""
        if self.in_use >= self.limit:
            raise OutOfFramesError(f"all {self.limit} frames of the share are in use")
        frame = self._frames.allocate()
        self.in_use += 1
        self.peak = max(self.peak, self.in_use)
        return frame

    def free(self, frame: int) -> None:
        """Take a frame back."""
        self._frames.free(frame)
        self.in_use -= 1
