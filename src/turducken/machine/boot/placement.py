"""Finding room in memory for what the image is given."""

from turducken.address import GIB
from turducken.machine.boot.errors import ImageError
from turducken.machine.firmware.memory_map import EBDA_BASE, MemoryMap

LOW_START, LOW_END = 0x2_0000, EBDA_BASE
"""Where small structures go if they fit: conventional memory above the places that images like
for the code that starts other processors."""

_LIMIT = 4 * GIB


class Placement:
    """Available memory with what has been taken of it."""

    def __init__(self, memory_map: MemoryMap) -> None:
        self._map = memory_map
        self._taken: list[tuple[int, int]] = []

    def take(self, start: int, end: int) -> None:
        """Keep ``[start, end)`` free of anything else."""
        self._taken.append((start, end))

    def find(
        self, size: int, align: int, lowest: int = 0, highest: int = _LIMIT, *, high: bool = False
    ) -> int | None:
        """Return the lowest (or highest) aligned address in bounds with ``size`` free bytes.

        None where there is none. Nothing is taken yet.
        """
        found = None
        for one in self._map.available:
            start, end = max(one.start, lowest), min(one.end, highest)
            for free_start, free_end in self._free(start, end):
                if high:
                    address = (free_end - size) // align * align
                else:
                    address = -(-free_start // align) * align
                if free_start <= address and address + size <= free_end:
                    if not high:
                        return address
                    found = address
        return found

    def place(self, size: int, align: int, lowest: int, what: str) -> int:
        """Find and take room at or above ``lowest``, else anywhere above the first MiB."""
        for bound in (lowest, 0x10_0000):
            address = self.find(size, align, bound)
            if address is not None:
                self.take(address, address + size)
                return address
        raise ImageError(f"{what} ({size} bytes) does not fit into the memory")

    def place_low(self, size: int, align: int, otherwise: int, what: str) -> int:
        """Find and take room in conventional memory, else as `place` does from ``otherwise`` on."""
        address = self.find(size, align, LOW_START, LOW_END)
        if address is None:
            return self.place(size, align, otherwise, what)
        self.take(address, address + size)
        return address

    def _free(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of ``[start, end)`` that nobody has taken, in ascending order."""
        free = []
        for taken_start, taken_end in sorted(self._taken):
            if taken_end <= start or taken_start >= end:
                continue
            if taken_start > start:
                free.append((start, taken_start))
            start = max(start, taken_end)
        if start < end:
            free.append((start, end))
        return free
