"""What a walker, a builder or a tool needs of a memory, whatever stands behind it."""

from typing import Protocol


class MemoryHoleError(LookupError):
    """A tool asked for bytes that its source does not have. Never raised by emulated RAM."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no memory at {address:#x}")
        self.address = address


class TableMemory(Protocol):
    """Memory as a page walk sees it: single naturally aligned table entries."""

    def load(self, address: int, size: int) -> int | None:
        """Return the little-endian entry of ``size`` (4 or 8) bytes; None where there is none."""

    def store(self, address: int, size: int, value: int) -> None:
        """Replace the entry of ``size`` (4 or 8) bytes at ``address``."""


class Memory(TableMemory, Protocol):
    """Memory as loaders, tools and hypervisors see it: entries and runs of bytes."""

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from ``address`` on.

        Raises `MemoryHoleError` where the source has no such bytes; emulated RAM answers all ones
        instead, as an empty bus does.
        """

    def write(self, address: int, data: bytes) -> None:
        """Replace the bytes from ``address`` on."""
