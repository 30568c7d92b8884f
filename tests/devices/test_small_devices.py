"""CMOS, keyboard controller, VGA, PCI, fw_cfg, ACPI registers and the small ports."""

from datetime import UTC, datetime

import pytest
from pc_support import Line, Pc

from turducken.address import GIB, MIB
from turducken.devices.acpi_pm import AcpiPm
from turducken.devices.clock import NANOSECONDS, Clock
from turducken.devices.cmos import POWER_ON_DATE, Cmos, MemorySizes
from turducken.devices.fw_cfg import FwCfg
from turducken.devices.keyboard_controller import KeyboardController
from turducken.devices.pci import PciFunction, PciIdentity


@pytest.fixture
def pc():
    return Pc(processors=2)


# -- CMOS and clock --------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rtc_line():
    return Line()


@pytest.fixture
def cmos(clock, rtc_line):
    return Cmos(clock, rtc_line)


def rtc_read(cmos, register):
    cmos.port_write(0x70, 1, register)
    return cmos.port_read(0x71, 1)


def rtc_write(cmos, register, value):
    cmos.port_write(0x70, 1, register)
    cmos.port_write(0x71, 1, value)


def test_the_date_is_fixed_and_runs_with_guest_time(cmos, clock):
    assert cmos.date == POWER_ON_DATE
    clock.advance((2 * 86400 + 3 * 3600 + 25 * 60 + 59) * NANOSECONDS)
    read = [rtc_read(cmos, register) for register in (0x32, 9, 8, 7, 6, 4, 2, 0)]
    assert read == [0x20, 0x24, 0x01, 0x03, 4, 0x03, 0x25, 0x59]


def test_binary_and_twelve_hours(cmos, clock):
    clock.advance(13 * 3600 * NANOSECONDS)
    rtc_write(cmos, 0x0B, 0x04)
    assert rtc_read(cmos, 4) == 0x81
    rtc_write(cmos, 0x0B, 0x00)
    rtc_write(cmos, 4, 0x92)
    assert cmos.date.hour == 12
    rtc_write(cmos, 4, 0x12)
    assert cmos.date.hour == 0


def test_setting_the_date_with_updates_halted(cmos, clock):
    rtc_write(cmos, 0x0B, 0x82)
    for register, value in (
        (0x32, 0x19),
        (9, 0x99),
        (8, 0x12),
        (7, 0x31),
        (4, 0x23),
        (2, 0),
        (0, 5),
    ):
        rtc_write(cmos, register, value)
    clock.advance(10 * NANOSECONDS)
    assert rtc_read(cmos, 0) == 5
    rtc_write(cmos, 0x0B, 0x02)
    clock.advance(NANOSECONDS)
    assert cmos.date == datetime(1999, 12, 31, 23, 0, 6, tzinfo=UTC)


def test_dates_that_no_calendar_has_become_the_nearest(cmos):
    for register, value in ((8, 0x02), (7, 0x99), (2, 0xFF), (0, 0xEE), (4, 0x77)):
        rtc_write(cmos, register, value)
    assert cmos.date == datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    rtc_write(cmos, 0x32, 0)
    rtc_write(cmos, 9, 0)
    rtc_write(cmos, 0x32, 0xFF)
    assert 1 <= cmos.date.year <= 9999


def test_update_in_progress_before_each_second(cmos, clock):
    assert rtc_read(cmos, 0x0A) == 0x26
    clock.advance(NANOSECONDS - 100_000)
    assert rtc_read(cmos, 0x0A) == 0xA6
    clock.advance(100_000)
    assert rtc_read(cmos, 0x0A) == 0x26


