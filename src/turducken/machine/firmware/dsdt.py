"""What the DSDT declares: sleep states, processors, the PCI host bridge, and devices without PCI.

ACPI specification, "ACPI-Defined Devices and Device-Specific Objects".
"""

from collections.abc import Iterable

from turducken.address import GIB
from turducken.devices.acpi_pm import SLEEP_TYPE_OFF
from turducken.devices.cmos import INDEX_PORT
from turducken.devices.hpet import HPET_BASE, HPET_SIZE
from turducken.devices.lines import COM1_IRQ, KEYBOARD_IRQ, MOUSE_IRQ, PCI_PINS, RTC_IRQ
from turducken.devices.pci import ADDRESS_PORT
from turducken.devices.pci.piix import pci_line
from turducken.devices.uart import COM1
from turducken.machine.firmware import aml

WINDOW_END = 0xFEC0_0000
"""PCI devices have addresses from the end of the RAM, but at least 2 GiB, up to here."""
_LEAST_WINDOW = 2 * GIB
_PCI_DEVICES = 32


def _routes() -> bytes:
    """Return _PRT: the I/O APIC pin of every pin of every device on bus 0."""
    entries = []
    for number in range(_PCI_DEVICES):
        for pin in range(4):
            gsi = PCI_PINS[pci_line(number, pin + 1)]
            values = (number << 16 | 0xFFFF, pin, 0, gsi)
            entries.append(aml.package(*(aml.integer(one) for one in values)))
    return aml.package(*entries)


def _host_bridge(low_ram: int) -> bytes:
    window = max(low_ram, _LEAST_WINDOW)
    crs = aml.resources(
        aml.bus_numbers(0, 0xFF),
        aml.io_ports(ADDRESS_PORT, 8),
        aml.io_window(0, ADDRESS_PORT - 1),
        aml.io_window(ADDRESS_PORT + 8, 0xFFFF),
        aml.memory_window(0xA_0000, 0xB_FFFF, cacheable=True),
        aml.memory_window(window, WINDOW_END - 1),
    )
    return aml.device("PCI0", _identity("PNP0A03") + _resources(crs) + aml.name("_PRT", _routes()))


def _identity(hid: str, uid: int | None = None) -> bytes:
    declared = aml.name("_HID", aml.eisa_id(hid))
    return declared if uid is None else declared + aml.name("_UID", aml.integer(uid))


def _resources(crs: bytes) -> bytes:
    return aml.name("_CRS", crs)


def _isa_devices() -> Iterable[bytes]:
    keyboard = (aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(KEYBOARD_IRQ))
    for name, hid, uid, crs in (
        ("RTC_", "PNP0B00", None, (aml.io_ports(INDEX_PORT, 2), aml.irq(RTC_IRQ))),
        ("KBD_", "PNP0303", None, keyboard),
        ("MOU_", "PNP0F13", None, (aml.irq(MOUSE_IRQ),)),
        ("HPET", "PNP0103", None, (aml.memory32(HPET_BASE, HPET_SIZE),)),
        ("COM1", "PNP0501", 1, (aml.io_ports(COM1, 8), aml.irq(COM1_IRQ))),
    ):
        yield aml.device(name, _identity(hid, uid) + _resources(aml.resources(*crs)))


def definition_block(processors: int, low_ram: int) -> bytes:
    """Return the block's contents, for RAM that ends at ``low_ram`` below 4 GiB."""
    types = (SLEEP_TYPE_OFF, SLEEP_TYPE_OFF, 0, 0)
    sleep = aml.name("\\_S5_", aml.package(*(aml.integer(one) for one in types)))
    declared = b"".join(aml.processor(index) for index in range(processors))
    bus = _host_bridge(low_ram) + b"".join(_isa_devices())
    return sleep + aml.scope("_PR_", declared) + aml.scope("_SB_", bus)
