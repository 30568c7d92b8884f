"""How processor accesses reach devices: port I/O space and memory-mapped regions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

PORTS = 1 << 16


def all_ones(size: int) -> int:
    """Return what a read of ``size`` bytes gives where nothing answers."""
    return (1 << 8 * size) - 1


class PortDevice(Protocol):
    """A device in port I/O space.

    The bus hands a device no access wider than ``widest_access`` bytes; it splits wider ones, and
    those that reach beyond the device's own ports, into bytes, lowest address first.
    """

    @property
    def ports(self) -> Sequence[range]:
        """The ports that the device claims."""

    @property
    def widest_access(self) -> int:
        """The widest access in bytes (1, 2 or 4) that the device takes in one piece."""

    def port_read(self, port: int, size: int) -> int:
        """Return what IN of ``size`` bytes reads."""

    def port_write(self, port: int, size: int, value: int) -> None:
        """Take what OUT of ``size`` bytes writes; ``value`` has no bits beyond ``size`` bytes."""


@runtime_checkable
class BlockPorts(Protocol):
    """What a `PortDevice` has besides if its data can be moved in blocks."""

    def block_read(self, port: int, size: int, count: int) -> bytes | None:
        """Return what the next INs of ``size`` bytes read, at most ``count``; None: one by one."""

    def block_write(self, port: int, size: int, data: bytes) -> int:
        """Take what OUTs of ``size`` bytes write; return how many bytes of it (0: one by one)."""


@dataclass(frozen=True, slots=True)
class Region:
    """``size`` bytes of host-physical addresses from ``base`` on."""

    base: int
    size: int

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size


class MmioDevice(Protocol):
    """A device whose registers are in memory space."""

    @property
    def region(self) -> Region | None:
        """Where the registers are now, or None while they cannot be reached."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Return ``size`` (1 to 8) bytes at ``offset`` in the region."""

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Replace ``size`` (1 to 8) bytes at ``offset`` in the region."""


class Access(Enum):
    """The kinds of accesses that nobody may answer."""

    PORT_READ = "port read"
    PORT_WRITE = "port write"
    MMIO_READ = "memory-mapped read"
    MMIO_WRITE = "memory-mapped write"


UnclaimedHandler = Callable[[Access, int, int, int], None]
"""Called with the kind of access, the address, the size in bytes, and the value written (or 0)."""


class _UnclaimedLog:
    """Passes on the first access of each kind to each address that no device claims."""

    def __init__(self, handler: UnclaimedHandler | None) -> None:
        self._handler = handler
        self._seen: set[tuple[Access, int]] = set()

    def note(self, kind: Access, address: int, size: int, value: int = 0) -> None:
        if self._handler is None or (kind, address) in self._seen:
            return
        self._seen.add((kind, address))
        self._handler(kind, address, size, value)


class PortBus:
    """Port I/O space: every port belongs to at most one device.

    ``on_unclaimed`` learns once per port and direction of accesses that no device answers; they
    read as all ones, and what is written is lost.
    """

    def __init__(self, on_unclaimed: UnclaimedHandler | None = None) -> None:
        self._owner: dict[int, PortDevice] = {}
        self._movable: list[PortDevice] = []
        self._moved_to: set[int] = set()
        self._blocks: dict[int, BlockPorts] = {}
        self._unclaimed = _UnclaimedLog(on_unclaimed)

    def attach(self, device: PortDevice) -> None:
        """Give the device its ports; a port that is taken already is a ValueError."""
        for claimed in device.ports:
            for port in claimed:
                if port in self._owner:
                    raise ValueError(f"port {port:#x} belongs to two devices")
                self._owner[port] = device
                if isinstance(device, BlockPorts):
                    self._blocks[port] = device

    def attach_movable(self, device: PortDevice) -> None:
        """Let a device have what its `ports` are from time to time, as far as they are free."""
        self._movable.append(device)
        self.move()

    def move(self) -> None:
        """Learn that ports of movable devices have changed; of two devices the first wins."""
        for port in self._moved_to:
            del self._owner[port]
        self._moved_to.clear()
        for device in self._movable:
            for claimed in device.ports:
                for port in claimed:
                    if port not in self._owner:
                        self._owner[port] = device
                        self._moved_to.add(port)

    def owner(self, port: int) -> PortDevice | None:
        """Return the device at ``port``, if there is one."""
        return self._owner.get(port)

    def read(self, port: int, size: int) -> int:
        """Return what IN of ``size`` (1, 2 or 4) bytes reads at ``port``."""
        device = self._owner.get(port)
        if size == 1 or self._takes_whole(device, port, size):
            return self._read_one(device, port, size)
        value = 0
        for index in range(size):
            at = (port + index) % PORTS
            value |= self._read_one(self._owner.get(at), at, 1) << 8 * index
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Execute OUT of ``size`` (1, 2 or 4) bytes at ``port``."""
        value &= all_ones(size)
        device = self._owner.get(port)
        if size == 1 or self._takes_whole(device, port, size):
            self._write_one(device, port, size, value)
            return
        for index in range(size):
            at = (port + index) % PORTS
            self._write_one(self._owner.get(at), at, 1, value >> 8 * index & 0xFF)

    def read_block(self, port: int, size: int, count: int) -> bytes:
        """Return what up to ``count`` INs of ``size`` bytes read, at least one."""
        device = self._blocks.get(port)
        data = None if device is None or count < 2 else device.block_read(port, size, count)
        return data or self.read(port, size).to_bytes(size, "little")

    def write_block(self, port: int, size: int, data: bytes) -> int:
        """Execute OUTs of ``data``, at least one; return how many bytes they took."""
        device = self._blocks.get(port)
        done = 0 if device is None or len(data) <= size else device.block_write(port, size, data)
        if not done:
            self.write(port, size, int.from_bytes(data[:size], "little"))
        return done or size

    def _takes_whole(self, device: PortDevice | None, port: int, size: int) -> bool:
        if device is not None and size > device.widest_access:
            return False
        return all(self._owner.get(port + index) is device for index in range(1, size))

    def _read_one(self, device: PortDevice | None, port: int, size: int) -> int:
        if device is None:
            self._unclaimed.note(Access.PORT_READ, port, size)
            return all_ones(size)
        return device.port_read(port, size) & all_ones(size)

    def _write_one(self, device: PortDevice | None, port: int, size: int, value: int) -> None:
        if device is None:
            self._unclaimed.note(Access.PORT_WRITE, port, size, value)
        else:
            device.port_write(port, size, value)


