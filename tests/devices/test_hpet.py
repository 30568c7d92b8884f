"""The HPET through its registers in memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pc_support import Line, Pc

BASE = 0xFED0_0000
CONFIGURATION, STATUS, COUNTER = 0x10, 0x20, 0xF0
ON, LEGACY = 1, 2
LEVEL, ENABLE, PERIODIC, SET_VALUE = 2, 4, 8, 0x40


def timer(number):
    return 0x100 + 0x20 * number


class Block:
    def __init__(self):
        self.pc = Pc()
        self.hpet = self.pc.chipset.hpet
        self.pins = [Line() for _ in range(24)]
        self.hpet._pins = self.pins
        self.timer_line = self.hpet._legacy[0]

    def read(self, offset, size=8):
        return self.pc.chipset.mmio_of(0).read(BASE + offset, size)

    def write(self, offset, value, size=8):
        self.pc.chipset.mmio_of(0).write(BASE + offset, size, value)

    def arm(self, number, comparator, control):
        self.write(timer(number), control | 20 << 9)
        self.write(timer(number) + 8, comparator)


@pytest.fixture
def block():
    return Block()


def test_capabilities(block):
    assert block.read(0, 4) == 0x8086_A201
    assert block.read(4, 4) == 10_000_000
    assert block.read(timer(0)) & 0xFFFF_FFFF == 0x30


def test_the_counter_counts_while_it_is_on(block):
    block.pc.clock.advance(1000)
    assert block.read(COUNTER) == 0
    block.write(CONFIGURATION, ON)
    block.pc.clock.advance(1000)
    assert block.read(COUNTER) == 100
    block.write(CONFIGURATION, 0)
    block.pc.clock.advance(1000)
    assert block.read(COUNTER) == 100
    block.write(COUNTER, 5, 4)
    assert block.read(COUNTER) == 5


def test_one_shot(block):
    block.write(CONFIGURATION, ON)
    block.arm(0, 50, ENABLE)
    block.pc.clock.advance(499)
    assert block.pins[20].rises == 0
    block.pc.clock.advance(1)
    assert (block.pins[20].rises, block.pins[20].level) == (1, False)
    block.pc.clock.advance(100_000)
    assert block.pins[20].rises == 1


def test_periodic(block):
    block.write(CONFIGURATION, ON)
    block.arm(1, 300, ENABLE | PERIODIC | SET_VALUE)
    block.write(timer(1) + 8, 100)  # without SET_VALUE now: the period
    block.pc.clock.advance(3000)
    assert block.pins[20].rises == 1
    block.pc.clock.advance(5000)
    assert block.pins[20].rises == 6


def test_an_absurd_period_is_made_longer(block):
    block.write(CONFIGURATION, ON)
    block.arm(0, 1, ENABLE | PERIODIC | SET_VALUE)
    block.pc.clock.advance(1_000_000)
    assert 100 < block.pins[20].rises <= 1001


def test_level_interrupts_stay_until_they_are_cleared(block):
    block.write(CONFIGURATION, ON)
    block.arm(2, 10, ENABLE | LEVEL)
    block.pc.clock.advance(200)
    assert block.pins[20].level
    assert block.read(STATUS) == 4
    block.write(STATUS, 4)
    assert not block.pins[20].level
    assert block.read(STATUS) == 0


def test_the_legacy_route_takes_the_lines_of_pit_and_rtc(block):
    line = Line()
    block.hpet._legacy = (line, Line())
    block.arm(0, 10, ENABLE)
    block.write(CONFIGURATION, ON | LEGACY)
    block.pc.clock.advance(100)
    assert line.rises == 1
    assert block.pins[20].rises == 0
    block.pc.out(0x43, 0x34)
    block.pc.out(0x40, 10)
    block.pc.out(0x40, 0)
    block.pc.clock.advance(1_000_000)
    assert line.rises == 1


def test_a_masked_timer_is_silent(block):
    block.write(CONFIGURATION, ON)
    block.arm(0, 10, 0)
    block.pc.clock.advance(10_000)
    assert all(pin.rises == 0 for pin in block.pins)


STEPS = st.one_of(
    st.tuples(
        st.sampled_from([0, 0x10, 0x20, 0xF0, 0x100, 0x108, 0x120, 0x128, 0x140, 0x148, 0x160]),
        st.integers(0, 7),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(st.integers(0, 0x7F), st.integers(0, (1 << 64) - 1)),
    ),
    st.integers(0, 10_000),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_the_hpet_survives_everything(steps):
    block = Block()
    for step in steps:
        if isinstance(step, int):
            block.pc.clock.advance(step)
        else:
            offset, more, size, value = step
            block.write(offset + more, value & (1 << 8 * size) - 1, size)
            assert 0 <= block.read(offset + more, size) < 1 << 8 * size
