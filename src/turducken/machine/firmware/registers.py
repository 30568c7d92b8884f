"""The registers of chip set and processors as a BIOS leaves them."""

from turducken.arch.memory_types import PAT_RESET, MemoryType
from turducken.arch.msr import (
    IA32_FEATURE_CONTROL,
    IA32_MTRR_DEF_TYPE,
    IA32_MTRR_PHYSBASE0,
    IA32_PAT,
)
from turducken.devices.apic_registers import LVT, SVR, Delivery, Offset
from turducken.devices.bus import PortBus
from turducken.devices.chipset import Chipset
from turducken.devices.io_apic import SELECT_OFFSET, WINDOW_OFFSET, IoApic
from turducken.devices.lines import SCI_IRQ
from turducken.devices.local_apic import LocalApic
from turducken.devices.mtrr import DEF_TYPE, FIXED_RANGES, PHYSBASE, PHYSMASK, Mtrrs
from turducken.devices.uart import LCR, LINE_CONTROL
from turducken.machine.firmware.memory_map import LOW_MEMORY_END
from turducken.memory.physical import HIGH_BASE, LOW_LIMIT

FEATURE_CONTROL = 0x5
"""Locked, with VMX allowed outside SMX: SDM 3C, "Enabling and Entering VMX Operation"."""

PROCESSOR_MSRS = {IA32_FEATURE_CONTROL: FEATURE_CONTROL, IA32_PAT: PAT_RESET}
"""What a BIOS leaves in the MSRs of every processor, besides the MTRRs."""

MASTER_BASE, SLAVE_BASE = 0x08, 0x70
MASTER_MASK = 0xB8
"""Open: the timer, the keyboard, the cascade and the diskette drive."""
SLAVE_MASK = 0x8F

_VIDEO_END = 0xC0000


def set_mtrrs(mtrrs: Mtrrs, maxphyaddr: int = 46) -> None:
    """Make RAM write-back, the BIOS area write-protect, video and the device hole uncacheable."""
    for index, (first, size) in FIXED_RANGES.items():
        kinds = (_fixed_kind(first + size * part) for part in range(8))
        mtrrs.write_msr(index, int.from_bytes(bytes(kinds), "little"))
    hole = HIGH_BASE - LOW_LIMIT
    mask = (1 << maxphyaddr) - hole & PHYSMASK.mask("MASK")
    mtrrs.write_msr(IA32_MTRR_PHYSBASE0, LOW_LIMIT | PHYSBASE.make(TYPE=MemoryType.UC))
    mtrrs.write_msr(IA32_MTRR_PHYSBASE0 + 1, mask | PHYSMASK.mask("VALID"))
    mtrrs.write_msr(IA32_MTRR_DEF_TYPE, DEF_TYPE.make(TYPE=MemoryType.WB, FE=1, E=1))


def _fixed_kind(address: int) -> MemoryType:
    if address < LOW_MEMORY_END:
        return MemoryType.WB
    return MemoryType.UC if address < _VIDEO_END else MemoryType.WP


def set_virtual_wire(apic: LocalApic) -> None:
    """Let the 8259 pair through LINT0 and NMIs through LINT1 of the boot processor.

    MultiProcessor Specification, "Virtual Wire Mode".
    """
    apic.mmio_write(Offset.SVR, 4, SVR.make(VECTOR=0xFF, ENABLE=1))
    apic.mmio_write(Offset.LVT_LINT0, 4, LVT.make(MODE=Delivery.EXTINT))
    apic.mmio_write(Offset.LVT_LINT1, 4, LVT.make(MODE=Delivery.NMI))


def set_up_chipset(chipset: Chipset, io_apic_id: int) -> None:
    """Program interrupt controllers, timer and video as a BIOS does before it boots a system.

    The timer runs at 18.2 interrupts a second, and its line is open in the 8259 pair.
    """
    _set_up_timer(chipset.ports)
    _set_up_pics(chipset.ports)  # after the timer: this forgets the edge that its set-up gave
    _set_io_apic_id(chipset.io_apic, io_apic_id)
    set_virtual_wire(chipset.apics[0])
    for uart in chipset.uarts:
        chipset.ports.write(uart.base + LINE_CONTROL, 1, LCR.make(WORD_LENGTH=3))  # 8 data bits
    chipset.vga.clear()


def _set_up_pics(ports: PortBus) -> None:
    for command, base, wiring in ((0x20, MASTER_BASE, 0x04), (0xA0, SLAVE_BASE, 0x02)):
        ports.write(command, 1, 0x11)
        for value in (base, wiring, 0x01):
            ports.write(command + 1, 1, value)
    ports.write(0x21, 1, MASTER_MASK)
    ports.write(0xA1, 1, SLAVE_MASK)
    ports.write(0x4D0, 2, 1 << SCI_IRQ)


def _set_up_timer(ports: PortBus) -> None:
    ports.write(0x43, 1, 0x36)  # channel 0: square wave, longest period
    ports.write(0x40, 1, 0)
    ports.write(0x40, 1, 0)
    ports.write(0x43, 1, 0x54)  # channel 1: memory refresh
    ports.write(0x41, 1, 0x12)


def _set_io_apic_id(io_apic: IoApic, io_apic_id: int) -> None:
    io_apic.mmio_write(SELECT_OFFSET, 4, 0)
    io_apic.mmio_write(WINDOW_OFFSET, 4, io_apic_id << 24)