class MmioBus:
    """The memory-mapped devices that one processor sees (its own local APIC among them).

    Regions may move (a local APIC's does), so they are asked for at every look-up. Where two
    overlap, the device that was attached first answers. An access is given to the device that holds
    its first byte.
    """

    def __init__(self, on_unclaimed: UnclaimedHandler | None = None) -> None:
        self._devices: list[MmioDevice] = []
        self._unclaimed = _UnclaimedLog(on_unclaimed)

    def attach(self, device: MmioDevice) -> None:
        """Put the device on the bus, wherever its region is."""
        self._devices.append(device)

    def find(self, address: int) -> tuple[MmioDevice, int] | None:
        """Return the device at host-physical ``address`` and the offset in its region."""
        for device in self._devices:
            region = device.region
            if region is not None and address in region:
                return device, address - region.base
        return None

    def read(self, address: int, size: int) -> int:
        """Return ``size`` bytes at host-physical ``address``; all ones where no device is."""
        found = self.find(address)
        if found is None:
            self._unclaimed.note(Access.MMIO_READ, address, size)
            return all_ones(size)
        device, offset = found
        return device.mmio_read(offset, size) & all_ones(size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write ``size`` bytes at host-physical ``address``; lost where no device is."""
        value &= all_ones(size)
        found = self.find(address)
        if found is None:
            self._unclaimed.note(Access.MMIO_WRITE, address, size, value)
            return
        device, offset = found
        device.mmio_write(offset, size, value)
