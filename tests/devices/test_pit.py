import pytest
from pc_support import Line, Pc

from turducken.devices.clock import NANOSECONDS, Clock
from turducken.devices.pit import PIT_FREQUENCY, Pit


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def pit(clock, line):
    return Pit(clock, line)


def load(pit, channel, mode, count, *, bcd=False):
    pit.port_write(0x43, 1, channel << 6 | 0x30 | mode << 1 | bcd)
    pit.port_write(0x40 + channel, 1, count & 0xFF)
    pit.port_write(0x40 + channel, 1, count >> 8)


def advance_ticks(clock, ticks):
    now = PIT_FREQUENCY.ticks(clock.now)
    clock.advance_to(PIT_FREQUENCY.time_of(now + ticks))


def read_latched(pit, channel):
    pit.port_write(0x43, 1, channel << 6)
    low = pit.port_read(0x40 + channel, 1)
    return low | pit.port_read(0x40 + channel, 1) << 8


def speaker_output(pit):
    return bool(pit.port_read(0x61, 1) & 0x20)


def test_mode_0_on_channel_2_times_a_delay(pit, clock):
    pit.port_write(0x61, 1, 0x01)
    load(pit, 2, 0, 11932)  # 10 ms
    assert not speaker_output(pit)
    clock.advance(9_990_000)
    assert not speaker_output(pit)
    clock.advance(20_000)
    assert speaker_output(pit)
    # It stays high, and the count goes on below zero.
    clock.advance(NANOSECONDS)
    assert speaker_output(pit)


def test_the_gate_suspends_mode_0(pit, clock):
    pit.port_write(0x61, 1, 0x01)
    load(pit, 2, 0, 1000)
    advance_ticks(clock, 401)
    pit.port_write(0x61, 1, 0x00)
    advance_ticks(clock, 5000)
    assert read_latched(pit, 2) == 600
    pit.port_write(0x61, 1, 0x01)
    advance_ticks(clock, 599)
    assert not speaker_output(pit)
    advance_ticks(clock, 1)
    assert speaker_output(pit)


def test_mode_2_interrupts_at_its_rate(pit, clock, line):
    load(pit, 0, 2, 1193)
    clock.advance(NANOSECONDS)
    assert line.rises in (1000, 1001)


def test_mode_3_interrupts_at_its_rate_and_counts_by_two(pit, clock, line):
    load(pit, 0, 3, 0)
    advance_ticks(clock, 1 + 65536)
    assert line.rises == 2  # the output is high from the control word on
    load(pit, 0, 3, 1000)
    advance_ticks(clock, 1 + 100)
    assert read_latched(pit, 0) == 800
    advance_ticks(clock, 500)
    assert read_latched(pit, 0) == 800


def test_mode_0_interrupts_once(pit, clock, line):
    load(pit, 0, 0, 100)
    assert not line.level
    advance_ticks(clock, 100_000)
    assert line.rises == 1


@pytest.mark.parametrize(("mode", "rises"), [(4, 2), (5, 1), (1, 1)])
def test_strobes_and_one_shots(pit, clock, line, mode, rises):
    # The output is high at first; only mode 4 starts without a rise of the gate.
    load(pit, 0, mode, 50)
    advance_ticks(clock, 200)
    assert line.rises == rises


def test_mode_1_is_triggered_by_the_gate(pit, clock):
    load(pit, 2, 1, 100)
    assert speaker_output(pit)
    pit.port_write(0x61, 1, 0x01)
    advance_ticks(clock, 2)
    assert not speaker_output(pit)
    advance_ticks(clock, 100)
    assert speaker_output(pit)


def test_a_new_count_waits_for_the_end_of_the_period(pit, clock, line):
    load(pit, 0, 2, 1000)
    advance_ticks(clock, 501)
    pit.port_write(0x40, 1, 100)
    pit.port_write(0x40, 1, 0)
    before = line.rises
    advance_ticks(clock, 499)
    assert line.rises == before
    advance_ticks(clock, 1)
    assert line.rises == before + 1
    advance_ticks(clock, 100)
    assert line.rises == before + 2


def test_bcd_counts_in_decimal(pit, clock):
    load(pit, 0, 0, 0x1000, bcd=True)
    advance_ticks(clock, 2)
    assert read_latched(pit, 0) == 0x0999


def test_a_latched_count_stays_until_it_is_read(pit, clock):
    load(pit, 0, 0, 1000)
    advance_ticks(clock, 101)
    pit.port_write(0x43, 1, 0x00)
    advance_ticks(clock, 300)
    pit.port_write(0x43, 1, 0x00)
    assert pit.port_read(0x40, 1) | pit.port_read(0x40, 1) << 8 == 900
    assert pit.port_read(0x40, 1) | pit.port_read(0x40, 1) << 8 == 600


def test_read_back_gives_status_then_count(pit, clock):
    load(pit, 0, 2, 500)
    pit.port_write(0x43, 1, 0xE2)
    assert pit.port_read(0x40, 1) == 0x80 | 0x40 | 0x34
    advance_ticks(clock, 51)
    pit.port_write(0x43, 1, 0xC2)
    assert pit.port_read(0x40, 1) == 0xB4
    assert pit.port_read(0x40, 1) | pit.port_read(0x40, 1) << 8 == 450


def test_single_byte_access(pit, clock):
    pit.port_write(0x43, 1, 0x50 | 0x00)
    pit.port_write(0x41, 1, 200)
    advance_ticks(clock, 51)
    assert pit.port_read(0x41, 1) == 150
    pit.port_write(0x43, 1, 0x60)
    pit.port_write(0x41, 1, 2)
    advance_ticks(clock, 3)
    assert pit.port_read(0x41, 1) == 0x01


def test_the_refresh_bit_toggles_with_time():
    clock = Clock()
    pit = Pit(clock)
    seen = set()
    for _ in range(8):
        clock.advance(10_000)
        seen.add(pit.port_read(0x61, 1) & 0x10)
    assert seen == {0, 0x10}


def test_the_timer_reaches_both_interrupt_controllers():
    pc = Pc()
    pc.out(0x20, 0x11)
    for value in (0x20, 4, 1, 0):
        pc.out(0x21, value)
    mmio = pc.chipset.mmio_of(0)
    mmio.write(0xFEE0_00F0, 4, 0x1FF)
    mmio.write(0xFEC0_0000, 4, 0x14)
    mmio.write(0xFEC0_0010, 4, 0x30)
    load(pc.chipset.pit, 0, 2, 1000)
    pc.clock.advance(2_000_000)
    assert pc.chipset.pics.peek_vector() == 0x20
    assert pc.chipset.apics[0].pending_vector() == 0x30
