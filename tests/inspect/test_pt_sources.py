import random
import struct

import pytest

from turducken.inspect.containers import open_file
from turducken.inspect.errors import InspectError
from turducken.inspect.writers import Extent, write_elf, write_lime, write_raw, write_snapshot
from turducken.memory import MemoryHoleError, PhysicalMemory


@pytest.fixture
def memory():
    memory = PhysicalMemory(1 << 20)
    memory.write(0, random.Random(1).randbytes(1 << 20))
    return memory


EXTENTS = [Extent(0x1000, 0x2000, 0x1000), Extent(0x10000, 0x800, 0x10000)]


@pytest.mark.parametrize("write", [write_elf, write_lime])
def test_written_dumps_are_read_back_with_their_holes(tmp_path, memory, write):
    path = tmp_path / "dump"
    with open(path, "wb") as stream:
        write(stream, memory, EXTENTS)
    source = open_file(str(path))
    assert [tuple(one) for one in source.regions] == [(0x1000, 0x2000), (0x10000, 0x800)]
    for address, size, _ in EXTENTS:
        assert source.read(address, size) == memory.read(address, size)
        assert source.load(address, 8) == memory.load(address, 8)
    assert source.load(0, 8) is None
    assert source.load(0x2FFC, 8) is None
    with pytest.raises(MemoryHoleError) as hole:
        source.read(0x2FF0, 0x20)
    assert hole.value.address == 0x3000


def test_a_raw_dump_has_a_base(tmp_path, memory):
    path = tmp_path / "dump"
    with open(path, "wb") as stream:
        write_raw(stream, memory, EXTENTS[:1], base=0x1000)
    source = open_file(str(path), base=0x4_0000_0000)
    assert source.read(0x4_0000_0000, 16) == memory.read(0x1000, 16)
    named = open_file(f"raw:{path}@0x100000000")
    assert named.read(0x1_0000_0010, 16) == memory.read(0x1010, 16)


def test_raw_dumps_in_pieces(tmp_path):
    (tmp_path / "low").write_bytes(b"low" * 2000)
    (tmp_path / "high").write_bytes(b"high" * 2000)
    source = open_file(f"raw:{tmp_path}/low,{tmp_path}/high@4294967296")
    assert source.read(0, 3) == b"low"
    assert source.read(1 << 32, 4) == b"high"


def test_a_snapshot_keeps_names_and_facts(tmp_path, memory):
    path = str(tmp_path / "snapshot")
    with open(path, "wb") as stream:
        write_snapshot(
            stream,
            memory,
            [(0, 1 << 20)],
            roots={"cpu0.ept01": 0x101E},
            maxphyaddr=40,
            ram=[(0, 1 << 20)],
        )
    source = open_file(path)
    assert source.kind == "turducken snapshot"
    assert source.roots == {"cpu0.ept01": 0x101E}
    assert source.maxphyaddr == 40
    assert [tuple(one) for one in source.ram] == [(0, 1 << 20)]


def elf(segments, *, cls=2, kind=4, phnum=None):
    """Build an ELF core by hand: (type, offset, paddr, filesz, memsz) and the data at 0x200."""
    ident = b"\x7fELF" + bytes([cls, 1, 1]) + bytes(9)
    count = len(segments) if phnum is None else phnum
    if cls == 2:
        head = struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 1, 0)
        table = b"".join(
            struct.pack("<IIQQQQQQ", t, 0, offset, 0, paddr, filesz, memsz, 0)
            for t, offset, paddr, filesz, memsz in segments
        )
    else:
        head = struct.pack("<HHIIIIIHHHHHH", kind, 3, 1, 0, 52, 0, 0, 52, 32, count, 40, 1, 0)
        table = b"".join(
            struct.pack("<IIIIIIII", t, offset, 0, paddr, filesz, memsz, 0, 0)
            for t, offset, paddr, filesz, memsz in segments
        )
    return (ident + head + table).ljust(0x200, b"\0") + bytes(range(256)) * 64


