"""L1's physical memory as L0 reads and writes it on L1's behalf: through EPT01, never around it.

What EPT01 does not give L1 (L0's region, a PAL's pages) answers as an empty bus does: reads give
all ones, writes are lost. So an L1 that names such an address in a table, a list or an operand
gains nothing, and L0 needs no check at each use.
"""

from turducken.address import PAGE_SHIFT, PAGE_SIZE, Gpa1
from turducken.hypervisor.ept01 import Ept01
from turducken.memory import PhysicalMemory

_OFFSET = PAGE_SIZE - 1


class GuestMemory:
    """A `turducken.memory.Memory` whose addresses are Gpa1, for one processor's EPT01."""

    def __init__(self, memory: PhysicalMemory, ept01: Ept01) -> None:
        self._memory = memory
        self._ept01 = ept01

    def load(self, address: int, size: int) -> int:
        """Return the naturally aligned word of ``size`` bytes at Gpa1 ``address``."""
        frame = self._ept01.readable_frame(address >> PAGE_SHIFT)
        if frame is None:
            return (1 << 8 * size) - 1
        return self._memory.load(frame + (address & _OFFSET), size)

    def store(self, address: int, size: int, value: int) -> None:
        """Replace the naturally aligned word of ``size`` bytes at Gpa1 ``address``."""
        frame = self._ept01.writable_frame(address >> PAGE_SHIFT)
        if frame is not None:
            self._memory.store(frame + (address & _OFFSET), size, value)

    def store_flags(self, address: int, entry: int) -> None:
        """Write accessed and dirty flags into an entry of EPT12, as the processor does.

        This is no change that anybody needs to follow.
        """
        frame = self._ept01.writable_frame(address >> PAGE_SHIFT, for_l0=True)
        if frame is not None:
            self._memory.store(frame + (address & _OFFSET), 8, entry)

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from Gpa1 ``address`` on."""
        if (address & _OFFSET) + length <= PAGE_SIZE:
            return self._read(address, length)
        return b"".join(self._read(part, count) for part, count in _pages(address, length))

    def _read(self, address: int, length: int) -> bytes:
        frame = self._ept01.readable_frame(address >> PAGE_SHIFT)
        if frame is None:
            return b"\xff" * length
        return self._memory.read(frame + (address & _OFFSET), length)

    def write(self, address: int, data: bytes) -> None:
        """Replace the bytes from Gpa1 ``address`` on."""
        done = 0
        for part, count in _pages(address, len(data)):
            frame = self._ept01.writable_frame(part >> PAGE_SHIFT)
            if frame is not None:
                self._memory.write(frame + (part & _OFFSET), data[done : done + count])
            done += count

    def host_frame(self, address: Gpa1, *, write: bool) -> int | None:
        """Return the host-physical frame behind the page of ``address``, if L1 may use it so."""
        find = self._ept01.writable_frame if write else self._ept01.readable_frame
        return find(address >> PAGE_SHIFT)


def _pages(address: int, length: int) -> list[tuple[int, int]]:
    """Split a run of bytes at page boundaries: ``(address, count)``."""
    parts = []
    while length > 0:
        count = min(length, PAGE_SIZE - (address & _OFFSET))
        parts.append((address, count))
        address += count
        length -= count
    return parts