def test_the_periodic_interrupt_waits_for_register_c(cmos, clock, rtc_line):
    rtc_write(cmos, 0x0B, 0x42)
    clock.advance(NANOSECONDS // 1024 + 1)
    assert rtc_line.level
    assert rtc_read(cmos, 0x0C) == 0xC0
    assert not rtc_line.level
    for _ in range(1023):
        clock.advance(NANOSECONDS // 1024)
        rtc_read(cmos, 0x0C)
    assert rtc_line.rises in (1023, 1024)


def test_update_ended_and_alarm_interrupts(cmos, clock, rtc_line):
    for register, value in ((1, 0x02), (3, 0xC0), (5, 0xFF)):
        rtc_write(cmos, register, value)
    rtc_write(cmos, 0x0B, 0x22)
    clock.advance(NANOSECONDS)
    assert not rtc_line.level
    clock.advance(NANOSECONDS)
    assert rtc_read(cmos, 0x0C) == 0xB0
    rtc_write(cmos, 0x0B, 0x12)
    clock.advance(NANOSECONDS)
    assert rtc_read(cmos, 0x0C) == 0x90


def test_memory_sizes(cmos):
    cmos.set_memory(MemorySizes(3 * GIB, 5 * GIB), processors=4)
    word = [rtc_read(cmos, r) | rtc_read(cmos, r + 1) << 8 for r in (0x15, 0x17, 0x30, 0x34, 0x5B)]
    assert word == [640, 0xFFFF, 0xFFFF, (3 * GIB - 16 * MIB) // 65536, 5 * GIB // 65536 & 0xFFFF]
    assert rtc_read(cmos, 0x5D) == 5 * GIB // 65536 >> 16
    assert rtc_read(cmos, 0x5F) == 3


def test_the_nmi_mask_is_not_part_of_the_index(cmos):
    rtc_write(cmos, 0x8F, 0x0A)
    assert cmos.shutdown_status == 0x0A
    assert rtc_read(cmos, 0x0F) == 0x0A
    assert rtc_read(cmos, 0x0D) == 0x80


# -- keyboard controller ---------------------------------------------------------------------------


class Keyboard:
    def __init__(self):
        self.resets = 0
        self.line, self.mouse = Line(), Line()
        self.device = KeyboardController(self.reset, self.line, self.mouse)

    def reset(self):
        self.resets += 1

    def command(self, *values):
        self.device.port_write(0x64, 1, values[0])
        for value in values[1:]:
            self.device.port_write(0x60, 1, value)

    def replies(self):
        got = []
        while self.device.port_read(0x64, 1) & 1:
            got.append(self.device.port_read(0x60, 1))
        return got


@pytest.mark.parametrize(
    ("command", "replies"),
    [((0xAA,), [0x55]), ((0xAB,), [0]), ((0xA9,), [0]), ((0x20,), [0x47]), ((0xD0,), [0x03]),
     ((0xC0,), [0x80]), ((0xD2, 0x1E), [0x1E]), ((0xD3, 0x09), [0x09]),
     ((0xD4, 0xFF), [0xFA, 0xAA, 0]),
     ((0xD4, 0xF2), [0xFA, 0])],
)  # fmt: skip
def test_controller_commands(command, replies):
    keyboard = Keyboard()
    keyboard.command(*command)
    assert keyboard.replies() == replies


@pytest.mark.parametrize(
    ("data", "replies"),
    [((0xFF,), [0xFA, 0xAA]), ((0xF2,), [0xFA, 0xAB, 0x83]), ((0xED, 0x07), [0xFA, 0xFA]),
     ((0xEE,), [0xEE]), ((0xF4,), [0xFA])],
)  # fmt: skip
def test_keyboard_commands(data, replies):
    keyboard = Keyboard()
    for value in data:
        keyboard.device.port_write(0x60, 1, value)
    assert keyboard.replies() == replies


@pytest.mark.parametrize("command", [(0xFE,), (0xF0,), (0xD1, 0x02)])
def test_the_reset_line(command):
    keyboard = Keyboard()
    keyboard.command(*command)
    assert keyboard.resets == 1


def test_gate_a20():
    keyboard = Keyboard()
    assert keyboard.device.is_a20_enabled
    keyboard.command(0xD1, 0x01)
    assert not keyboard.device.is_a20_enabled
    keyboard.command(0xDF)
    assert keyboard.device.is_a20_enabled
    keyboard.command(0xFF)
    assert keyboard.resets == 0


def test_each_byte_gives_an_edge():
    keyboard = Keyboard()
    keyboard.device.feed(b"\x1e\x9e")
    assert keyboard.line.rises == 1
    assert keyboard.replies() == [0x1E, 0x9E]
    assert keyboard.line.rises == 2
    assert not keyboard.line.level
    keyboard.command(0x60, 0x00)
    keyboard.device.feed(b"\x1e")
    assert not keyboard.line.level


def test_a_keyboard_that_is_off_says_nothing():
    keyboard = Keyboard()
    keyboard.command(0xAD)
    keyboard.device.feed(b"\x1e")
    assert keyboard.replies() == []


# -- ports that end or reset the run ---------------------------------------------------------------


@pytest.mark.parametrize(("size", "value"), [(1, 0x00), (1, 0x31), (2, 0x1234), (4, 0x89AB_CDEF)])
def test_debug_exit_takes_any_width(pc, size, value):
    pc.out(0xF4, value, size)
    assert pc.host.events == [("exit", value)]


def test_the_letters_shutdown(pc):
    for letter in b"ShutShutdow":
        pc.out(0x8900, letter)
    assert pc.host.events == []
    pc.out(0x8900, ord("n"))
    assert pc.host.events == ["power off"]


@pytest.mark.parametrize(
    "writes",
    [[(0x92, 0x03)], [(0xCF9, 0x02), (0xCF9, 0x06)], [(0x64, 0xFE)]],
)
def test_ways_to_reset(pc, writes):
    for port, value in writes:
        pc.out(port, value)
    assert pc.host.events == [("reset", writes[0][0])]


@pytest.mark.parametrize(
    "writes", [[(0x604, 0x2000, 2)], [(0xB004, 0x2001, 2)], [(0x605, 0x20, 1)]]
)
def test_ways_to_switch_off(pc, writes):
    for port, value, size in writes:
        pc.out(port, value, size)
    assert pc.host.events == ["power off"]


def test_another_sleep_type_is_not_off(pc):
    pc.out(0x604, 0x2000 | 1 << 10, 2)
    assert pc.host.events == [("sleep", 1)]


def test_debug_console_and_post_codes(pc):
    assert pc.inp(0xE9) == 0xE9
    pc.out(0x80, 0x42)
    assert (pc.inp(0x80), pc.chipset.post.last) == (0x42, 0x42)


# -- VGA -------------------------------------------------------------------------------------------


def test_the_screen_is_ram(pc):
    pc.chipset.vga.clear()
    for column, letter in enumerate(b"hello"):
        pc.memory.write(0xB8000 + 160 * 3 + 2 * column, bytes([letter, 7]))
    assert pc.chipset.vga.text() == "\n\n\nhello"


def test_the_screen_starts_where_the_crt_controller_says(pc):
    pc.memory.write(0xB8000 + 160, b"X\x07")
    pc.out(0x3D4, 80 << 8 | 0x0D, 2)
    assert pc.chipset.vga.rows()[0] == "X"
    pc.out(0x3D4, 0x0F)
    pc.out(0x3D5, 80 + 85)
    assert pc.chipset.vga.cursor == (1, 5)


def test_retrace_toggles_and_misc_reads_back(pc):
    assert pc.inp(0x3DA) != pc.inp(0x3DA)
    assert pc.inp(0x3CC) == 0x67
    pc.out(0x3C0, 0x10)
    pc.out(0x3C0, 0x0C)
    assert pc.inp(0x3C0) == 0


# -- PCI -------------------------------------------------------------------------------------------


def pci_read(pc, device, register, size=4, *, bus=0):
    pc.out(0xCF8, 1 << 31 | bus << 16 | device << 11 | register & ~3, 4)
    return pc.inp(0xCFC + (register & 3), size)


def test_configuration_reads_all_ones_where_nothing_is(pc):
    assert pci_read(pc, 5, 0) == 0xFFFF_FFFF
    assert pci_read(pc, 0, 0, bus=3) == 0xFFFF_FFFF
    pc.out(0xCF8, 0, 4)
    assert pc.inp(0xCFC, 4) == 0xFFFF_FFFF


def test_a_host_bridge_is_there(pc):
    assert pci_read(pc, 0, 0) == 0x1237_8086
    assert pci_read(pc, 0, 0x0A, 2) == 0x0600
    assert pci_read(pc, 0, 0x02, 1) == 0x37
    pc.out(0xCFC, 0, 4)
    assert pci_read(pc, 0, 0) == 0x1237_8086


def test_the_address_register_is_a_doubleword(pc):
    pc.out(0xCF8, 0x8000_0000, 4)
    pc.out(0xCFB, 0x00)
    assert pc.inp(0xCF8, 4) == 0x8000_0000


def test_only_writable_bits_of_a_function_change(pc):
    function = PciFunction(PciIdentity(0x1234, 0x5678, 0), writable={0x40: 0xF0})
    pc.chipset.pci.add(0, 4, 0, function)
    pci_read(pc, 4, 0x40)
    pc.out(0xCFC, 0xFFFF_FFFF, 4)
    assert pci_read(pc, 4, 0x40) == 0xF0
    assert pci_read(pc, 4, 0, 2) == 0x1234


# -- fw_cfg ----------------------------------------------------------------------------------------


def fw_read(device, selector, count):
    device.port_write(0x510, 2, selector)
    return bytes(device.port_read(0x511, 1) for _ in range(count))


def test_firmware_configuration_items():
    device = FwCfg(ram_size=5 * GIB, processors=7)
    assert fw_read(device, 0, 4) == b"QEMU"
    assert fw_read(device, 1, 4) == b"\x01\0\0\0"
    assert int.from_bytes(fw_read(device, 3, 8), "little") == 5 * GIB
    assert fw_read(device, 5, 2) == b"\x07\0"
    assert fw_read(device, 0x0F, 2) == b"\x07\0"
    assert fw_read(device, 0x1234, 2) == b"\0\0"
    assert fw_read(device, 5, 5) == b"\x07\0\0\0\0"


def test_firmware_files_are_in_the_directory():
    device = FwCfg(ram_size=GIB, processors=1)
    selector = device.add_file("opt/test", b"payload")
    directory = fw_read(device, 0x19, 4 + 64)
    assert directory[:4] == b"\0\0\0\x01"
    assert directory[4:12] == b"\0\0\0\x07" + selector.to_bytes(2, "big") + b"\0\0"
    assert directory[12:].rstrip(b"\0") == b"opt/test"
    assert fw_read(device, selector, 7) == b"payload"


def test_the_pc_has_the_ports(pc):
    pc.out(0x510, 5, 2)
    assert pc.inp(0x511) == 2


# -- ACPI registers --------------------------------------------------------------------------------


def test_the_pm_timer_runs_at_its_rate(clock):
    device = AcpiPm(clock)
    clock.advance(NANOSECONDS)
    assert device.port_read(0x608, 4) == 3_579_545
    clock.advance(4 * NANOSECONDS)
    assert device.port_read(0x608, 4) == 5 * 3_579_545 % (1 << 24)


def test_acpi_mode_is_on(clock):
    assert AcpiPm(clock).port_read(0x604, 2) == 1


def test_the_timer_s_status_and_interrupt(clock):
    line = Line()
    device = AcpiPm(clock, line=line)
    device.port_write(0x602, 2, 1)
    assert device.port_read(0x602, 2) == 1
    clock.advance(3 * NANOSECONDS)
    assert line.level
    assert device.port_read(0x600, 2) == 1
    device.port_write(0x600, 2, 1)
    assert not line.level
    clock.advance(3 * NANOSECONDS)
    assert line.rises == 2


# -- Interrupt lines that the guest drives ---------------------------------------------------------


def test_a_guest_drives_interrupt_lines_itself(pc):
    def requests():
        pc.out(0xA0, 0x0A)  # OCW3: the next read gives IRR
        return pc.inp(0xA0)

    pc.out(0x200F, 1)
    assert requests() == 1 << 7
    pc.out(0x200A, 0xFF)
    assert requests() == 1 << 7 | 1 << 2
    pc.out(0x200F, 0)
    assert requests() == 1 << 2
    assert pc.inp(0x2000) == 0xFF
    assert pc.host.events == []


def test_the_ports_of_test_suites_keep_what_is_written(pc):
    pc.out(0xE0, 0x11223344, 4)
    assert [pc.inp(0xE0 + n) for n in range(4)] == [0x44, 0x33, 0x22, 0x11]
    pc.out(0xE1, 0xAABB, 2)
    assert pc.inp(0xE0, 4) == 0x11AABB44
    pc.out(0xE8, 0x55)
    assert (pc.inp(0xE8), pc.inp(0xE0, 4)) == (0x55, 0x11AABB55)
    pc.out(0xE4, 0x1000, 4)
    assert pc.inp(0xE0, 4) == 0x11AABB55


def test_the_window_of_test_suites_is_memory(pc):
    bus = pc.chipset.mmio_of(0)
    bus.write(0xFF00_0000, 8, 0x1122334455667788)
    assert bus.read(0xFF00_0003, 2) == 0x4455
    bus.write(0xFF00_FFFE, 4, 0xAABBCCDD)
    assert bus.read(0xFF00_FFFE, 4) == 0xCCDD
    assert bus.find(0xFF01_0000) is None
