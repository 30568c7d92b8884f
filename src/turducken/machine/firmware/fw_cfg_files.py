"""What firmware in a ROM is told through fw_cfg, so that it need not find it out.

QEMU documentation, "QEMU Firmware Configuration (fw_cfg) Device"; the commands of the table loader
are those that SeaBIOS and EDK II execute.
"""

import struct

from turducken.devices.fw_cfg import FwCfg
from turducken.machine.firmware.acpi import (
    CHECKSUM,
    RSDP_CHECKSUMS,
    RSDP_POINTERS,
    AcpiTables,
)
from turducken.machine.firmware.memory_map import MemoryKind, ram_ranges

TABLES, RSDP, LOADER = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_HIGH, _F_SEGMENT = 1, 2
"""Zones: anywhere, and where the BIOS area is scanned for the root pointer."""
_COMMAND_SIZE = 128
_NAME_SIZE = 56
_FAILURE_WAIT = 1000
"""Milliseconds after which SeaBIOS resets the machine when it finds nothing to boot."""


def _name(text: str) -> bytes:
    return text.encode().ljust(_NAME_SIZE, b"\0")


def _command(kind: int, body: bytes) -> bytes:
    return (struct.pack("<I", kind) + body).ljust(_COMMAND_SIZE, b"\0")


def _allocate(file: str, align: int, zone: int) -> bytes:
    return _command(_ALLOCATE, _name(file) + struct.pack("<IB", align, zone))


def _add_pointer(file: str, offset: int, size: int) -> bytes:
    """Add where the tables are to a field of ``file``."""
    body = _name(file) + _name(TABLES) + struct.pack("<IB", offset, size)
    return _command(_ADD_POINTER, body)


def _add_checksum(file: str, place: int, start: int, length: int) -> bytes:
    return _command(_ADD_CHECKSUM, _name(file) + struct.pack("<III", place, start, length))


def loader_script(acpi: AcpiTables) -> bytes:
    """Return the commands that put the tables into memory and lead to them."""
    commands = [_allocate(RSDP, 16, _F_SEGMENT), _allocate(TABLES, 64, _HIGH)]
    commands += [_add_pointer(TABLES, one.offset, one.size) for one in acpi.pointers]
    commands += [_add_pointer(RSDP, one.offset, one.size) for one in RSDP_POINTERS]
    commands += [
        _add_checksum(TABLES, one.start + CHECKSUM, one.start, len(one)) for one in acpi.tables
    ]
    commands += [_add_checksum(RSDP, place, 0, length) for length, place in RSDP_CHECKSUMS]
    return b"".join(commands)


def _without_checksums(data: bytes, places: list[int]) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] = 0
    return bytes(changed)


def add_acpi(fw_cfg: FwCfg, acpi: AcpiTables) -> None:
    """Offer tables that were laid out from address 0 on."""
    places = [one.start + CHECKSUM for one in acpi.tables]
    fw_cfg.add_file(TABLES, _without_checksums(acpi.image, places))
    fw_cfg.add_file(RSDP, _without_checksums(acpi.rsdp, [place for _, place in RSDP_CHECKSUMS]))
    fw_cfg.add_file(LOADER, loader_script(acpi))


def add_memory_map(fw_cfg: FwCfg, ram_size: int) -> None:
    """Offer the RAM as the firmware is to find it."""
    entries = (
        struct.pack("<QQI", start, end - start, MemoryKind.AVAILABLE)
        for start, end in ram_ranges(ram_size)
    )
    fw_cfg.add_file("etc/e820", b"".join(entries))


def add_boot_settings(fw_cfg: FwCfg, serial_console: int | None) -> None:
    """Say that no one is there to choose, and where SeaBIOS's screen is shown: a serial port."""
    fw_cfg.add_file("etc/boot-fail-wait", struct.pack("<I", _FAILURE_WAIT))
    if serial_console is not None:
        fw_cfg.add_file("etc/sercon-port", struct.pack("<H", serial_console))
