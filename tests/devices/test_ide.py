"""ATA and ATAPI drives through the ports of the IDE channels and the bus master."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pc_support import RAM_SIZE, Host, Processor

from turducken.devices.chipset import Chipset, ChipsetOptions
from turducken.devices.clock import Clock
from turducken.devices.cmos import MemorySizes
from turducken.devices.disk.ata import AtaDisk
from turducken.devices.disk.atapi import AtapiCdrom
from turducken.memory import PhysicalMemory
from turducken.storage import MediumError, MemoryImage, ReadOnly

SECTORS = 300
DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(0x1F0, 0x1F8)
SECOND = 0x170 - 0x1F0
CONTROL = 0x3F6
BUSY, READY, DRQ, ERR = 0x80, 0x40, 0x08, 0x01
MASTER = 0xC000


def pattern(number):
    return struct.pack("<I", number) * 128


class Broken(MemoryImage):
    """An image whose sector 7 cannot be read or written."""

    def read(self, offset, length):
        if offset <= 7 * 512 < offset + length:
            raise MediumError("no")
        return super().read(offset, length)

    def write(self, offset, data):
        if offset <= 7 * 512 < offset + len(data):
            raise MediumError("no")
        super().write(offset, data)


class Ide:
    def __init__(self, image=None):
        self.image = image or MemoryImage(b"".join(pattern(one) for one in range(SECTORS)))
        self.cd = MemoryImage(bytes(range(256)) * 8 * 20)
        self.memory = PhysicalMemory(RAM_SIZE)
        self.chipset = Chipset(
            self.memory,
            MemorySizes(RAM_SIZE),
            Clock(),
            [Processor()],
            outputs=Host().outputs(),
            options=ChipsetOptions(ide=[AtaDisk(self.image), None, AtapiCdrom(self.cd)]),
        )
        self.ports = self.chipset.ports
        for register, value in ((0x20, MASTER), (0x04, 5)):
            self.ports.write(0xCF8, 4, 1 << 31 | 1 << 11 | 1 << 8 | register)
            self.ports.write(0xCFC, 4, value)

    def out(self, port, value, size=1):
        self.ports.write(port, size, value)

    def inp(self, port, size=1):
        return self.ports.read(port, size)

    def command(self, code, lba=0, count=1, channel=0, device=0xE0):
        self.out(DEVICE + channel, device | lba >> 24 & 0xF)
        for register, value in ((COUNT, count), (LOW, lba), (MID, lba >> 8), (HIGH, lba >> 16)):
            self.out(register + channel, value & 0xFF)
        self.out(STATUS + channel, code)
        return self.inp(STATUS + channel)

    def words(self, count, channel=0):
        return b"".join(self.inp(DATA + channel, 2).to_bytes(2, "little") for _ in range(count))

    def packet(self, *content, limit=2048, features=0):
        self.out(ERROR + SECOND, features)
        self.out(MID + SECOND, limit & 0xFF)
        self.out(HIGH + SECOND, limit >> 8)
        self.out(DEVICE + SECOND, 0xA0)
        self.out(STATUS + SECOND, 0xA0)
        assert self.inp(STATUS + SECOND) & DRQ
        for at in range(0, 12, 2):
            pair = bytes(content).ljust(12, b"\0")[at : at + 2]
            self.out(DATA + SECOND, int.from_bytes(pair, "little"), 2)
        return self.inp(STATUS + SECOND)

    def descriptors(self, *parts, at=0x1000):
        for index, (address, size) in enumerate(parts):
            last = 0x8000 if index == len(parts) - 1 else 0
            entry = struct.pack("<IHH", address, size & 0xFFFF, last)
            self.memory.write(at + 8 * index, entry)
        return at

    def dma(self, table, *, to_memory):
        self.out(MASTER + 4, table, 4)
        self.out(MASTER + 2, 0x06)
        self.out(MASTER, 0x08 if to_memory else 0)
        self.out(MASTER, 0x09 if to_memory else 1)
        return self.inp(MASTER + 2)


@pytest.fixture
def ide():
    return Ide()


def test_identify_tells_the_size(ide):
    assert ide.command(0xEC) == READY | 0x10 | DRQ
    words = struct.unpack("<256H", ide.words(256))
    assert not ide.inp(STATUS) & DRQ
    assert words[60] | words[61] << 16 == SECTORS
    assert words[100] == SECTORS
    assert struct.pack(">20H", *words[27:47]).startswith(b"TURDUCKEN HARDDISK")


def test_sectors_are_read_one_after_the_other(ide):
    assert ide.command(0x20, lba=5, count=3) & DRQ
    for number in (5, 6, 7):
        assert ide.inp(STATUS) & DRQ
        assert ide.words(256) == pattern(number)
    assert ide.inp(STATUS) == READY | 0x10


def test_doublewords_and_blocks_give_the_same(ide):
    ide.command(0x20, lba=9)
    whole = b"".join(ide.inp(DATA, 4).to_bytes(4, "little") for _ in range(128))
    assert whole == pattern(9)
    ide.command(0xC4, lba=9, count=4)
    channel = ide.chipset.ide_channels[0]
    assert channel.block_read(DATA, 2, 10_000) == b"".join(pattern(one) for one in range(9, 13))
    assert channel.block_read(DATA, 2, 1) is None


def test_writing_and_48_bit_addresses(ide):
    ide.command(0x30, lba=20)
    for _ in range(256):
        ide.out(DATA, 0xBEEF, 2)
    assert ide.inp(STATUS) == READY | 0x10
    for value in (0, 1):
        ide.out(COUNT, value)
    for register, high, low in ((LOW, 0, 20), (MID, 0, 0), (HIGH, 0, 0)):
        ide.out(register, high)
        ide.out(register, low)
    ide.out(STATUS, 0x24)
    assert ide.words(256) == b"\xef\xbe" * 256
    ide.out(CONTROL, 0x80)
    assert ide.inp(LOW) == 0


def test_cylinders_heads_and_sectors(ide):
    ide.out(DEVICE, 0xA1)  # head 1
    for register, value in ((COUNT, 1), (LOW, 2), (MID, 0), (HIGH, 0)):
        ide.out(register, value)
    ide.out(STATUS, 0x20)
    assert ide.words(256) == pattern(64)


@pytest.mark.parametrize(
    ("code", "lba", "count"), [(0x20, SECTORS, 1), (0x30, SECTORS - 1, 2), (0xC8, 0xFFF_FFFF, 0)]
)
def test_beyond_the_end_is_an_error(ide, code, lba, count):
    assert ide.command(code, lba, count) & (ERR | DRQ) == ERR
    assert ide.inp(ERROR) == 0x10


def test_what_the_medium_cannot_give_is_an_error():
    ide = Ide(Broken(bytes(SECTORS * 512)))
    assert ide.command(0x20, 6, 2) & (ERR | DRQ) == ERR
    assert ide.inp(ERROR) == 0x40
    ide.command(0x30, 7)
    for _ in range(256):
        ide.out(DATA, 0, 2)
    assert ide.inp(STATUS) & ERR


def test_a_read_only_disk_refuses_to_be_written():
    ide = Ide(ReadOnly(MemoryImage(bytes(SECTORS * 512))))
    assert ide.command(0x30, 0) & (ERR | DRQ) == ERR
    assert ide.inp(ERROR) == 0x04


def test_unknown_commands_are_aborted(ide):
    assert ide.command(0xFF) & ERR
    assert ide.inp(ERROR) == 0x04
    assert ide.command(0xA1) & ERR


def test_an_absent_drive_reads_as_zero(ide):
    assert ide.command(0xEC, device=0xF0) == 0
    assert ide.command(0xEC, channel=SECOND, device=0xB0) == 0


def test_interrupts_come_with_each_block_and_can_be_held_back(ide):
    pending = ide.chipset.pics
    levels = []
    ide.chipset.ide_channels[0]._line = lambda *, level: levels.append(level)
    ide.command(0x20, count=1)
    assert levels[-2:] == [True, False]  # the status register was read
    ide.out(CONTROL, 0x02)
    ide.command(0x20, count=1)
    assert True not in levels[3:]
    assert pending is not None


def test_reset_gives_the_signatures(ide):
    ide.out(CONTROL + SECOND, 0x04)
    ide.out(CONTROL + SECOND, 0)
    assert (ide.inp(MID + SECOND), ide.inp(HIGH + SECOND)) == (0x14, 0xEB)
    ide.out(CONTROL, 0x04)
    ide.out(CONTROL, 0)
    assert (ide.inp(COUNT), ide.inp(LOW), ide.inp(MID), ide.inp(HIGH)) == (1, 1, 0, 0)


def test_dma_scatters_and_gathers(ide):
    table = ide.descriptors((0x20_0000, 512), (0x30_0000, 512))
    assert ide.command(0xC8, lba=3, count=2) & DRQ
    assert ide.dma(table, to_memory=True) & 0x07 == 0x04
    assert ide.memory.read(0x20_0000, 512) == pattern(3)
    assert ide.memory.read(0x30_0000, 512) == pattern(4)
    assert ide.inp(STATUS) == READY | 0x10
    ide.memory.write(0x20_0000, b"\x11" * 512)
    ide.command(0xCA, lba=50, count=2)
    ide.dma(table, to_memory=False)
    assert ide.image.read(50 * 512, 1024) == b"\x11" * 512 + pattern(4)


def test_dma_with_room_for_less_or_more(ide):
    ide.command(0xC8, lba=3, count=2)
    ide.dma(ide.descriptors((0x20_0000, 512)), to_memory=True)
    assert ide.inp(STATUS) & ERR
    ide.command(0xC8, lba=3, count=1)
    assert ide.dma(ide.descriptors((0x20_0000, 0)), to_memory=True) & 0x07 == 0x05


def test_dma_does_not_reach_what_is_protected(ide):
    ide.memory.write(0x20_0000, b"secret")
    ide.chipset.dma.protected = range(0x20_0000, 0x20_1000)
    ide.command(0xC8, lba=3)
    ide.dma(ide.descriptors((0x1F_FF00, 512)), to_memory=True)
    assert ide.memory.read(0x20_0000, 6) == b"secret"
    assert ide.memory.read(0x1F_FF00, 256) == pattern(3)[:256]
    ide.command(0xCA, lba=50)
    ide.dma(ide.descriptors((0x20_0000, 512)), to_memory=False)
    assert ide.image.read(50 * 512, 512) == b"\xff" * 512


def test_no_dma_without_bus_mastering(ide):
    ide.ports.write(0xCF8, 4, 1 << 31 | 1 << 11 | 1 << 8 | 4)
    ide.ports.write(0xCFC, 4, 1)
    ide.command(0xC8, lba=3)
    ide.dma(ide.descriptors((0x20_0000, 512)), to_memory=True)
    assert ide.memory.read(0x20_0000, 4) == bytes(4)


def test_the_cd_is_read_in_the_blocks_that_the_guest_wants(ide):
    status = ide.packet(0x28, 0, 0, 0, 0, 2, 0, 0, 2, limit=1024)
    got = b""
    while status & DRQ:
        size = ide.inp(MID + SECOND) | ide.inp(HIGH + SECOND) << 8
        assert size == 1024
        got += ide.words(size // 2, SECOND)
        status = ide.inp(STATUS + SECOND)
    assert got == ide.cd.read(4096, 4096)
    assert ide.inp(COUNT + SECOND) & 3 == 3


def test_the_cd_tells_capacity_and_errors(ide):
    assert ide.packet(0x25) & DRQ
    assert struct.unpack(">II", ide.words(4, SECOND)) == (19, 2048)
    assert ide.packet(0x28, 0, 0, 0, 0, 19, 0, 0, 2) & ERR
    assert ide.packet(0x03, 0, 0, 0, 18) & DRQ
    sense = ide.words(9, SECOND)
    assert (sense[2], sense[12]) == (5, 0x21)
    assert ide.packet(0xFF) & ERR
    assert ide.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 20) & DRQ
    assert ide.words(10, SECOND)[:4] == b"\x00\x12\x01\x01"


def test_the_cd_by_dma(ide):
    ide.packet(0x28, 0, 0, 0, 0, 1, 0, 0, 1, features=1)
    table = ide.descriptors((0x20_0000, 2048))
    ide.out(MASTER + 12, table, 4)
    ide.out(MASTER + 8, 9)
    assert ide.memory.read(0x20_0000, 2048) == ide.cd.read(2048, 2048)


PORTS = st.sampled_from([*range(0x1F0, 0x1F8), *range(0x170, 0x178), 0x3F6, 0x376,
                         *range(MASTER, MASTER + 16)])  # fmt: skip
STEPS = st.one_of(
    st.tuples(PORTS, st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF)),
    st.tuples(st.sampled_from([0x1F7, 0x177]), st.just(1),
              st.sampled_from([0xA0, 0xEC, 0x20, 0x30, 0xC8, 0xCA, 0x25, 0x35, 0xC4, 0xC6, 0x90])),
    st.tuples(PORTS, st.sampled_from([1, 2, 4]), st.none()),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=80))
def test_drives_survive_everything(steps):
    ide = Ide()
    for port, size, value in steps:
        if value is None:
            assert 0 <= ide.inp(port, size) < 1 << 8 * size
        else:
            ide.out(port, value & (1 << 8 * size) - 1, size)