@pytest.mark.parametrize("cls", [1, 2])
def test_elf_cores_of_both_classes(tmp_path, cls):
    path = tmp_path / "core"
    path.write_bytes(
        elf([(1, 0x203, 0x10_0000, 0x100, 0x100), (1, 0x300, 0x20_0000, 16, 16)], cls=cls)
    )
    source = open_file(str(path))
    assert source.read(0x10_0000, 4) == bytes([3, 4, 5, 6])
    assert source.read(0x20_0000, 2) == bytes([0, 1])


def test_what_an_elf_core_leaves_out_is_a_hole(tmp_path):
    path = tmp_path / "core"
    path.write_bytes(elf([(1, 0x200, 0x1000, 0x10, 0x1000)]))
    source = open_file(str(path))
    assert source.load(0x1000, 8) is not None
    assert source.load(0x1010, 8) is None


def test_overlapping_segments_and_many_segments(tmp_path):
    path = tmp_path / "core"
    path.write_bytes(elf([(1, 0x200, 0x1000, 0x40, 0x40), (1, 0x200, 0x1020, 0x40, 0x40)]))
    source = open_file(str(path))
    assert [tuple(one) for one in source.regions] == [(0x1000, 0x60)]
    assert source.read(0x103F, 2) == bytes([0x3F, 0x20])


def test_a_dump_that_is_cut_short_says_so_and_keeps_the_rest(tmp_path, memory):
    path = tmp_path / "dump"
    for write in (write_elf, write_lime):
        with open(path, "wb") as stream:
            write(stream, memory, [Extent(0, 1 << 20, 0)])
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        source = open_file(str(path))
        assert any("cut short" in one for one in source.warnings)
        assert source.read(0, 4096) == memory.read(0, 4096)
        assert source.load(0xF_0000, 8) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x7fELF", "not a complete"),
        (b"\x7fELF\x02\x01\x01" + bytes(20), "not a complete"),
        (elf([], kind=2), "not a core"),
        (elf([]), "without memory"),
        (elf([(1, 0x200, 0, 16, 16), (1, 0x300, 0, 16, 16)]), "no physical addresses"),
        (elf([], phnum=60000), "cut short"),
        (b"KDUMP   " + bytes(100), "kdump header"),
        (struct.pack("<IIQQQ", 0x4C694D45, 7, 0, 10, 0), "LiME header"),
        (struct.pack("<IIQQQ", 0x4C694D45, 1, 10, 0, 0), "LiME header"),
    ],
)
def test_files_that_are_no_dumps_are_one_clear_line(tmp_path, data, message):
    path = tmp_path / "dump"
    path.write_bytes(data)
    with pytest.raises(InspectError, match=message):
        open_file(str(path))


def test_files_that_are_not_there_are_one_clear_line(tmp_path, pt):
    status, _, errors = pt("walk", tmp_path / "nothing", "0", "--via", "ept=0x1000")
    assert status == 2
    assert errors.count("\n") == 1


def test_sixty_four_gigabytes_are_mapped_not_loaded(tmp_path):
    import resource
    import time

    path = tmp_path / "huge"
    with open(path, "wb") as stream:
        stream.truncate(64 << 30)
        for address, value in (
            (63 << 30, (63 << 30) + 0x1007),
            ((63 << 30) + 0x1000, 0xB0000000B7 & ~0xFFF | 0xB7),
        ):
            stream.seek(address)
            stream.write(struct.pack("<Q", value))
    from turducken.inspect.chain import ChainOptions, parse_chain
    from turducken.inspect.through import ChainMap

    start = time.process_time()
    source = open_file(str(path))
    stages = parse_chain(f"ept={63 << 30:#x}", ChainOptions())
    mapping = ChainMap(source, stages).mapping()
    assert mapping.tables_read == 2
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20
