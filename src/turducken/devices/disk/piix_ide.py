"""The PIIX3's IDE function: two channels, and the bus master that moves their data.

82371SB (PIIX3) data sheet, "IDE Controller"; Programming Interface for Bus Master IDE Controller.
"""

from collections.abc import Iterator, Sequence

from turducken.devices.disk.channel import IdeChannel
from turducken.devices.disk.taskfile import ABORTED
from turducken.devices.pci import IoBar, PciFunction, PciIdentity
from turducken.memory import Memory

BUS_MASTER_SIZE = 16
_COMMAND, _STATUS, _TABLE = 0, 2, 4
_START, _TO_MEMORY = 0x01, 0x08
_ACTIVE, _ERROR, _INTERRUPT = 0x01, 0x02, 0x04
_CAPABLE = 0x60
_LAST = 1 << 15
_MOST_DESCRIPTORS = 0x1_0000 // 8
_ENABLED = 0x80


class BusMaster:
    """The bus master of one channel."""

    def __init__(self, channel: IdeChannel, memory: Memory) -> None:
        self._channel = channel
        self._memory = memory
        self._command = self._status = self._table = 0

    def read(self, offset: int) -> int:
        """Return a byte of the eight registers."""
        if offset == _COMMAND:
            return self._command
        if offset == _STATUS:
            self._notice_interrupt()
            return self._status
        return self._table >> 8 * (offset - _TABLE) & 0xFF if offset >= _TABLE else 0

    def write(self, offset: int, value: int, *, may_access_memory: bool) -> None:
        """Write a byte of the eight registers; a rise of the start bit starts the transfer."""
        if offset == _COMMAND:
            starts = value & ~self._command & _START
            self._command = value & (_START | _TO_MEMORY)
            if not value & _START:
                self._status &= ~_ACTIVE
            elif starts:
                self._status |= _ACTIVE
                if may_access_memory:
                    self._transfer()
        elif offset == _STATUS:
            self._notice_interrupt()
            self._status &= ~(value & (_ERROR | _INTERRUPT))
            self._status = self._status & ~_CAPABLE | value & _CAPABLE
        elif offset >= _TABLE:
            shift = 8 * (offset - _TABLE)
            self._table = (self._table & ~(0xFF << shift) | value << shift) & 0xFFFF_FFFC

    def _notice_interrupt(self) -> None:
        if self._channel.take_interrupt():
            self._status |= _INTERRUPT

    def _descriptors(self) -> Iterator[tuple[int, int]]:
        """Yield addresses and sizes: "Physical Region Descriptor Table"."""
        for number in range(_MOST_DESCRIPTORS):
            entry = self._memory.read(self._table + 8 * number, 8)
            address = int.from_bytes(entry[:4], "little") & ~1
            yield address, (int.from_bytes(entry[4:6], "little") & ~1) or 0x1_0000
            if int.from_bytes(entry[6:8], "little") & _LAST:
                return

    def _transfer(self) -> None:
        transfer = self._channel.transfer
        if transfer is None or not transfer.is_dma:
            return
        if transfer.to_guest != bool(self._command & _TO_MEMORY):
            self._status = self._status & ~_ACTIVE | _ERROR
            return
        done, whole, room = 0, len(transfer.data), 0
        for address, size in self._descriptors():
            count = min(size, whole - done)
            if transfer.to_guest:
                self._memory.write(address, bytes(transfer.data[done : done + count]))
            else:
                transfer.data[done : done + count] = self._memory.read(address, count)
            done, room = done + count, room + size
            if done == whole and room > whole:
                break
        if room <= whole:
            self._status &= ~_ACTIVE
        self._channel.finish(0 if done == whole else ABORTED)


class PiixIde(PciFunction):
    """Function 1 of the PIIX3, with the two channels of a PC at their fixed ports."""

    def __init__(self, channels: Sequence[IdeChannel], memory: Memory) -> None:
        self._masters = [BusMaster(one, memory) for one in channels]
        super().__init__(
            PciIdentity(0x8086, 0x7010, 0x010180),
            {4: IoBar(BUS_MASTER_SIZE, self)},
            writable=dict.fromkeys((*range(0x40, 0x45), 0x48, 0x4A, 0x4B), 0xFF),
            initial={0x41: _ENABLED, 0x43: _ENABLED},
        )

    def read_register(self, offset: int, size: int) -> int:
        """Return bytes of the bus masters' registers."""
        value = 0
        for index in range(size):
            value |= self._byte(offset + index) << 8 * index
        return value

    def _byte(self, offset: int) -> int:
        return self._masters[offset >> 3].read(offset & 7) if offset < BUS_MASTER_SIZE else 0xFF

    def write_register(self, offset: int, size: int, value: int) -> None:
        """Write bytes of the bus masters' registers."""
        allowed = self.may_access_memory
        for index in range(min(size, BUS_MASTER_SIZE - offset)):
            at = offset + index
            byte = value >> 8 * index & 0xFF
            self._masters[at >> 3].write(at & 7, byte, may_access_memory=allowed)
