"""REP INS and OUTS in real mode: pieces as large as a device takes, whatever they cross."""

import struct

import pytest

from turducken.devices.disk.ata import AtaDisk
from turducken.machine.machine import Machine, MachineOptions, Outcome
from turducken.storage import MemoryImage
from turducken.vmx.profile import load_profile

CONTENT = b"".join(struct.pack("<I", one) * 128 for one in range(16))
# mov dx, 1f2h; mov al, 1; out; then 1f3h to 1f5h: 5, 0, 0; 1f6h: e0h; 1f7h: the command in BL
COMMAND = "baf201 b001 ee 42 b005 ee 42 b000 ee 42 ee 42 b0e0 ee 42 88d8 ee baf001"
LEAVE = "baf400 6631c0 66ef f4"


def run(code, *, si=0, di=0, cx=256, bl=0x20, flags=2):
    image = MemoryImage(CONTENT)
    machine = Machine(MachineOptions(load_profile(), memory=16 << 20, ide=[AtaDisk(image)]))
    processor = machine.processors[0]
    machine.memory.write(0x7000, bytes.fromhex(code))
    machine.memory.write(0x2_0000, bytes(range(256)) * 64)
    processor.start_at(0x07)
    for number, value in ((1, cx), (3, bl), (4, 0x6000), (6, si), (7, di)):
        processor.state.gpr[number] = value
    processor.state.rflags = flags
    assert machine.run(1_000_000) is Outcome.GUEST_EXIT
    return machine, image


@pytest.mark.parametrize("instruction", ["f36d", "66f36d"])
def test_a_sector_comes_in_one_instruction(instruction):
    count = 256 if instruction == "f36d" else 128
    machine, _ = run(f"{COMMAND} {instruction} {LEAVE}", di=0x1FF0, cx=count)
    assert machine.memory.read(0x1FF0, 512) == CONTENT[5 * 512 : 6 * 512]
    gpr = machine.processors[0].state.gpr
    assert (gpr[1], gpr[7] & 0xFFFF) == (0, 0x21F0)


def test_downwards_the_words_stand_the_other_way_round():
    machine, _ = run(f"{COMMAND} fd f36d {LEAVE}", di=0x31FE)
    words = struct.unpack("<256H", CONTENT[5 * 512 : 6 * 512])
    assert machine.memory.read(0x3000, 512) == struct.pack("<256H", *reversed(words))


def test_the_address_wraps_within_the_segment():
    machine, _ = run(f"{COMMAND} f36d {LEAVE}", di=0xFF80)
    whole = CONTENT[5 * 512 : 6 * 512]
    assert machine.memory.read(0xFF80, 128) == whole[:128]
    assert machine.memory.read(0, 384) == whole[128:]


def test_more_than_there_is_reads_zeros():
    machine, _ = run(f"{COMMAND} f36d {LEAVE}", di=0x1000, cx=300)
    assert machine.memory.read(0x1000, 600) == CONTENT[5 * 512 : 6 * 512].ljust(600, b"\0")


def test_none_at_all():
    machine, _ = run(f"{COMMAND} f36d f36f {LEAVE}", di=0x1000, cx=0)
    assert machine.memory.read(0x1000, 4) == bytes(4)


def test_a_sector_goes_out():
    # mov ax, 2000h; mov ds, ax; rep outsw
    _, image = run(f"{COMMAND} b80020 8ed8 f36f {LEAVE}", si=0x0F80, bl=0x30)
    assert image.read(5 * 512, 512) == (bytes(range(256)) * 3)[0x80:0x280]


def test_a_port_without_blocks_goes_byte_by_byte():
    # mov ax, 2000h; mov ds, ax; mov dx, 3f8h; rep outsb
    machine, _ = run(f"b80020 8ed8 baf803 f36e {LEAVE}", cx=3)
    assert machine.processors[0].state.gpr[6] & 0xFFFF == 3
