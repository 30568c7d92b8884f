"""No value that a guest writes anywhere makes a device raise an exception."""

import copy
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
from pc_support import Pc

PORTS = st.one_of(
    st.sampled_from(
        [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x40, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x92, 0xCF8,
         0xCF9, 0xCFC, 0x3F8, 0x3F9, 0x3FA, 0x3FC, 0x3D4, 0x3C0, 0x510, 0x511, 0x600, 0x602, 0x604,
         0x608, 0xB004, 0x8900, 0xF4]
    ),
    st.integers(0, 0xFFFF),
)  # fmt: skip
SIZES = st.sampled_from([1, 2, 4])
VALUES = st.one_of(st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF))
CPU = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("out"), PORTS, SIZES, VALUES),
    st.tuples(st.just("in"), PORTS, SIZES),
    st.tuples(st.just("store"), CPU, st.integers(0, 0x3FF), st.sampled_from([1, 2, 4, 8]), VALUES),
    st.tuples(st.just("load"), CPU, st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("ioapic"), st.integers(0, 0x50), VALUES),
    st.tuples(
        st.just("wrmsr"),
        CPU,
        st.one_of(st.just(0x1B), st.just(0x6E0), st.integers(0x800, 0x8FF)),
        st.one_of(VALUES, st.integers(0, (1 << 64) - 1), st.just(0xFEE0_0C00)),
    ),
    st.tuples(st.just("rdmsr"), CPU, st.integers(0x800, 0x8FF)),
    st.tuples(st.just("advance"), st.integers(0, 3_000_000)),
    st.tuples(st.just("acknowledge"), CPU),
    st.tuples(st.just("feed"), st.binary(max_size=20)),
)


def perform(pc, step):
    chipset = pc.chipset
    match step:
        case ("out", port, size, value):
            pc.out(port, value, size)
        case ("in", port, size):
            return check_width(pc.inp(port, size), size)
        case ("store", cpu, offset, size, value):
            chipset.mmio_of(cpu).write(0xFEE0_0000 + offset, size, value)
        case ("load", cpu, offset, size):
            return check_width(chipset.mmio_of(cpu).read(0xFEE0_0000 + offset, size), size)
        case ("ioapic", register, value):
            chipset.mmio_of(0).write(0xFEC0_0000, 4, register)
            chipset.mmio_of(0).write(0xFEC0_0010, 4, value)
            return chipset.mmio_of(0).read(0xFEC0_0010, 4)
        case ("wrmsr", cpu, index, value):
            return chipset.apics[cpu].write_msr(index, value)
        case ("rdmsr", cpu, index):
            return chipset.apics[cpu].read_msr(index)
        case ("advance", time):
            pc.clock.advance(time)
        case ("acknowledge", cpu):
            expected = chipset.apics[cpu].pending_vector()
            taken = chipset.apics[cpu].acknowledge()
            assert taken == expected
            return taken
        case ("feed", data):
            chipset.uart.feed(data)
            chipset.keyboard.feed(data)
    return None


def check_width(value, size):
    assert 0 <= value < 1 << 8 * size
    return value


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_devices_survive_everything(steps):
    pc = Pc(processors=2)
    for step in steps:
        perform(pc, step)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=40), st.lists(STEPS, max_size=20))
def test_a_copy_goes_on_like_the_original(before, after):
    pc = Pc(processors=2)
    for step in before:
        perform(pc, step)
    # Memory is a mapping and is not copied: the devices alone are.
    twin = copy.deepcopy(pc, {id(pc.memory): pc.memory})
    assert [perform(pc, step) for step in after] == [perform(twin, step) for step in after]
    assert pc.host == twin.host
    assert pc.clock.next_deadline() == twin.clock.next_deadline()


def test_devices_can_be_pickled():
    pc = Pc(processors=2)
    pc.out(0x43, 0x34)
    pc.out(0x40, 0x00)
    pc.out(0x40, 0x10)
    memory, pc.memory = pc.memory, None
    pc.chipset.vga._memory = pc.chipset.dma._memory = None
    twin = pickle.loads(pickle.dumps(pc))
    assert twin.clock.next_deadline() == pc.clock.next_deadline() is not None
    assert memory.size
