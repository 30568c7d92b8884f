import pytest
from pc_support import Line

from turducken.devices.pic import PicPair

EOI = 0x20


@pytest.fixture
def intr():
    return Line()


@pytest.fixture
def pics(intr):
    pair = PicPair(intr)
    for port, base, wiring in ((0x20, 0x20, 0x04), (0xA0, 0x28, 0x02)):
        for register, value in ((0, 0x11), (1, base), (1, wiring), (1, 0x01), (1, 0x00)):
            pair.port_write(port + register, 1, value)
    return pair


def pulse(pics, irq):
    pics.set_line(irq, level=False)
    pics.set_line(irq, level=True)


def isr(pics, port):
    pics.port_write(port, 1, 0x0B)
    return pics.port_read(port, 1)


def irr(pics, port):
    pics.port_write(port, 1, 0x0A)
    return pics.port_read(port, 1)


@pytest.mark.parametrize("irq", [irq for irq in range(16) if irq != 2])
def test_each_line_gives_its_vector(pics, intr, irq):
    pulse(pics, irq)
    assert intr.level
    assert pics.peek_vector() == 0x20 + irq
    assert pics.acknowledge() == 0x20 + irq
    assert not intr.level


def test_masked_requests_wait(pics, intr):
    pics.port_write(0x21, 1, 0xFF)
    pulse(pics, 3)
    assert not intr.level
    assert irr(pics, 0x20) == 0x08
    pics.port_write(0x21, 1, 0xF7)
    assert pics.acknowledge() == 0x23


def test_lower_requests_wait_for_the_end_of_service(pics, intr):
    pulse(pics, 3)
    assert pics.acknowledge() == 0x23
    pulse(pics, 4)
    assert not intr.level
    pulse(pics, 1)
    assert pics.acknowledge() == 0x21
    assert isr(pics, 0x20) == 0x0A
    pics.port_write(0x20, 1, EOI)
    assert isr(pics, 0x20) == 0x08
    pics.port_write(0x20, 1, 0x60 | 3)
    assert pics.acknowledge() == 0x24


def test_the_slave_works_through_the_cascade(pics, intr):
    pulse(pics, 12)
    pulse(pics, 8)
    assert pics.acknowledge() == 0x28
    assert isr(pics, 0x20) == 0x04
    pics.port_write(0xA0, 1, EOI)
    assert not intr.level
    pics.port_write(0x20, 1, EOI)
    assert pics.acknowledge() == 0x2C


def test_a_request_that_went_away_is_spurious(pics):
    pulse(pics, 3)
    pics.set_line(3, level=False)
    assert pics.acknowledge() == 0x27
    assert isr(pics, 0x20) == 0


def test_a_spurious_slave_request_leaves_the_cascade_in_service(pics):
    pulse(pics, 8)
    vector = pics.peek_vector()
    pics.port_write(0xA1, 1, 0xFF)
    assert vector == 0x28
    assert pics.acknowledge() == 0x27


def test_an_edge_gives_one_interrupt_and_a_level_repeats(pics, intr):
    pulse(pics, 5)
    pics.acknowledge()
    pics.port_write(0x20, 1, EOI)
    assert not intr.level
    pics.port_write(0x4D0, 1, 0x20)
    assert pics.port_read(0x4D0, 1) == 0x20
    assert pics.acknowledge() == 0x25
    pics.port_write(0x20, 1, EOI)
    assert intr.level
    pics.set_line(5, level=False)
    assert not intr.level


def test_always_edge_triggered_lines_cannot_be_changed(pics):
    pics.port_write(0x4D0, 1, 0xFF)
    pics.port_write(0x4D1, 1, 0xFF)
    assert [pics.port_read(port, 1) for port in (0x4D0, 0x4D1)] == [0xF8, 0xDE]


def test_automatic_end_of_interrupt(pics):
    for register, value in ((0, 0x11), (1, 0x40), (1, 4), (1, 3)):
        pics.port_write(0x20 + register, 1, value)
    pulse(pics, 0)
    assert pics.acknowledge() == 0x40
    assert isr(pics, 0x20) == 0


def test_poll_is_an_acknowledge(pics):
    pulse(pics, 6)
    pics.port_write(0x20, 1, 0x0C)
    assert pics.port_read(0x20, 1) == 0x86
    assert isr(pics, 0x20) == 0x40
    pics.port_write(0x20, 1, 0x0C)
    assert pics.port_read(0x20, 1) == 0


def test_rotation_makes_the_served_line_the_lowest(pics):
    pulse(pics, 1)
    pulse(pics, 3)
    assert pics.acknowledge() == 0x21
    pics.port_write(0x20, 1, 0xA0)
    pulse(pics, 1)
    assert pics.acknowledge() == 0x23


def test_special_mask_mode_lets_lower_requests_pass_a_masked_service(pics, intr):
    pulse(pics, 1)
    pics.acknowledge()
    pulse(pics, 4)
    assert not intr.level
    pics.port_write(0x20, 1, 0x68)
    pics.port_write(0x21, 1, 0x02)
    assert pics.acknowledge() == 0x24


def test_initialisation_clears_mask_and_requests(pics, intr):
    pics.port_write(0x21, 1, 0xFF)
    pulse(pics, 7)
    pics.port_write(0x20, 1, 0x11)
    assert not intr.level
    pics.port_write(0x21, 1, 0x30)
    pics.port_write(0x21, 1, 4)
    pics.port_write(0x21, 1, 1)
    assert pics.port_read(0x21, 1) == 0
