"""ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, DSDT and MADT.

ACPI specification, "ACPI Software Programming Model".
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from turducken.devices.acpi_pm import (
    PM1_CONTROL_OFFSET,
    PM1_EVENT_OFFSET,
    PM_BASE,
    PM_TIMER_OFFSET,
)
from turducken.devices.apic_registers import APIC_DEFAULT_BASE, IO_APIC_DEFAULT_BASE
from turducken.devices.cmos import CENTURY
from turducken.devices.lines import SCI_IRQ, TIMER_IRQ, TIMER_PIN
from turducken.devices.pci import RESET_PORT
from turducken.machine.firmware.dsdt import definition_block

OEM_ID = b"TURDUC"
OEM_TABLE_ID = b"TURDUCKN"
CREATOR_ID = b"TRDK"

RSDP_SIZE = 36
RSDP_V1_SIZE = 20
FACS_SIZE = 64

_LEVEL_HIGH = 0x000D
_CONFORMS = 0x0000
"""MPS INTI flags: polarity in bits 1:0, trigger mode in bits 3:2."""
_ALL_PROCESSORS = 0xFF
_PCAT_COMPATIBLE = 1

# FADT flags: WBINVD works; C1 on all processors; no fixed power and sleep buttons; reset register.
_WBINVD, _PROC_C1, _PWR_BUTTON, _SLP_BUTTON, _RESET_REG_SUP = (
    1 << 0,
    1 << 2,
    1 << 4,
    1 << 5,
    1 << 10,
)
_FADT_FLAGS = _WBINVD | _PROC_C1 | _PWR_BUTTON | _SLP_BUTTON | _RESET_REG_SUP
_LEGACY_DEVICES, _HAS_8042 = 1 << 0, 1 << 1
_RESET_VALUE = 0x06
_SYSTEM_MEMORY, _SYSTEM_IO = 0, 1


def checksum(data: bytes) -> int:
    """Return the byte that makes the sum of all bytes zero."""
    return -sum(data) & 0xFF


def with_checksum(data: bytes, position: int) -> bytes:
    """Return ``data`` with the byte at ``position`` (0 before) making the sum zero."""
    return data[:position] + bytes([checksum(data)]) + data[position + 1 :]


def system_table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a table with its header ("System Description Table Header")."""
    header = struct.pack(
        "<4sIBB6s8sI4sI",
        signature,
        36 + len(body),
        revision,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        1,
        CREATOR_ID,
        1,
    )
    return with_checksum(header + body, 9)


def rsdp(rsdt: int, xsdt: int) -> bytes:
    """Return the Root System Description Pointer, revision 2."""
    first = with_checksum(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 2, rsdt), 8)
    whole = first + struct.pack("<IQB3x", RSDP_SIZE, xsdt, 0)
    return with_checksum(whole, 32)


def madt(processors: int, io_apic_id: int) -> bytes:
    """Return the Multiple APIC Description Table, the boot processor first."""
    entries = [struct.pack("<BBBBI", 0, 8, index, index, 1) for index in range(processors)]
    entries.append(struct.pack("<BBBBII", 1, 12, io_apic_id, 0, IO_APIC_DEFAULT_BASE, 0))
    entries.append(struct.pack("<BBBBIH", 2, 10, 0, TIMER_IRQ, TIMER_PIN, _CONFORMS))
    entries.append(struct.pack("<BBBBIH", 2, 10, 0, SCI_IRQ, SCI_IRQ, _LEVEL_HIGH))
    entries.append(struct.pack("<BBBHB", 4, 6, _ALL_PROCESSORS, _CONFORMS, 1))
    body = struct.pack("<II", APIC_DEFAULT_BASE, _PCAT_COMPATIBLE) + b"".join(entries)
    return system_table(b"APIC", 3, body)


def facs() -> bytes:
    """Return the Firmware ACPI Control Structure (must be aligned to 64 bytes)."""
    return struct.pack("<4sII", b"FACS", FACS_SIZE, 0).ljust(32, b"\0") + b"\x02" + bytes(31)


def dsdt(processors: int, low_ram: int) -> bytes:
    """Return the Differentiated System Description Table."""
    return system_table(b"DSDT", 2, definition_block(processors, low_ram))


