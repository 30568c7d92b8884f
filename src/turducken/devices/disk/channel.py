"""One IDE channel: the registers of its two drives, programmed I/O, and its interrupt.

ATA/ATAPI Parallel Transport, "Register delivered data transfer command protocols". Commands are
executed at once: a drive is never seen busy.
"""

from dataclasses import replace

from turducken.devices.disk.atapi import PACKET_SIZE
from turducken.devices.disk.taskfile import (
    ABORTED,
    DRQ,
    ERR,
    READY,
    SEEK,
    SLAVE,
    Completion,
    Drive,
    Taskfile,
    Transfer,
    failure,
)
from turducken.devices.lines import LineDriver, unconnected

COMMAND_BLOCKS = (0x1F0, 0x170)
CONTROLS = (0x3F6, 0x376)
DATA, ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS = range(8)
_PACKET, _DEVICE_RESET = 0xA0, 0x08
_NO_INTERRUPT, _SOFT_RESET, _HIGH_ORDER = 0x02, 0x04, 0x80
_OBSOLETE = 0xA0
_DATA_READ, _COMMAND_PACKET = 2, 1
"""Interrupt reason (the count register) of packet commands: I/O, and CoD."""


class IdeChannel:
    """The channel with these ``drives`` (master, slave) at the ports ``base`` and ``control``."""

    widest_access = 4

    def __init__(
        self,
        drives: tuple[Drive | None, Drive | None],
        line: LineDriver = unconnected,
        *,
        base: int = COMMAND_BLOCKS[0],
        control: int = CONTROLS[0],
    ) -> None:
        self.base, self.control = base, control
        self.ports = (range(base, base + 8), range(control, control + 1))
        self._drives = drives
        self._line = line
        self._taskfile = Taskfile(device=_OBSOLETE)
        self._device_control = 0
        self._requests_interrupt = False
        self._interrupted = False
        """Whether an interrupt has come since the bus master was asked (its status bit 2)."""
        self._status = [READY | SEEK, READY | SEEK]
        self._error = [1, 1]
        self.transfer: Transfer | None = None
        """The data phase that is going on."""
        self._position = self._block_end = 0
        self._packet: bytearray | None = None
        self._signature()

    @property
    def _selected(self) -> int:
        return int(bool(self._taskfile.device & SLAVE))

    @property
    def _drive(self) -> Drive | None:
        return self._drives[self._selected]

    def take_interrupt(self) -> bool:
        """Return whether the drive has interrupted since this was asked last."""
        taken, self._interrupted = self._interrupted, False
        return taken

    # -- registers ---------------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """Return a register, or data."""
        register = STATUS if port == self.control else port - self.base
        if register == DATA:
            return int.from_bytes(self.read_data(size), "little")
        drive = self._drive
        if drive is None:
            return 0  # nobody drives the bus, whose lines are pulled down
        if register == STATUS:
            if port != self.control:
                self._request(level=False)
            return self._status[self._selected]
        if register == ERROR:
            return self._error[self._selected]
        return self._read_taskfile(register)

    def _read_taskfile(self, register: int) -> int:
        taskfile, shift = self._taskfile, 8 if self._device_control & _HIGH_ORDER else 0
        if register == COUNT:
            return taskfile.count >> shift & 0xFF
        if register == DEVICE:
            return taskfile.device
        return taskfile.lba >> 8 * (register - LBA_LOW) + 3 * shift & 0xFF

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write a register, or data."""
        if port == self.control:
            self._write_control(value & 0xFF)
            return
        register = port - self.base
        if register == DATA:
            self.write_data(value.to_bytes(size, "little"))
            return
        self._device_control &= ~_HIGH_ORDER
        taskfile, value = self._taskfile, value & 0xFF
        match register:
            case 1:
                taskfile.features = taskfile.features << 8 & 0xFF00 | value
            case 2:
                taskfile.count = taskfile.count << 8 & 0xFF00 | value
            case 3 | 4 | 5:
                low = 8 * (register - LBA_LOW)
                old = taskfile.lba >> low & 0xFF
                taskfile.lba &= ~(0xFF << low | 0xFF << low + 24)
                taskfile.lba |= value << low | old << low + 24
            case 6:
                taskfile.device = value | _OBSOLETE
            case _:
                self._command(value)

    def _write_control(self, value: int) -> None:
        before, self._device_control = self._device_control, value
        if before & _SOFT_RESET and not value & _SOFT_RESET:
            self.reset()
        self._drive_line()

    def reset(self) -> None:
        """Reset both drives: "Software reset protocol"."""
        self._end_transfer()
        for drive in self._drives:
            if drive is not None:
                drive.reset()
        self._request(level=False)
        self._taskfile.device = _OBSOLETE
        self._signature()

    def _signature(self) -> None:
        first = next((one for one in self._drives if one is not None), None)
        self._taskfile.count = 1
        self._taskfile.lba = 1 | (0 if first is None else first.signature >> 8 << 8)
        for number, drive in enumerate(self._drives):
            is_packet = drive is not None and drive.takes_packets
            self._status[number] = 0 if is_packet else READY | SEEK
            self._error[number] = 1

    # -- commands ----------------------------------------------------------------------------------

    def _command(self, code: int) -> None:
        drive = self._drive
        if drive is None:
            return
        self._end_transfer()
        self._request(level=False)
        self._taskfile.command = code
        if code == _PACKET and drive.takes_packets:
            self._packet = bytearray()
            self._taskfile.count = _COMMAND_PACKET
            self._set(READY | DRQ)
            return
        self._begin(drive.execute(replace(self._taskfile)))
        if code == _DEVICE_RESET and drive.takes_packets:
            self._request(level=False)

    def _begin(self, outcome: Completion | Transfer) -> None:
        if isinstance(outcome, Completion):
            self._complete(outcome)
            return
        self.transfer, self._position = outcome, 0
        if outcome.is_dma:
            self._set(READY | SEEK | DRQ)
            return
        self._next_block(interrupt=outcome.to_guest)

    def _next_block(self, *, interrupt: bool) -> None:
        """Offer the next block of data, or ask for it."""
        transfer = self.transfer
        assert transfer is not None
        left = len(transfer.data) - self._position
        block = min(transfer.block, left)
        self._block_end = self._position + block
        drive = self._drive
        if drive is not None and drive.takes_packets and self._taskfile.command == _PACKET:
            self._taskfile.count = _DATA_READ
            self._taskfile.lba = self._taskfile.lba & 0xFF | (block & 0xFFFF) << 8
        self._set(READY | SEEK | DRQ)
        if interrupt:
            self._request(level=True)

    def _complete(self, completion: Completion) -> None:
        for name, value in completion.registers.items():
            if name == "device_low":
                self._taskfile.device = self._taskfile.device & 0xF0 | value & 0x0F
            else:
                setattr(self._taskfile, name, value)
        self._end_transfer()
        self._error[self._selected] = completion.error
        self._set(completion.status)
        self._request(level=True)

    def finish(self, error: int = 0) -> None:
        """End the data phase; ``error`` is what the error register then says."""
        transfer = self.transfer
        assert transfer is not None
        if not error and transfer.commit is not None:
            error = transfer.commit(bytes(transfer.data))
        registers = {"count": 3} if self._taskfile.command == _PACKET else {}
        self._complete(failure(error) if error else Completion(registers=registers))

    def _end_transfer(self) -> None:
        self.transfer = self._packet = None

    def _set(self, status: int) -> None:
        self._status[self._selected] = status
        if not status & ERR and status & DRQ:
            self._error[self._selected] = 0

    # -- data by programmed I/O --------------------------------------------------------------------

    def read_data(self, size: int) -> bytes:
        """Return the next ``size`` bytes of a data phase towards the guest, or zeros."""
        transfer = self.transfer
        if transfer is None or not transfer.to_guest or transfer.is_dma:
            return bytes(size)
        end = min(self._position + size, self._block_end)
        data = bytes(transfer.data[self._position : end])
        self._position = end
        if end >= self._block_end:
            if end < len(transfer.data):
                self._next_block(interrupt=True)
            else:
                self._end_reading()
        return data.ljust(size, b"\0")

    def _end_reading(self) -> None:
        """After the last block there is no interrupt, but for a packet command's completion."""
        if self._taskfile.command == _PACKET:
            self.finish()
            return
        self._end_transfer()
        self._set(READY | SEEK)

    def write_data(self, data: bytes) -> None:
        """Take bytes of a packet, or of a data phase from the guest."""
        if self._packet is not None:
            self._take_packet(data)
            return
        transfer = self.transfer
        if transfer is None or transfer.to_guest or transfer.is_dma:
            return
        end = min(self._position + len(data), self._block_end)
        transfer.data[self._position : end] = data[: end - self._position]
        self._position = end
        if end < self._block_end:
            return
        if end < len(transfer.data):
            self._next_block(interrupt=True)
        else:
            self.finish()

    def _take_packet(self, data: bytes) -> None:
        packet, drive = self._packet, self._drive
        assert packet is not None
        packet.extend(data)
        if len(packet) < PACKET_SIZE:
            return
        self._packet = None
        if drive is None:
            self._complete(failure(ABORTED))
            return
        limit = self._taskfile.lba >> 8 & 0xFFFF
        is_dma = bool(self._taskfile.features & 1)
        self._begin(drive.packet(bytes(packet[:PACKET_SIZE]), limit or 0xFFFE, is_dma=is_dma))

    # -- blocks of data ----------------------------------------------------------------------------

    def block_read(self, port: int, size: int, count: int) -> bytes | None:
        """Return what ``count`` INs of ``size`` bytes would, where that is one run of data."""
        transfer = self.transfer
        if port != self.base or transfer is None or not transfer.to_guest or transfer.is_dma:
            return None
        whole = (self._block_end - self._position) // size
        return self.read_data(size * min(count, whole)) if whole else None

    def block_write(self, port: int, size: int, data: bytes) -> int:
        """Take what OUTs of ``size`` bytes write; return how many bytes of it."""
        transfer = self.transfer
        if port != self.base or transfer is None or transfer.to_guest or transfer.is_dma:
            return 0
        whole = (self._block_end - self._position) // size * size
        part = data[:whole]
        if part:
            self.write_data(part)
        return len(part)

    # -- interrupt ---------------------------------------------------------------------------------

    def _request(self, *, level: bool) -> None:
        self._requests_interrupt = level
        self._interrupted |= level
        self._drive_line()

    def _drive_line(self) -> None:
        enabled = not self._device_control & _NO_INTERRUPT
        self._line(level=self._requests_interrupt and enabled)
