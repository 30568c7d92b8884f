"""The built-in BIOS's INT 13h and INT 15h, called by code in real mode."""

import itertools
import struct

import pytest

from turducken.machine.boot import parse_image
from turducken.machine.machine import Outcome
from turducken.storage import parse_disk
from turducken.system import Stops, System, SystemOptions

MIB, GIB = 1 << 20, 1 << 30

# Ends with a doubleword 0 to port F4h. At 7F00h: bytes of the map at 8000h, AX and BX of E801h,
# AX of 88h.
ASK_FOR_MEMORY = (
    "b800088ec031ff6631db66b820e8000066ba50414d5366b914000000cd15720883c7146685db75e2893e007f"
    "b801e8cd15a3027f891e047f31c0b488cd15a3067fbaf4006631c066eff4"
)
# Extended read of drive 81h by the packet at 7E00h (flags and AX at 7F00h); sector 3 of head 1 of
# drive 80h to 9200h, then from there to sector 1 (flags); geometry; parameters to 7E20h; a drive
# that is not there (flags).
USE_DISKS = (
    "b800098ec0b80042b281be007ecd139c8f06007fa3027fb80102b90300ba8001bb0002cd139c8f06047f"
    "b80103b90100ba8000bb0002cd139c8f06067fb408b280cd13890e087f89160a7fb80048b280c706207e1a00"
    "be207ecd13b80042b282be007ecd139c8f060c7fbaf4006631c066eff4"
)
CARRY = 1


def in_real_mode(code, *, packet=b"", **options):
    header = struct.pack("<8I", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF,
                         MIB, MIB, 0, 0, MIB + 32)  # fmt: skip
    system = System(SystemOptions(parse_image(header + b"\xf4", "none"), **options))
    memory, processor = system.machine.memory, system.machine.processors[0]
    memory.write(0x7000, bytes.fromhex(code))
    memory.write(0x7E00, packet)
    processor.reset()
    processor.start_at(0x07)
    processor.state.gpr[4] = 0x6000
    result = system.run(Stops(max_instructions=1_000_000))
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0)
    return memory


@pytest.mark.parametrize("size", [8 * MIB, 256 * MIB, 6 * GIB])
def test_the_memory_is_told_three_ways(size):
    memory = in_real_mode(ASK_FOR_MEMORY, memory=size)
    length, below, above, extended = struct.unpack("<4H", memory.read(0x7F00, 8))
    assert length % 20 == 0
    entries = list(struct.iter_unpack("<QQI", memory.read(0x8000, length)))
    available = sum(one[1] for one in entries if one[2] == 1)
    assert size - MIB < available < size
    assert all(one[0] + one[1] <= other[0] for one, other in itertools.pairwise(entries))
    low = min(size, 3 * GIB)
    assert below == (min(low, 16 * MIB) - MIB) // 1024
    assert above == max(low - 16 * MIB, 0) // 65536
    assert extended == min((low - MIB) // 1024, 0xFFFF)


@pytest.fixture
def disks(tmp_path):
    paths = []
    for number in range(2):
        path = tmp_path / f"disk{number}"
        path.write_bytes(b"".join(bytes([number, one % 256]) * 256 for one in range(20_000)))
        paths.append(parse_disk(str(path)))
    return paths


def test_disks_are_read_and_written(disks):
    packet = struct.pack("<HHHHQ", 16, 3, 0, 0xA00, 77)
    memory = in_real_mode(USE_DISKS, packet=packet, disks=disks)
    flags, ax, chs_flags, write_flags, cx, dx, absent = struct.unpack(
        "<7H", memory.read(0x7F00, 14)
    )
    assert not (flags | chs_flags | write_flags) & CARRY
    assert ax >> 8 == 0
    assert memory.read(0xA000, 1536) == b"".join(bytes([1, one]) * 256 for one in (77, 78, 79))
    assert memory.read(0x9200, 512) == bytes([0, 65]) * 256  # head 1, sector 3
    assert (cx & 0x3F, dx >> 8, dx & 0xFF) == (63, 254, 2)
    assert struct.unpack("<HHIIIQH", memory.read(0x7E20, 26)) == (26, 0, 1, 255, 63, 20_000, 512)
    assert absent & CARRY


def test_beyond_the_end_and_without_disks_is_an_error(disks):
    packet = struct.pack("<HHHHQ", 16, 2, 0, 0xA00, 19_999)
    memory = in_real_mode(USE_DISKS, packet=packet, disks=disks)
    assert memory.read(0x7F00, 1)[0] & CARRY
    memory = in_real_mode(USE_DISKS, packet=packet)
    flags = struct.unpack("<7H", memory.read(0x7F00, 14))
    assert flags[0] & flags[2] & flags[3] & flags[6] & CARRY
