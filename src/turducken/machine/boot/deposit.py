"""Filling memory before an image starts: segments, files and small structures beside each other."""

import struct
from collections.abc import Sequence

from turducken.address import MIB, PAGE_SIZE
from turducken.machine.boot.elf import Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.placement import Placement
from turducken.machine.firmware.memory_map import MemoryMap
from turducken.memory import Memory

STACK_SIZE = PAGE_SIZE
_STACK_SLACK = 16
_ZEROS = bytes(MIB)


class Deposit:
    """``memory``, what of it is available, and what has been put there.

    ``reserve`` is kept from the image. ``memory_is_zero`` says that RAM above 1 MiB reads as zero,
    as in a machine that has just been switched on: then large zero-filled segments cost nothing.
    All addresses are physical.
    """

    def __init__(
        self,
        memory: Memory,
        memory_map: MemoryMap,
        reserve: Sequence[range] = (),
        *,
        memory_is_zero: bool = True,
    ) -> None:
        self.memory = memory
        self.map = memory_map.without(reserve)
        self.placement = Placement(self.map)
        self._reserve = reserve
        self._memory_is_zero = memory_is_zero

    # -- what goes where it says -------------------------------------------------------------------

    def misfit(self, segments: Sequence[Segment]) -> Segment | None:
        """Return the first segment that is not in available memory."""
        for one in segments:
            if not self.map.is_available(one.address, one.end):
                return one
        return None

    def complaint(self, name: str, segment: Segment) -> str:
        """Return what is wrong with a segment's place, for the user."""
        top = max((one.end for one in self.map.available), default=0)
        place = f"{name}: needs memory {segment.address:#x} to {segment.end:#x}, "
        if segment.end > top:
            return place + f"but memory ends at {top:#x}"
        if any(one.start < segment.end and segment.address < one.stop for one in self._reserve):
            return place + "which is kept from it"
        return place + "which is not available RAM"

    def load(self, segments: Sequence[Segment], name: str) -> None:
        """Put segments where they belong; ImageError where there is no memory for one."""
        misfit = self.misfit(segments)
        if misfit is not None:
            raise ImageError(self.complaint(name, misfit))
        for one in segments:
            self.placement.take(one.address, one.end)
            self._load(one)

    def _load(self, segment: Segment) -> None:
        if segment.data:
            self.memory.write(segment.address, segment.data)
        start = segment.address + len(segment.data)
        end = segment.end
        if self._memory_is_zero:
            end = min(end, MIB)  # a BIOS has used the memory below
        while start < end:
            count = min(end - start, len(_ZEROS))
            self.memory.write(start, _ZEROS[:count])
            start += count

    # -- what goes where there is room -------------------------------------------------------------

    def put(self, data: bytes, align: int, lowest: int, what: str) -> int:
        """Put data at the first free place from ``lowest`` on, else anywhere; return where."""
        address = self.placement.place(max(len(data), 1), align, lowest, what)
        self.memory.write(address, data)
        return address

    def put_low(self, data: bytes, align: int, otherwise: int, what: str) -> int:
        """Put data into conventional memory, else as `put` does from ``otherwise`` on."""
        address = self.placement.place_low(max(len(data), 1), align, otherwise, what)
        self.memory.write(address, data)
        return address

    def put_high(self, data: bytes, highest: int, what: str) -> int:
        """Put data into whole pages that end as high as possible, but not above ``highest``."""
        size = -(-max(len(data), 1) // PAGE_SIZE) * PAGE_SIZE
        address = self.placement.find(size, PAGE_SIZE, MIB, highest, high=True)
        if address is None:
            raise ImageError(f"{what} ({len(data)} bytes) does not fit into the memory")
        self.placement.take(address, address + size)
        self.memory.write(address, data)
        return address

    def put_gdt_and_stack(self, gdt: Sequence[int], otherwise: int) -> tuple[int, int]:
        """Put a GDT and a small stack there; return its address and the top of the stack."""
        table = struct.pack(f"<{len(gdt)}Q", *gdt)
        assert len(table) + _STACK_SLACK < STACK_SIZE
        page = table.ljust(STACK_SIZE, b"\0")
        address = self.put_low(page, PAGE_SIZE, otherwise, "a stack to start with")
        return address, address + STACK_SIZE - _STACK_SLACK
