"""A virtio device as a PCI function: VIRTIO 1.2, "Virtio Over PCI Bus"; no legacy interface."""

import struct

from turducken.devices.pci import MemoryBar, PciFunction, PciIdentity
from turducken.devices.virtio.queue import Virtqueue
from turducken.memory import Memory

_VENDOR, _FIRST_DEVICE = 0x1AF4, 0x1040
_REGISTERS_SIZE = 0x4000
_COMMON, _NOTIFY, _ISR, _DEVICE = 0x0000, 0x1000, 0x2000, 0x3000
_PART = 0x1000
_CAPABILITIES = ((1, _COMMON), (2, _NOTIFY), (3, _ISR), (4, _DEVICE))
"""Structure types, and where they are in the registers ("Virtio Structure PCI Capabilities")."""
_VENDOR_CAPABILITY, _BAR = 0x09, 4
_FIRST_CAPABILITY = 0x40
_VERSION_1 = 1 << 32
_DRIVER_OK, _NEEDS_RESET, _FEATURES_OK = 4, 64, 8
_QUEUE_INTERRUPT = 1
_NO_VECTOR = 0xFFFF
_QUEUE_SELECT = 0x16
_WIDTHS = {
    0x00: 4, 0x04: 4, 0x08: 4, 0x0C: 4, 0x10: 2, 0x12: 2, 0x14: 1, 0x15: 1, 0x16: 2, 0x18: 2,
    0x1A: 2, 0x1C: 2, 0x1E: 2, 0x20: 8, 0x28: 8, 0x30: 8,
}  # fmt: skip
"""Fields of the common configuration: "Common configuration structure layout"."""


class VirtioFunction(PciFunction):
    """What all virtio devices have; a device says what its queues, features and configuration are.

    ``kind`` is the device's number in the specification.
    """

    def __init__(
        self, kind: int, device_class: int, memory: Memory, queues: int, features: int
    ) -> None:
        self.memory = memory
        self.queues = [Virtqueue() for _ in range(queues)]
        self._offered = features | _VERSION_1
        self._device_select = self._driver_select = self._queue_select = 0
        self._accepted = 0
        self._status = self._isr = 0
        super().__init__(
            PciIdentity(
                _VENDOR, _FIRST_DEVICE + kind, device_class, 1, (_VENDOR, _FIRST_DEVICE + kind)
            ),
            {_BAR: MemoryBar(_REGISTERS_SIZE, self, is_64bit=True)},
            pin=1,
        )
        at = _FIRST_CAPABILITY
        for number, offset in _CAPABILITIES:
            extra = struct.pack("<I", 4) if offset == _NOTIFY else b""
            size = 16 + len(extra)
            head = struct.pack(
                "<BBBBB3xII", _VENDOR_CAPABILITY, 0, size, number, _BAR, offset, _PART
            )
            self.add_capability(head + extra, at)
            at += 0x18

    # -- what a device implements ------------------------------------------------------------------

    def configuration(self) -> bytes:
        """Return the device-specific configuration."""
        return b""

    def configure(self, offset: int, data: bytes) -> None:
        """Take what the driver writes to it."""

    def notified(self, number: int) -> None:
        """Do what the driver has put into a queue."""

    # -- registers ---------------------------------------------------------------------------------

    def read_register(self, offset: int, size: int) -> int:
        """Return bytes of the four structures."""
        part, at = offset & ~(_PART - 1), offset & _PART - 1
        if part == _ISR:
            value, self._isr = self._isr, 0
            self.interrupt(level=False)
            return value
        if part == _DEVICE:
            return int.from_bytes(self.configuration()[at : at + size], "little")
        if part == _COMMON:
            whole = b"".join(
                self._field(place).to_bytes(width, "little") for place, width in _WIDTHS.items()
            )
            return int.from_bytes(whole[at : at + size], "little")
        return 0

    def write_register(self, offset: int, size: int, value: int) -> None:
        """Write bytes of the four structures."""
        part, at = offset & ~(_PART - 1), offset & _PART - 1
        if part == _COMMON:
            self._write_common(at, size, value)
        elif part == _NOTIFY:
            self._notify(at // 4)
        elif part == _DEVICE:
            self.configure(at, value.to_bytes(size, "little"))

    def _notify(self, number: int) -> None:
        is_running = self._status & _DRIVER_OK and self.may_access_memory
        if is_running and number < len(self.queues) and self.queues[number].enabled:
            self.notified(number)

    @property
    def _queue(self) -> Virtqueue | None:
        number = self._queue_select
        return self.queues[number] if number < len(self.queues) else None

    def _field(self, place: int) -> int:
        queue = self._queue
        match place:
            case 0x00:
                return self._device_select
            case 0x04:
                return _half(self._offered, self._device_select)
            case 0x08:
                return self._driver_select
            case 0x0C:
                return _half(self._accepted, self._driver_select)
            case 0x10 | 0x1A:
                return _NO_VECTOR
            case 0x12:
                return len(self.queues)
            case 0x14:
                return self._status
            case 0x16:
                return self._queue_select
        if queue is None:
            return 0
        fields = {0x18: queue.size, 0x1C: int(queue.enabled), 0x1E: self._queue_select}
        fields |= {0x20: queue.descriptors, 0x28: queue.driver, 0x30: queue.device}
        return fields.get(place, 0)

    def _write_common(self, at: int, size: int, value: int) -> None:
        """Write a field, or half of one of eight bytes."""
        if at in (0x24, 0x2C, 0x34):
            old = self._field(at - 4)
            self._set(at - 4, old & 0xFFFF_FFFF | (value & 0xFFFF_FFFF) << 32)
        elif at in (0x20, 0x28, 0x30) and size == 4:
            self._set(at, self._field(at) & ~0xFFFF_FFFF | value)
        else:
            self._set(at, value)

    def _set(self, place: int, value: int) -> None:
        queue = self._queue
        match place:
            case 0x00:
                self._device_select = value & 0xFFFF_FFFF
            case 0x08:
                self._driver_select = value & 0xFFFF_FFFF
            case 0x0C if self._driver_select < 2 and not self._status & _FEATURES_OK:
                shift = 32 * self._driver_select
                kept = self._accepted & ~(0xFFFF_FFFF << shift)
                self._accepted = (kept | (value & 0xFFFF_FFFF) << shift) & self._offered
            case 0x14:
                self._set_status(value & 0xFF)
            case 0x16:
                self._queue_select = value & 0xFFFF
        if queue is not None and not queue.enabled:
            self._set_queue(queue, place, value)

    @staticmethod
    def _set_queue(queue: Virtqueue, place: int, value: int) -> None:
        match place:
            case 0x18 if 0 < value <= queue.size and not value & value - 1:
                queue.size = value
            case 0x1C:
                queue.enabled = bool(value & 1)
            case 0x20:
                queue.descriptors = value
            case 0x28:
                queue.driver = value
            case 0x30:
                queue.device = value

    def _set_status(self, value: int) -> None:
        if value == 0:
            for queue in self.queues:
                queue.reset()
            self._status = self._isr = self._accepted = 0
            self.interrupt(level=False)
            return
        if value & _FEATURES_OK and not self._accepted & _VERSION_1:
            value &= ~_FEATURES_OK
        self._status |= value

    def raise_queue_interrupt(self) -> None:
        """Tell the driver that requests were completed."""
        self._isr |= _QUEUE_INTERRUPT
        self.interrupt(level=True)


def _half(value: int, which: int) -> int:
    return value >> 32 * which & 0xFFFF_FFFF if which < 2 else 0
