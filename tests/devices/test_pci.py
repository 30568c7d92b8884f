"""PCI functions through the configuration ports: base addresses, interrupts, the PC's own."""

import pytest
from pc_support import Line, Pc

from turducken.devices.pci import IoBar, MemoryBar, PciFunction, PciIdentity
from turducken.machine.firmware.pci_setup import set_up_pci

COMMAND, BAR0, BAR1, LINE, PIN = 0x04, 0x10, 0x14, 0x3C, 0x3D
IO, MEMORY, MASTER, NO_INTERRUPT = 1, 2, 4, 0x400


class Registers:
    def __init__(self):
        self.values = {}

    def read_register(self, offset, size):
        return self.values.get(offset, 0x5A5A5A5A) & (1 << 8 * size) - 1

    def write_register(self, offset, size, value):
        self.values[offset] = value


class Bus:
    def __init__(self):
        self.pc = Pc()
        self.registers = Registers()
        self.function = PciFunction(
            PciIdentity(0x1234, 0x5678, 0x010203),
            {0: IoBar(32, self.registers), 1: MemoryBar(0x1000, self.registers)},
            pin=1,
        )
        self.pc.chipset.add_function((5, 0), self.function)

    def read(self, register, size=4, device=5, function=0):
        self.pc.out(0xCF8, 1 << 31 | device << 11 | function << 8 | register & ~3, 4)
        return self.pc.inp(0xCFC + (register & 3), size)

    def write(self, register, value, size=4, device=5, function=0):
        self.pc.out(0xCF8, 1 << 31 | device << 11 | function << 8 | register & ~3, 4)
        self.pc.out(0xCFC + (register & 3), value, size)


@pytest.fixture
def bus():
    return Bus()


def test_base_addresses_tell_their_size(bus):
    bus.write(BAR0, 0xFFFF_FFFF)
    bus.write(BAR1, 0xFFFF_FFFF)
    assert bus.read(BAR0) == 0xFFFF_FFE1
    assert bus.read(BAR1) == 0xFFFF_F000
    bus.write(0x18, 0xFFFF_FFFF)
    assert bus.read(0x18) == 0


def test_registers_answer_where_and_while_the_guest_says(bus):
    bus.write(BAR0, 0xC000)
    assert bus.pc.inp(0xC004, 4) == 0xFFFF_FFFF
    bus.write(COMMAND, IO, 2)
    assert bus.pc.inp(0xC004, 4) == 0x5A5A_5A5A
    bus.pc.out(0xC01C, 7, 4)
    assert bus.registers.values == {0x1C: 7}
    bus.write(BAR0, 0xD000)
    assert bus.pc.inp(0xC004, 4) == 0xFFFF_FFFF
    assert bus.pc.inp(0xD004, 2) == 0x5A5A
    bus.write(COMMAND, 0, 2)
    assert bus.pc.inp(0xD004, 4) == 0xFFFF_FFFF


def test_registers_in_memory(bus):
    bus.write(BAR1, 0xE000_0000)
    bus.write(COMMAND, MEMORY, 2)
    memory = bus.pc.chipset.mmio_of(0)
    assert memory.read(0xE000_0010, 4) == 0x5A5A_5A5A
    memory.write(0xE000_0FFC, 4, 9)
    assert bus.registers.values == {0xFFC: 9}
    assert memory.read(0xE000_1000, 4) == 0xFFFF_FFFF


def test_a_base_address_over_a_fixed_port_does_not_take_it(bus):
    bus.write(BAR0, 0x3E0)
    bus.write(COMMAND, IO, 2)
    bus.pc.out(0x3FF, 0x5A)
    assert bus.pc.inp(0x3FF) == 0x5A
    assert bus.registers.values == {}
    assert bus.pc.inp(0x3E0) == 0x5A  # a free one of its ports
    bus.write(BAR0, 0)
    assert bus.pc.inp(0x3E0) == 0xFF


@pytest.mark.parametrize("base", [0xFFE0, 0xFFFF_FFE0, 0])
def test_a_base_address_at_the_end_of_the_ports(bus, base):
    bus.write(BAR0, base)
    bus.write(COMMAND, IO, 2)
    assert bus.pc.inp(0xFFFF, 1) == (0x5A if base == 0xFFE0 else 0xFF)


def test_interrupts_go_where_the_isa_bridge_routes_them(bus):
    bus.write(0x60, 0x0B_0A_05_80, device=1)
    chipset = bus.pc.chipset
    asked = []
    chipset.isa_bridge._lines[5] = Line()
    chipset.isa_bridge._lines[10] = Line()
    line5, line10 = chipset.isa_bridge._lines[5], chipset.isa_bridge._lines[10]
    assert bus.read(PIN, 1) == 1
    bus.function.interrupt(level=True)  # device 5, INTA#: line A, which is off
    assert (line5.level, line10.level) == (False, False)
    bus.write(0x60, 0x05, 1, device=1)
    assert line5.level
    assert bus.read(0x06, 2) & 8
    bus.write(COMMAND, NO_INTERRUPT, 2)
    assert not line5.level
    bus.write(COMMAND, 0, 2)
    assert line5.level
    bus.function.interrupt(level=False)
    assert not line5.level
    assert not asked


def test_two_functions_share_a_line(bus):
    other = PciFunction(PciIdentity(1, 2, 3), pin=1)
    bus.pc.chipset.add_function((9, 0), other)
    line = bus.pc.chipset.isa_bridge._lines[11] = Line()
    bus.write(0x60, 0x0B, 1, device=1)
    bus.function.interrupt(level=True)
    other.interrupt(level=True)
    bus.function.interrupt(level=False)
    assert line.level
    other.interrupt(level=False)
    assert not line.level


def test_the_pcs_own_functions(bus):
    identities = [bus.read(0, device=device, function=function) for device, function in
                  ((0, 0), (1, 0), (1, 1), (1, 3))]  # fmt: skip
    assert identities == [0x1237_8086, 0x7000_8086, 0x7010_8086, 0x7113_8086]
    assert bus.read(0x0E, 1, device=1) == 0x80
    assert bus.read(0x40, device=1, function=3) == 0x601
    assert bus.read(0, device=1, function=2) == 0xFFFF_FFFF


def test_a_bios_places_functions_and_routes_their_interrupts(bus):
    set_up_pci(bus.pc.chipset)
    assert bus.read(BAR0) == 0xC021  # behind the IDE function's, on a multiple of its size
    assert bus.read(BAR1) == 0xE000_0000
    assert bus.pc.inp(0xC024, 4) == 0x5A5A_5A5A
    assert bus.read(LINE, 1) == 10
    assert bus.read(0x60, device=1) == 0x0B0B_0A0A
    assert bus.pc.inp(0x4D1) & 0x0C == 0x0C
