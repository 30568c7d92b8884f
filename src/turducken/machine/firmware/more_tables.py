"""ACPI tables that lead to a serial port and to the HPET: SPCR, DBG2, HPET.

Microsoft, "Serial Port Console Redirection Table" and "Debug Port Table 2"; Intel, "IA-PC HPET
Specification".
"""

import struct

from turducken.devices.hpet import CAPABILITIES, HPET_BASE
from turducken.devices.lines import COM1_IRQ
from turducken.devices.uart import COM1
from turducken.machine.firmware.acpi import io_address, memory_address, system_table

_NAME = b"\\_SB_.COM1\0"
_16550, _SERIAL = 0, 0x8000
_BOTH_CONTROLLERS = 0x03
_115200, _ANSI = 7, 3
_NOT_PCI = 0xFFFF
_GAS_SIZE = 12
_PORTS = 8


def spcr() -> bytes:
    """Return the Serial Port Console Redirection Table: COM1, 115200 baud."""
    body = struct.pack("<B3x", _16550) + io_address(COM1, 8)
    body += struct.pack("<BBI", _BOTH_CONTROLLERS, COM1_IRQ, COM1_IRQ)
    body += struct.pack("<6B", _115200, 0, 1, 0, _ANSI, 0)
    body += struct.pack("<HHBBBIBI", _NOT_PCI, _NOT_PCI, 0, 0, 0, 0, 0, 0)
    return system_table(b"SPCR", 2, body)


def dbg2() -> bytes:
    """Return the Debug Port Table 2: the same port."""
    registers = 22
    size = registers + _GAS_SIZE
    name = size + 4
    info = struct.pack("<BHBHHHH", 0, name + len(_NAME), 1, len(_NAME), name, 0, 0)
    info += struct.pack("<HHHHH", _SERIAL, _16550, 0, registers, size)
    info += io_address(COM1, 8) + struct.pack("<I", _PORTS) + _NAME
    return system_table(b"DBG2", 0, struct.pack("<II", 44, 1) + info)


def hpet() -> bytes:
    """Return the table that leads to the HPET."""
    body = struct.pack("<I", CAPABILITIES & 0xFFFF_FFFF) + memory_address(HPET_BASE, 64)
    return system_table(b"HPET", 1, body + struct.pack("<BHB", 0, 100, 0))


def more_tables() -> tuple[bytes, ...]:
    """Return them all."""
    return spcr(), dbg2(), hpet()
