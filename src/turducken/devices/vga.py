"""VGA text mode: plain RAM at B8000h, the CRT controller, and a reader of the screen."""

from turducken.devices.bus import all_ones
from turducken.memory import Memory

TEXT_BASE = 0xB8000
TEXT_SIZE = 0x8000
COLUMNS = 80
ROWS = 25
BLANK = bytes([0x20, 0x07])

_ATTRIBUTE_INDEX = 0x3C0
_INPUT_STATUS_0 = 0x3C2
_MISC_READ = 0x3CC
_INDEXED = {0x3C4: 0x3C5, 0x3CE: 0x3CF, 0x3D4: 0x3D5, 0x3B4: 0x3B5}
"""Index port and data port of the sequencer, the graphics controller and the CRT controllers."""
_DATA_TO_INDEX = {data: index for index, data in _INDEXED.items()}
_INPUT_STATUS_1 = (0x3BA, 0x3DA)
_CRT_INDEX = 0x3D4
_START_HIGH, _START_LOW, _CURSOR_HIGH, _CURSOR_LOW = 0x0C, 0x0D, 0x0E, 0x0F
_COLOUR_AND_RAM = 0x67
_RETRACES = 0x09


class VgaText:
    """An 80 by 25 colour text screen whose memory is the machine's RAM at B8000h."""

    ports = (range(0x3B4, 0x3B6), range(0x3BA, 0x3BB), range(0x3C0, 0x3D0), range(0x3D4, 0x3DB))
    widest_access = 2

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._index: dict[int, int] = {}
        self._registers: dict[tuple[int, int], int] = {}
        self._plain: dict[int, int] = {_MISC_READ: _COLOUR_AND_RAM}
        self._attribute_data_next = False
        self._retrace = 0

    def clear(self) -> None:
        """Fill the screen's memory with blanks, as a BIOS does when it sets the mode."""
        self._memory.write(TEXT_BASE, BLANK * (TEXT_SIZE // 2))

    # -- the screen --------------------------------------------------------------------------------

    def _crt(self, register: int) -> int:
        return self._registers.get((_CRT_INDEX, register), 0)

    @property
    def start(self) -> int:
        """Which character of the memory is the screen's first."""
        return self._crt(_START_HIGH) << 8 | self._crt(_START_LOW)

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor (beyond the screen where the guest hides it there)."""
        position = (self._crt(_CURSOR_HIGH) << 8 | self._crt(_CURSOR_LOW)) - self.start
        return divmod(position, COLUMNS)

    def rows(self) -> list[str]:
        """Return the screen's lines without trailing blanks, code page 437 read as Unicode."""
        lines = []
        for row in range(ROWS):
            first = 2 * (self.start + row * COLUMNS)
            cells = bytes(
                self._memory.read(TEXT_BASE + (first + 2 * column) % TEXT_SIZE, 1)[0]
                for column in range(COLUMNS)
            )
            lines.append(cells.replace(b"\0", b" ").decode("cp437").rstrip())
        return lines

    def text(self) -> str:
        """Return the screen as text without trailing empty lines."""
        return "\n".join(self.rows()).rstrip("\n")

    # -- ports -------------------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """Return a register; registers that were never written are 0."""
        if size == 2:
            return self.port_read(port, 1) | self._neighbour(port + 1) << 8
        if port in _INPUT_STATUS_1:
            self._attribute_data_next = False
            self._retrace ^= _RETRACES
            return self._retrace
        if port in _DATA_TO_INDEX:
            index = _DATA_TO_INDEX[port]
            return self._registers.get((index, self._index.get(index, 0)), 0)
        if port in _INDEXED:
            return self._index.get(port, 0)
        return self._plain.get(port, 0)

    def _neighbour(self, port: int) -> int:
        return self.port_read(port, 1) if self._has(port) else all_ones(1)

    def _has(self, port: int) -> bool:
        return any(port in claimed for claimed in self.ports)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a register; a word writes an index and its data."""
        if size == 2:
            self.port_write(port, 1, value & 0xFF)
            if self._has(port + 1):
                self.port_write(port + 1, 1, value >> 8 & 0xFF)
        elif port in _DATA_TO_INDEX:
            index = _DATA_TO_INDEX[port]
            self._registers[index, self._index.get(index, 0)] = value & 0xFF
        elif port in _INDEXED:
            self._index[port] = value & 0xFF
        elif port == _ATTRIBUTE_INDEX:
            self._write_attribute(value & 0xFF)
        elif port == _INPUT_STATUS_0:
            self._plain[_MISC_READ] = value & 0xFF
        elif port not in _INPUT_STATUS_1:
            self._plain[port] = value & 0xFF

    def _write_attribute(self, value: int) -> None:
        # Index and data share a port; a read of input status 1 makes the next write an index.
        if self._attribute_data_next:
            self._registers[_ATTRIBUTE_INDEX, self._index.get(_ATTRIBUTE_INDEX, 0)] = value
        else:
            self._index[_ATTRIBUTE_INDEX] = value & 0x1F
        self._attribute_data_next = not self._attribute_data_next
