"""The firmware configuration interface of QEMU's PCs, at ports 510h, 511h and, for DMA, 514h.

QEMU documentation, "QEMU Firmware Configuration (fw_cfg) Device".
"""

import struct

from turducken.devices.bus import all_ones
from turducken.memory import Memory

SELECTOR_PORT = 0x510
DATA_PORT = 0x511
DMA_PORT = 0x514

SIGNATURE, ID, UUID, RAM_SIZE, NO_GRAPHICS, PROCESSORS = 0, 1, 2, 3, 4, 5
BOOT_MENU = 0x0E
MAX_PROCESSORS = 0x0F
FILE_DIRECTORY = 0x19
FIRST_FILE = 0x20

_TRADITIONAL_INTERFACE, _DMA_INTERFACE = 1, 2
_FILE_NAME_SIZE = 56
_DMA_SIGNATURE = int.from_bytes(b"QEMU CFG", "big")
_ERROR, _READ, _SKIP, _SELECT, _WRITE = 1, 2, 4, 8, 16
_COMMAND = struct.Struct(">IIQ")
"""Control word, length, address; big-endian, as everything of the DMA interface."""
_BLOCK = 1 << 20


class FwCfg:
    """A table of read-only items: ``ram_size`` in bytes, and the number of processors.

    `add_file` adds named items, which the guest finds through the file directory. With ``memory``
    the guest can have items copied there.
    """

    widest_access = 4

    def __init__(self, *, ram_size: int, processors: int, memory: Memory | None = None) -> None:
        self.ports = (
            range(SELECTOR_PORT, DATA_PORT + 1),
            *((range(DMA_PORT, DMA_PORT + 8),) if memory is not None else ()),
        )
        self._memory = memory
        features = _TRADITIONAL_INTERFACE | (_DMA_INTERFACE if memory is not None else 0)
        self._items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            ID: struct.pack("<I", features),
            UUID: bytes(16),
            RAM_SIZE: struct.pack("<Q", ram_size),
            NO_GRAPHICS: struct.pack("<H", 1),
            PROCESSORS: struct.pack("<H", processors),
            BOOT_MENU: struct.pack("<H", 0),
            MAX_PROCESSORS: struct.pack("<H", processors),
        }
        self._files: list[tuple[str, int]] = []
        self._write_directory()
        self._selected = SIGNATURE
        self._offset = 0
        self._dma_high = 0

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
        """Return the next bytes of the selected item, 0 after its end; at 514h, a signature."""
        if port >= DMA_PORT:
            whole = _DMA_SIGNATURE.to_bytes(8, "big")
            return int.from_bytes(whole[port - DMA_PORT : port - DMA_PORT + size], "little")
        if port == SELECTOR_PORT:
            return self._selected if size == 2 else all_ones(size)
        return int.from_bytes(self._take(1), "little")

    def port_write(self, port: int, size: int, value: int) -> None:
        """Select an item and go to its first byte, or start a transfer; data is read-only."""
        if port == SELECTOR_PORT:
            self._select(value & 0xFFFF)
        elif size == 4 and port == DMA_PORT:
            self._dma_high = int.from_bytes(value.to_bytes(4, "little"), "big")
        elif size == 4 and port == DMA_PORT + 4:
            low = int.from_bytes(value.to_bytes(4, "little"), "big")
            high, self._dma_high = self._dma_high, 0
            self._transfer(high << 32 | low)

    def _select(self, item: int) -> None:
        self._selected = item
        self._offset = 0

    def _take(self, count: int) -> bytes:
        item = self._items.get(self._selected, b"")
        data = item[self._offset : self._offset + count]
        self._offset += count
        return data.ljust(count, b"\0")

    def _transfer(self, command: int) -> None:
        """Execute the command that the guest has put into memory; its control word is the answer.

        It is 0 for success.
        """
        memory = self._memory
        assert memory is not None
        control, length, address = _COMMAND.unpack(memory.read(command, _COMMAND.size))
        if control & _SELECT:
            self._select(control >> 16)
        failed = False
        if control & _READ:
            self._read_into(address, length)
        elif control & _SKIP:
            self._offset += length
        elif control & _WRITE:
            failed = True
        memory.write(command, struct.pack(">I", _ERROR if failed else 0))

    def _read_into(self, address: int, length: int) -> None:
        assert self._memory is not None
        for done in range(0, length, _BLOCK):
            self._memory.write(address + done, self._take(min(_BLOCK, length - done)))
