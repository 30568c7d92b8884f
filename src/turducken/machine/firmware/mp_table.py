"""The floating pointer and the configuration table of the MultiProcessor Specification 1.4."""

import struct

from turducken.devices.apic_core import VERSION as LOCAL_APIC_VERSION
from turducken.devices.apic_registers import APIC_DEFAULT_BASE, IO_APIC_DEFAULT_BASE
from turducken.devices.io_apic import VERSION as IO_APIC_VERSION
from turducken.devices.lines import CASCADE_IRQ, ISA_LINES, SCI_IRQ, TIMER_IRQ, TIMER_PIN
from turducken.machine.firmware.acpi import with_checksum

OEM = b"TURDUCKN"
PRODUCT = b"TURDUCKEN   "

_PROCESSOR, _BUS, _IO_APIC, _IO_INTERRUPT, _LOCAL_INTERRUPT = range(5)
_ENABLED, _BOOT = 1, 2
_VECTORED, _NMI, _EXTINT = 0, 1, 3
_ISA_BUS = 0
_EVERY_APIC = 0xFF
_LEVEL_HIGH = 0x000D
_SPEC_REVISION = 4


def _processor(index: int, signature: int, features: int) -> bytes:
    flags = _ENABLED | (_BOOT if index == 0 else 0)
    return struct.pack(
        "<BBBBIIQ", _PROCESSOR, index, LOCAL_APIC_VERSION, flags, signature, features, 0
    )


def _interrupt(entry: int, kind: int, source: int, to: tuple[int, int], flags: int = 0) -> bytes:
    """Return an interrupt assignment to ``(APIC ID, input)``."""
    return struct.pack("<BBHBBBB", entry, kind, flags, _ISA_BUS, source, *to)


def _io_interrupts(io_apic_id: int) -> list[bytes]:
    entries = [_interrupt(_IO_INTERRUPT, _EXTINT, 0, (io_apic_id, 0))]
    for irq in range(ISA_LINES):
        if irq == CASCADE_IRQ:
            continue
        pin = TIMER_PIN if irq == TIMER_IRQ else irq
        flags = _LEVEL_HIGH if irq == SCI_IRQ else 0
        entries.append(_interrupt(_IO_INTERRUPT, _VECTORED, irq, (io_apic_id, pin), flags))
    return entries


def configuration_table(processors: int, io_apic_id: int, signature: int, features: int) -> bytes:
    """Return the configuration table.

    ``signature`` and ``features`` are EAX and EDX of CPUID.01H.
    """
    entries = [_processor(index, signature, features) for index in range(processors)]
    entries.append(struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "))
    entries.append(
        struct.pack("<BBBBI", _IO_APIC, io_apic_id, IO_APIC_VERSION, _ENABLED, IO_APIC_DEFAULT_BASE)
    )
    entries.extend(_io_interrupts(io_apic_id))
    entries.append(_interrupt(_LOCAL_INTERRUPT, _EXTINT, 0, (_EVERY_APIC, 0)))
    entries.append(_interrupt(_LOCAL_INTERRUPT, _NMI, 0, (_EVERY_APIC, 1)))
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBB",
        b"PCMP",
        44 + len(body),
        _SPEC_REVISION,
        0,
        OEM,
        PRODUCT,
        0,
        0,
        len(entries),
        APIC_DEFAULT_BASE,
        0,
        0,
        0,
    )
    return with_checksum(header + body, 7)


def floating_pointer(table: int) -> bytes:
    """Return the floating pointer structure for a table at physical address ``table``."""
    return with_checksum(struct.pack("<4sIBBBB4x", b"_MP_", table, 1, _SPEC_REVISION, 0, 0), 10)
