"""Virtio devices as a driver uses them: the PCI function, its structures, and a queue in memory."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pc_support import Pc

from turducken.devices.virtio.block import VirtioBlock
from turducken.storage import MediumError, MemoryImage, ReadOnly

BASE = 0xE000_0000
COMMON, NOTIFY, ISR, DEVICE = BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x3000
TABLE, AVAILABLE, USED, BUFFERS = 0x10_0000, 0x11_0000, 0x12_0000, 0x13_0000
NEXT, WRITE, INDIRECT = 1, 2, 4
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
CONTENT = b"".join(struct.pack("<I", one) * 128 for one in range(64))


class Driver:
    def __init__(self, image=None):
        self.pc = Pc()
        self.memory = self.pc.memory
        self.image = image or MemoryImage(CONTENT)
        self.device = VirtioBlock(self.image, self.pc.chipset.dma)
        self.pc.chipset.add_function((4, 0), self.device)
        self.bus = self.pc.chipset.mmio_of(0)
        for register, value in ((0x20, BASE), (0x24, 0), (0x04, 6)):
            self.pc.out(0xCF8, 1 << 31 | 4 << 11 | register, 4)
            self.pc.out(0xCFC, value, 4)
        self.made = 0

    def read(self, address, size):
        return self.bus.read(address, size)

    def write(self, address, size, value):
        self.bus.write(address, size, value)

    def start(self):
        for status in (0, 1, 3):
            self.write(COMMON + 0x14, 1, status)
        for half in (0, 1):
            self.write(COMMON, 4, half)
            offered = self.read(COMMON + 4, 4)
            self.write(COMMON + 8, 4, half)
            self.write(COMMON + 12, 4, offered)
        self.write(COMMON + 0x14, 1, 11)
        self.write(COMMON + 0x16, 2, 0)
        self.write(COMMON + 0x18, 2, 8)
        for place, address in ((0x20, TABLE), (0x28, AVAILABLE), (0x30, USED)):
            self.write(COMMON + place, 4, address)
            self.write(COMMON + place + 4, 4, 0)
        self.write(COMMON + 0x1C, 2, 1)
        self.write(COMMON + 0x14, 1, 15)
        return self

    def descriptors(self, *parts, at=TABLE):
        for number, (address, length, flags) in enumerate(parts):
            more = 0 if number == len(parts) - 1 else NEXT
            entry = struct.pack("<QIHH", address, length, flags | more, number + 1)
            self.memory.write(at + 16 * number, entry)

    def offer(self, head=0):
        self.memory.write(AVAILABLE + 4 + 2 * (self.made % 8), struct.pack("<H", head))
        self.made += 1
        self.memory.write(AVAILABLE + 2, struct.pack("<H", self.made & 0xFFFF))
        self.write(NOTIFY, 2, 0)
        return struct.unpack("<HII", self.memory.read(USED + 2, 2) + self.memory.read(
            USED + 4 + 8 * ((self.made - 1) % 8), 8))  # fmt: skip

    def request(self, kind, sector, data=b"", room=0):
        self.memory.write(BUFFERS, struct.pack("<IIQ", kind, 0, sector) + data)
        parts = [(BUFFERS, 16, 0)]
        if data:
            parts.append((BUFFERS + 16, len(data), 0))
        if room:
            parts.append((BUFFERS + 0x8000, room, WRITE))
        self.descriptors(*parts, (BUFFERS + 0x7000, 1, WRITE))
        self.memory.write(BUFFERS + 0x7000, b"\xee")
        used = self.offer()
        return self.memory.read(BUFFERS + 0x7000, 1)[0], used


@pytest.fixture
def driver():
    return Driver().start()


def test_the_structures_are_found_through_capabilities():
    driver = Driver()
    space = driver.device
    at, found = space.read(0x34, 1), {}
    while at:
        assert space.read(at, 1) == 9
        found[space.read(at + 3, 1)] = space.read(at + 8, 4)
        at = space.read(at + 1, 1)
    assert found == {1: 0, 2: 0x1000, 3: 0x2000, 4: 0x3000}
    assert space.read(0, 4) == 0x1042_1AF4


def test_features_must_be_negotiated(driver):
    assert driver.read(COMMON + 0x14, 1) == 15
    other = Driver()
    other.write(COMMON + 0x14, 1, 3)
    other.write(COMMON + 0x14, 1, 11)  # VERSION_1 was not accepted
    assert other.read(COMMON + 0x14, 1) == 3


def test_the_capacity_is_told(driver):
    assert driver.read(DEVICE, 8) == 64
    assert driver.read(DEVICE + 4, 4) == 0


def test_reading_and_writing(driver):
    status, used = driver.request(IN, 3, room=1024)
    assert (status, used) == (0, (1, 0, 1025))
    assert driver.memory.read(BUFFERS + 0x8000, 1024) == CONTENT[3 * 512 : 5 * 512]
    status, used = driver.request(OUT, 7, data=b"\x5a" * 512)
    assert (status, used) == (0, (2, 0, 1))
    assert driver.image.read(7 * 512, 512) == b"\x5a" * 512
    assert driver.request(FLUSH, 0)[0] == 0
    assert driver.request(GET_ID, 0, room=20)[0] == 0
    assert driver.memory.read(BUFFERS + 0x8000, 7) == b"TD00001"
    assert driver.request(77, 0)[0] == 2


def test_errors_are_told(driver):
    assert driver.request(IN, 63, room=1024)[0] == 1
    assert driver.request(IN, 1 << 60, room=512)[0] == 1
    assert driver.request(IN, 0, room=100)[0] == 1
    read_only = Driver(ReadOnly(MemoryImage(CONTENT))).start()
    assert read_only.request(OUT, 0, data=bytes(512))[0] == 1
    read_only.write(COMMON, 4, 0)
    assert read_only.read(COMMON + 4, 4) & 1 << 5

    class Broken(MemoryImage):
        def read(self, offset, length):
            raise MediumError("no")

    assert Driver(Broken(CONTENT)).start().request(IN, 0, room=512)[0] == 1


def test_indirect_descriptors(driver):
    driver.memory.write(BUFFERS, struct.pack("<IIQ", IN, 0, 2))
    table = 0x14_0000
    driver.descriptors(
        (BUFFERS, 16, 0), (BUFFERS + 0x8000, 512, WRITE), (BUFFERS + 0x7000, 1, WRITE), at=table
    )
    driver.memory.write(TABLE, struct.pack("<QIHH", table, 48, INDIRECT, 0))
    assert driver.offer() == (1, 0, 513)
    assert driver.memory.read(BUFFERS + 0x8000, 512) == CONTENT[1024:1536]


def test_interrupts_and_their_suppression(driver):
    driver.request(IN, 0, room=512)
    assert driver.device.read(0x06, 2) & 8
    assert driver.read(ISR, 1) == 1
    assert driver.read(ISR, 1) == 0
    assert not driver.device.read(0x06, 2) & 8
    driver.memory.write(AVAILABLE, b"\x01\x00")
    driver.request(IN, 0, room=512)
    assert driver.read(ISR, 1) == 0


def test_reset_forgets_the_queue(driver):
    driver.write(COMMON + 0x14, 1, 0)
    assert driver.read(COMMON + 0x14, 1) == 0
    assert driver.read(COMMON + 0x1C, 2) == 0
    assert driver.request(IN, 0, room=512)[0] == 0xEE


def test_a_chain_that_goes_round_ends(driver):
    driver.memory.write(TABLE, struct.pack("<QIHH", BUFFERS, 16, NEXT, 0))
    assert driver.offer()[0] == 1


def test_l0s_memory_is_out_of_reach(driver):
    driver.memory.write(0x15_0000, b"secret")
    driver.pc.chipset.dma.protected = range(0x15_0000, 0x15_1000)
    driver.memory.write(BUFFERS, struct.pack("<IIQ", IN, 0, 2))
    driver.descriptors((BUFFERS, 16, 0), (0x15_0000, 512, WRITE), (BUFFERS + 0x7000, 1, WRITE))
    driver.offer()
    assert driver.memory.read(0x15_0000, 6) == b"secret"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=256), st.binary(max_size=64), st.lists(st.tuples(
    st.integers(0, 0x3FFF), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1)),
    max_size=30))  # fmt: skip
def test_the_device_survives_everything(table, ring, writes):
    driver = Driver().start()
    driver.memory.write(TABLE, table)
    driver.memory.write(AVAILABLE, ring)
    for offset, size, value in writes:
        driver.write(BASE + offset, size, value & (1 << 8 * size) - 1)
        driver.write(NOTIFY, 2, 0)
        assert 0 <= driver.read(BASE + offset, size) < 1 << 8 * size
