"""Memory that is seen at other addresses than it is stored at."""

from turducken.memory import Memory


class MovedMemory:
    """``memory``, whose address 0 is seen at ``base``."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._memory = memory
        self._base = base

    def load(self, address: int, size: int) -> int | None:
        """See `turducken.memory.Memory`."""
        return self._memory.load(address - self._base, size)

    def store(self, address: int, size: int, value: int) -> None:
        """See `turducken.memory.Memory`."""
        self._memory.store(address - self._base, size, value)

    def read(self, address: int, length: int) -> bytes:
        """See `turducken.memory.Memory`."""
        return self._memory.read(address - self._base, length)

    def write(self, address: int, data: bytes) -> None:
        """See `turducken.memory.Memory`."""
        self._memory.write(address - self._base, data)