def io_address(port: int, bits: int) -> bytes:
    """Return a generic address structure for a port."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, bits, 0, 0, port)


def memory_address(address: int, bits: int) -> bytes:
    """Return a generic address structure for registers in memory."""
    return struct.pack("<BBBBQ", _SYSTEM_MEMORY, bits, 0, 0, address)


_NO_ADDRESS = bytes(12)


def fadt(facs_address: int, dsdt_address: int) -> bytes:
    """Return the Fixed ACPI Description Table, revision 4."""
    event, control = PM_BASE + PM1_EVENT_OFFSET, PM_BASE + PM1_CONTROL_OFFSET
    timer = PM_BASE + PM_TIMER_OFFSET
    body = b"".join(
        (
            struct.pack("<IIBB", facs_address, dsdt_address, 0, 0),
            struct.pack("<HIBBBB", SCI_IRQ, 0, 0, 0, 0, 0),  # no SMI command port: ACPI is on
            struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),  # lengths of the register blocks
            struct.pack("<HHHHBBBBB", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, CENTURY),
            struct.pack("<HBI", _LEGACY_DEVICES | _HAS_8042, 0, _FADT_FLAGS),
            io_address(RESET_PORT, 8) + struct.pack("<BHB", _RESET_VALUE, 0, 0),
            struct.pack("<QQ", facs_address, dsdt_address),
            io_address(event, 32) + _NO_ADDRESS + io_address(control, 16) + _NO_ADDRESS,
            _NO_ADDRESS + io_address(timer, 32) + _NO_ADDRESS + _NO_ADDRESS,
        )
    )
    return system_table(b"FACP", 4, body)


@dataclass(frozen=True, slots=True)
class Pointer:
    """A place in the tables that holds an address within them."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """Encoded tables: ``image`` belongs at the address that was asked for."""

    image: bytes
    rsdp: bytes
    """The pointer that belongs where software looks for it."""
    pointers: tuple[Pointer, ...]
    """What must be added to where ``image`` is put elsewhere; the RSDP's are `RSDP_POINTERS`."""
    tables: tuple[range, ...]
    """The tables with checksums, at `CHECKSUM` in each."""


RSDP_POINTERS = (Pointer(16, 4), Pointer(24, 8))
RSDP_CHECKSUMS = ((RSDP_V1_SIZE, 8), (RSDP_SIZE, 32))
"""How many bytes a checksum of the RSDP is for, and where it is."""
CHECKSUM = 9
_FADT_POINTERS = (Pointer(36, 4), Pointer(40, 4), Pointer(132, 8), Pointer(140, 8))


class _Layout:
    """The tables one behind the other from ``base`` on."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.image = bytearray()
        self.pointers: list[Pointer] = []
        self.tables: list[range] = []

    def place(self, table: bytes, pointers: Iterable[Pointer] = ()) -> int:
        """Add a table; return its address."""
        self.image.extend(bytes(-len(self.image) % 64))
        start = len(self.image)
        self.image.extend(table)
        self.pointers += [Pointer(start + one.offset, one.size) for one in pointers]
        if table[:4] != b"FACS":
            self.tables.append(range(start, start + len(table)))
        return self.base + start


def build_acpi(
    base: int, processors: int, io_apic_id: int, others: Sequence[bytes] = (), low_ram: int = 0
) -> AcpiTables:
    """Lay the tables out from physical address ``base`` (aligned to 64 bytes) on.

    ``others`` are further tables, without addresses in them; ``low_ram`` is where the RAM below
    4 GiB ends.
    """
    layout = _Layout(base)
    facs_at = layout.place(facs())
    dsdt_at = layout.place(dsdt(processors, low_ram))
    fadt_at = layout.place(fadt(facs_at, dsdt_at), _FADT_POINTERS)
    listed = [fadt_at, layout.place(madt(processors, io_apic_id))]
    listed += [layout.place(one) for one in others]
    roots = []
    for signature, size in ((b"RSDT", 4), (b"XSDT", 8)):
        body = b"".join(one.to_bytes(size, "little") for one in listed)
        entries = [Pointer(36 + size * index, size) for index in range(len(listed))]
        roots.append(layout.place(system_table(signature, 1, body), entries))
    return AcpiTables(
        bytes(layout.image), rsdp(*roots), tuple(layout.pointers), tuple(layout.tables)
    )
