import pytest
from pc_support import Line

from turducken.devices.uart import COM1, Uart

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCRATCH = (
    COM1 + offset for offset in (0, 1, 2, 2, 3, 4, 5, 6, 7)
)
OUT2 = 0x08


@pytest.fixture
def port():
    class Port:
        def __init__(self):
            self.sent = bytearray()
            self.line = Line()
            self.uart = Uart(self.sent.append, self.line)
            self.write(LCR, 0x03)

        def write(self, register, value):
            self.uart.port_write(register, 1, value)

        def read(self, register):
            return self.uart.port_read(register, 1)

    return Port()


def test_bytes_leave_at_once_and_the_transmitter_is_always_ready(port):
    for byte in b"hello\n":
        assert port.read(LSR) & 0x60 == 0x60
        port.write(DATA, byte)
    assert port.sent == b"hello\n"


def test_the_divisor_latch_hides_data_and_interrupt_enable(port):
    port.write(LCR, 0x83)
    port.write(DATA, 0x01)
    port.write(IER, 0x02)
    assert (port.read(DATA), port.read(IER)) == (0x01, 0x02)
    port.write(LCR, 0x03)
    assert not port.sent
    assert port.read(IER) == 0


def test_scratch_and_fifo_tell_a_16550a(port):
    port.write(SCRATCH, 0x5A)
    assert port.read(SCRATCH) == 0x5A
    assert port.read(IIR) == 0x01
    port.write(FCR, 0x01)
    assert port.read(IIR) == 0xC1


def test_input_waits_until_it_is_read(port):
    port.uart.feed(bytes(range(1, 40)))
    port.write(FCR, 0x01)
    port.uart.feed(b"\xff")
    got = []
    while port.read(LSR) & 1:
        got.append(port.read(DATA))
    # Enabling the FIFO cleared the byte that was in the receiver.
    assert got == [*range(2, 40), 0xFF]
    assert port.uart.unread == 0
    assert port.read(DATA) == 0


def test_loopback_returns_data_and_modem_lines(port):
    port.write(MCR, 0x10 | 0x0A)
    port.write(DATA, 0xAE)
    assert port.read(LSR) & 1
    assert port.read(DATA) == 0xAE
    assert port.read(MSR) & 0xF0 == 0x90
    assert not port.sent


def test_loopback_without_fifo_overruns(port):
    port.write(MCR, 0x10)
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.read(LSR) & 2
    assert not port.read(LSR) & 2


def test_received_data_interrupts_on_the_trigger_level_or_by_timeout(port):
    port.write(MCR, OUT2)
    port.write(FCR, 0x81)
    port.write(IER, 0x01)
    port.uart.feed(b"abc")
    assert port.line.level
    assert port.read(IIR) & 0x0F == 0x0C
    port.uart.feed(b"defgh")
    assert port.read(IIR) & 0x0F == 0x04
    for _ in range(8):
        port.read(DATA)
    assert not port.line.level


def test_the_transmitter_interrupt_comes_after_each_byte_and_goes_when_identified(port):
    port.write(MCR, OUT2)
    port.write(IER, 0x02)
    assert port.line.rises == 1
    assert port.read(IIR) & 0x0F == 0x02
    assert not port.line.level
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.line.rises == 3


def test_without_out2_the_line_stays_low(port):
    port.write(IER, 0x02)
    assert not port.line.level
    assert port.read(IIR) & 0x0F == 0x02


def test_modem_changes_are_reported_once(port):
    port.write(MCR, OUT2)
    port.write(IER, 0x08)
    port.write(MCR, 0x10)
    port.write(MCR, OUT2)
    assert port.line.level
    assert port.read(MSR) == 0xBB
    assert port.read(MSR) == 0xB0
    assert not port.line.level


@pytest.mark.parametrize(("length", "sent"), [(0, 0x15), (1, 0x35), (2, 0x75), (3, 0xF5)])
def test_words_have_as_many_bits_as_line_control_says(port, length, sent):
    port.write(LCR, length)
    port.write(DATA, 0xF5)
    assert port.sent == bytes([sent])


def test_nothing_is_sent_while_the_line_is_in_break(port):
    port.write(LCR, 0x43)
    port.write(DATA, 0x41)
    assert port.sent == b""
    port.write(LCR, 0x03)
    port.write(DATA, 0x42)
    assert port.sent == b"B"


def test_a_break_comes_back_in_loopback(port):
    port.write(MCR, 0x10)
    port.write(LCR, 0x43)
    assert port.read(LSR) & 0x11 == 0x11
    assert port.read(DATA) == 0
    assert not port.read(LSR) & 0x11
