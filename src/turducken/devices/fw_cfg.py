"""The firmware configuration interface of QEMU's PCs, at ports 510h and 511h, without DMA."""

import struct

from turducken.devices.bus import all_ones

SELECTOR_PORT = 0x510
DATA_PORT = 0x511

SIGNATURE, ID, UUID, RAM_SIZE, NO_GRAPHICS, PROCESSORS = 0, 1, 2, 3, 4, 5
MAX_PROCESSORS = 0x0F
FILE_DIRECTORY = 0x19
FIRST_FILE = 0x20

_TRADITIONAL_INTERFACE = 1
_FILE_NAME_SIZE = 56


class FwCfg:
    """A table of read-only items: ``ram_size`` in bytes, and the number of processors.

    `add_file` adds named items, which the guest finds through the file directory.
    """

    ports = (range(SELECTOR_PORT, DATA_PORT + 1),)
    widest_access = 2

    def __init__(self, *, ram_size: int, processors: int) -> None:
        self._items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            ID: struct.pack("<I", _TRADITIONAL_INTERFACE),
            UUID: bytes(16),
            RAM_SIZE: struct.pack("<Q", ram_size),
            NO_GRAPHICS: struct.pack("<H", 1),
            PROCESSORS: struct.pack("<H", processors),
            MAX_PROCESSORS: struct.pack("<H", processors),
        }
        self._files: list[tuple[str, int]] = []
        self._write_directory()
        self._selected = SIGNATURE
        self._offset = 0

    def add_file(self, name: str, data: bytes) -> int:
        """Add a file and return the selector of its item."""
        selector = FIRST_FILE + len(self._files)
        self._files.append((name, selector))
        self._items[selector] = data
        self._write_directory()
        return selector

    def _write_directory(self) -> None:
        entries = b"".join(
            struct.pack(">IHH", len(self._items[selector]), selector, 0)
            + name.encode()[: _FILE_NAME_SIZE - 1].ljust(_FILE_NAME_SIZE, b"\0")
            for name, selector in sorted(self._files)
        )
        self._items[FILE_DIRECTORY] = struct.pack(">I", len(self._files)) + entries

    def port_read(self, port: int, size: int) -> int:
        """Return the next byte of the selected item, 0 after its end."""
        if port == SELECTOR_PORT:
            return self._selected if size == 2 else all_ones(size)
        item = self._items.get(self._selected, b"")
        byte = item[self._offset] if self._offset < len(item) else 0
        self._offset += 1
        return byte

    def port_write(self, port: int, size: int, value: int) -> None:
        """Select an item and go to its first byte; data is read-only."""
        if port == SELECTOR_PORT:
            self._selected = value
            self._offset = 0
