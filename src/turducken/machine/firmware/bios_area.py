"""The low memory that a BIOS sets up: interrupt vectors, data area, and the code they lead to.

Of the BIOS services there are those that tell the memory (INT 12h, INT 15h) and those for the disks
of the first IDE channel (INT 13h), which `turducken.machine.firmware.services` adds; other calls
return with the carry flag set. The interrupt lines of the 8259 pair are ended and otherwise
ignored, but for the timer, which counts its ticks.
"""

import struct

from turducken.devices.uart import COM1
from turducken.machine.firmware.memory_map import BIOS_BASE, EBDA_BASE, EBDA_SIZE

BDA_BASE = 0x400
BIOS_SEGMENT = BIOS_BASE >> 4

IRET_OFFSET = 0xFF53
_TIMER_OFFSET, _MASTER_OFFSET, _SLAVE_OFFSET = 0xFEA5, 0xE100, 0xE110
_UNSUPPORTED_OFFSET, _MEMORY_SIZE_OFFSET, _HALT_OFFSET = 0xE120, 0xE130, 0xE05B
_RESET_OFFSET, _DATE_OFFSET, _MODEL_OFFSET = 0xFFF0, 0xFFF5, 0xFFFE

_CODE = {
    IRET_OFFSET: bytes.fromhex("cf"),  # iret
    # push ds; push ax; xor ax, ax; mov ds, ax; inc dword [46ch]; mov al, 20h; out 20h, al;
    # pop ax; pop ds; iret
    _TIMER_OFFSET: bytes.fromhex("1e50 31c0 8ed8 66ff066c04 b020 e620 58 1f cf"),
    # push ax; mov al, 20h; out 20h, al; pop ax; iret
    _MASTER_OFFSET: bytes.fromhex("50 b020 e620 58 cf"),
    # push ax; mov al, 20h; out 0a0h, al; out 20h, al; pop ax; iret
    _SLAVE_OFFSET: bytes.fromhex("50 b020 e6a0 e620 58 cf"),
    # mov ah, 86h; push bp; mov bp, sp; or byte [bp+6], 1; pop bp; iret
    _UNSUPPORTED_OFFSET: bytes.fromhex("b486 55 89e5 804e0601 5d cf"),
    # mov ax, KiB below the EBDA; iret
    _MEMORY_SIZE_OFFSET: b"\xb8" + struct.pack("<H", EBDA_BASE >> 10) + b"\xcf",
    # cli; hlt; jmp to the cli
    _HALT_OFFSET: bytes.fromhex("fa f4 ebfc"),
    # jmp far to the halt
    _RESET_OFFSET: b"\xea" + struct.pack("<HH", _HALT_OFFSET, BIOS_SEGMENT),
    _DATE_OFFSET: b"01/01/24",
    _MODEL_OFFSET: b"\xfc",
}
"""What is in the BIOS segment, by offset."""

SERVICES_OFFSET = 0x8000
SERVICE_ENTRIES = {0x15: SERVICES_OFFSET, 0x13: SERVICES_OFFSET + 8}
"""Where the services of guests/bios/services.S are called."""

_TIMER_VECTOR = 0x08
_MASTER_VECTORS = range(0x09, 0x10)
_SERVICE_VECTORS = range(0x10, 0x1B)
_MEMORY_SIZE_VECTOR = 0x12
_SLAVE_VECTORS = range(0x70, 0x78)


def _handler(vector: int) -> int:
    if vector in SERVICE_ENTRIES:
        return SERVICE_ENTRIES[vector]
    if vector == _TIMER_VECTOR:
        return _TIMER_OFFSET
    if vector in _MASTER_VECTORS:
        return _MASTER_OFFSET
    if vector in _SLAVE_VECTORS:
        return _SLAVE_OFFSET
    if vector == _MEMORY_SIZE_VECTOR:
        return _MEMORY_SIZE_OFFSET
    return _UNSUPPORTED_OFFSET if vector in _SERVICE_VECTORS else IRET_OFFSET


def interrupt_vectors() -> bytes:
    """Return the real-mode interrupt vector table for address 0."""
    return b"".join(struct.pack("<HH", _handler(vector), BIOS_SEGMENT) for vector in range(256))


def bios_data_area(disks: int = 0) -> bytes:
    """Return the BIOS data area for address 400h, on a PC with so many disks."""
    area = bytearray(256)
    struct.pack_into("<4H", area, 0x00, COM1, 0, 0, 0)  # serial ports
    struct.pack_into("<H", area, 0x0E, EBDA_BASE >> 4)
    struct.pack_into("<H", area, 0x10, 0x0226)  # 80x25 colour, FPU, mouse, one serial port
    struct.pack_into("<H", area, 0x13, EBDA_BASE >> 10)
    struct.pack_into("<HHH", area, 0x1A, 0x1E, 0x1E, 0)  # keyboard buffer: empty
    struct.pack_into("<BHH", area, 0x49, 3, 80, 0x1000)  # video mode, columns, page size
    struct.pack_into("<HBH", area, 0x60, 0x0607, 0, 0x3D4)  # cursor shape, page, CRT controller
    struct.pack_into("<B", area, 0x75, disks)
    struct.pack_into("<HH", area, 0x80, 0x1E, 0x3E)  # bounds of the keyboard buffer
    struct.pack_into("<B", area, 0x84, 24)  # rows less one
    return bytes(area)


def extended_bios_data_area() -> bytes:
    """Return the EBDA: its size in KiB, then nothing."""
    return bytes([EBDA_SIZE >> 10]).ljust(EBDA_SIZE, b"\0")


def code_pieces() -> list[tuple[int, bytes]]:
    """Return physical addresses and contents of the code in the BIOS segment."""
    return [(BIOS_BASE + offset, content) for offset, content in _CODE.items()]
