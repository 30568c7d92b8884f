"""Memory as devices reach it: all but what software has protected from them.

Intel Virtualization Technology for Directed I/O, "Protected Memory Region Registers": L0 keeps
devices, which its guests can program, away from its own memory.
"""

from turducken.memory import Memory

_NOTHING = range(0)


class DmaMemory:
    """A `turducken.memory.Memory` of which ``protected`` reads as all ones and is never written."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.protected = _NOTHING

    def _is_protected(self, address: int, length: int) -> bool:
        kept = self.protected
        return address < kept.stop and address + length > kept.start

    def load(self, address: int, size: int) -> int | None:
        """Return a naturally aligned word."""
        if self._is_protected(address, size):
            return (1 << 8 * size) - 1
        return self._memory.load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        """Replace a naturally aligned word."""
        if not self._is_protected(address, size):
            self._memory.store(address, size, value)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes."""
        if not self._is_protected(address, length):
            return self._memory.read(address, length)
        data = bytearray(b"\xff" * length)
        for start, stop in self._allowed(address, length):
            data[start - address : stop - address] = self._memory.read(start, stop - start)
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Replace bytes."""
        if not self._is_protected(address, len(data)):
            self._memory.write(address, data)
            return
        for start, stop in self._allowed(address, len(data)):
            self._memory.write(start, data[start - address : stop - address])

    def _allowed(self, address: int, length: int) -> list[tuple[int, int]]:
        end, kept = address + length, self.protected
        parts = [(address, min(end, kept.start)), (max(address, kept.stop), end)]
        return [(start, stop) for start, stop in parts if start < stop]
