from dataclasses import dataclass, field

import pytest

from turducken.devices.bus import MmioBus, PortBus, Region
from turducken.devices.clock import Clock, Frequency


@dataclass
class Recorder:
    ports: tuple = (range(0x10, 0x14),)
    widest_access: int = 1
    log: list = field(default_factory=list)

    def port_read(self, port, size):
        self.log.append(("in", port, size))
        return port & 0xFF

    def port_write(self, port, size, value):
        self.log.append(("out", port, size, value))


def test_a_wide_access_to_a_byte_wide_device_is_split_lowest_address_first():
    bus, device = PortBus(), Recorder()
    bus.attach(device)
    assert bus.read(0x10, 4) == 0x13121110
    bus.write(0x12, 2, 0xBBAA)
    assert device.log[4:] == [("out", 0x12, 1, 0xAA), ("out", 0x13, 1, 0xBB)]


def test_a_wide_device_gets_the_access_whole():
    bus, device = PortBus(), Recorder(widest_access=4)
    bus.attach(device)
    bus.write(0x10, 4, 0x1_2345_6789)
    assert device.log == [("out", 0x10, 4, 0x2345_6789)]


def test_an_access_that_reaches_beyond_a_device_is_split():
    log = []
    bus, device = PortBus(lambda *what: log.append(what)), Recorder(widest_access=4)
    bus.attach(device)
    assert bus.read(0x13, 2) == 0xFF13
    assert [(kind.value, port) for kind, port, *_ in log] == [("port read", 0x14)]


def test_unclaimed_ports_read_all_ones_and_are_reported_once():
    log = []
    bus = PortBus(lambda *what: log.append(what))
    assert [bus.read(0x300, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    bus.write(0x300, 2, 7)
    bus.write(0x300, 2, 8)
    assert [(kind.value, *rest) for kind, *rest in log] == [
        ("port read", 0x300, 1, 0),
        ("port write", 0x300, 2, 7),
    ]


def test_the_last_port_wraps_to_the_first():
    assert PortBus().read(0xFFFF, 4) == 0xFFFF_FFFF


def test_a_port_belongs_to_one_device():
    bus = PortBus()
    bus.attach(Recorder())
    with pytest.raises(ValueError, match="two devices"):
        bus.attach(Recorder())


@dataclass
class Window:
    region: Region | None
    stored: dict = field(default_factory=dict)

    def mmio_read(self, offset, size):
        return self.stored.get(offset, 0)

    def mmio_write(self, offset, size, value):
        self.stored[offset] = value


def test_a_memory_mapped_device_is_where_its_region_is_now():
    bus, device = MmioBus(), Window(Region(0x1000, 0x1000))
    bus.attach(device)
    bus.write(0x1010, 4, 5)
    device.region = Region(0x8000, 0x1000)
    assert bus.read(0x8010, 4) == 5
    assert bus.read(0x1010, 4) == 0xFFFF_FFFF
    device.region = None
    assert bus.find(0x8010) is None


def test_events_run_in_order_at_their_own_time():
    clock, log = Clock(), []
    clock.at(20, lambda: log.append(("b", clock.now)))
    clock.at(10, lambda: log.append(("a", clock.now)))
    clock.at(20, lambda: log.append(("c", clock.now)))
    clock.at(31, lambda: log.append(("late", clock.now)))
    assert clock.next_deadline() == 10
    clock.advance(30)
    assert log == [("a", 10), ("b", 20), ("c", 20)]
    assert (clock.now, clock.next_deadline()) == (30, 31)


def test_a_cancelled_event_neither_runs_nor_is_a_deadline():
    clock, log = Clock(), []
    event = clock.at(10, lambda: log.append("no"))
    event.cancel()
    assert clock.next_deadline() is None
    clock.advance(20)
    assert not log
    assert not event.is_live


def test_an_event_may_register_events_that_are_due_at_once():
    clock, log = Clock(), []
    clock.at(10, lambda: clock.after(5, lambda: log.append(clock.now)))
    clock.at(10, lambda: clock.at(3, lambda: log.append(clock.now)))
    clock.advance(15)
    assert log == [10, 15]


@pytest.mark.parametrize("hertz", [1, 1_193_182, 3_579_545, 1_000_000_000, 3_000_000_000])
def test_a_tick_has_passed_at_its_time_and_not_before(hertz):
    frequency = Frequency(hertz)
    for ticks in (1, 2, 3, 1000, 65536, 10**12 + 7):
        time = frequency.time_of(ticks)
        assert frequency.ticks(time) >= ticks
        assert frequency.ticks(time - 1) < ticks
