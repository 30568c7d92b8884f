import random
from itertools import pairwise

import pytest

from turducken.inspect.chain import Through
from turducken.inspect.containers import open_file
from turducken.inspect.export import export, extents_of
from turducken.inspect.opening import Reading
from turducken.inspect.through import ChainMap
from turducken.inspect.writers import write_snapshot
from turducken.memory import MemoryHoleError, PhysicalMemory
from turducken.paging import rights
from turducken.paging.encode import eptp
from turducken.paging.formats import EPT, Features
from turducken.paging.table import BumpAllocator, PageTable

MIB = 1 << 20


@pytest.fixture(params=range(3))
def machine(request, tmp_path):
    """Return a snapshot of random bytes with random EPT12 and EPT01, and the chain."""
    dice = random.Random(request.param)
    memory = PhysicalMemory(16 * MIB)
    memory.write(0, dice.randbytes(8 * MIB))
    fmt = EPT.bind(Features())
    ept01 = PageTable.create(fmt, memory, BumpAllocator(12 * MIB, 14 * MIB))
    ept01.map(0, 0, 4 * MIB, rights.make_attributes())
    ept12 = PageTable.create(fmt, memory, BumpAllocator(2 * MIB, 4 * MIB))
    for _ in range(30):
        size = dice.choice((1, 2, 7, 300)) << 12
        word = rights.make_attributes(dice.choice(("RWX", "RX")))
        ept12.map(dice.randrange(4096) << 12, dice.randrange(700) << 12, size, word)
    for _ in range(12):
        size = dice.choice((1, 3, 30)) << 12
        ept01.map(
            dice.randrange(480) << 12, dice.randrange(3000) << 12, size, rights.make_attributes()
        )
    path = tmp_path / "snapshot"
    # A hole in the dump, so that something mapped is missing.
    regions = [(0, 5 * MIB), (6 * MIB, 10 * MIB)]
    roots = {"ept12": eptp(ept12.root), "ept01": eptp(ept01.root)}
    with open(path, "wb") as stream:
        write_snapshot(stream, memory, regions, roots=roots)
    source = open_file(str(path))
    return source, Reading().chain("ept12,ept01", source)


@pytest.mark.parametrize("kind", ["raw", "elf", "lime"])
def test_exporting_then_reading_is_reading_through(machine, tmp_path, kind):
    source, stages = machine
    through = Through(source, stages)
    ranges = ChainMap(source, stages).composed().ranges
    path = tmp_path / f"inner.{kind}"
    with open(path, "wb") as stream:
        written, lost = export(source, ranges, kind, stream)
    assert written + lost == ranges.total
    inner = open_file(str(path))
    for page in range(0, 17 * MIB, 4096):
        try:
            expected = through.read(page, 4096)
        except MemoryHoleError:
            expected = None
        try:
            data = inner.read(page, 4096)
        except MemoryHoleError:
            data = None
        if kind == "raw" and expected is None:
            assert data in (None, bytes(4096))
        else:
            assert data == expected, hex(page)


def test_extents_ascend_and_do_not_overlap(machine):
    source, stages = machine
    extents, _ = extents_of(source, ChainMap(source, stages).composed().ranges)
    for one, other in pairwise(extents):
        assert one.address + one.size <= other.address


def test_a_guests_tables_work_in_its_export(pt, pt_json, samples, tmp_path):
    out = tmp_path / "l2.core"
    status, record = pt_json("export", samples / "nested.core", out, "--via", "ept12,ept01")
    assert status == 0
    assert record["missing_bytes"] > 0
    status, output, _ = pt("read", out, "0x70000000", "16", "--via", "cr3=0x100000")
    assert status == 0
    assert "L2 greets" in output


def test_what_cannot_be_exported_is_one_clear_line(pt, samples, tmp_path):
    nested = samples / "nested.core"
    for arguments in (
        ("--via", "ept=0x5000000"),
        ("--via", "ept12,ept01", "--format", "vmdk"),
    ):
        status, _, errors = pt("export", nested, tmp_path / "out", *arguments)
        assert status == 2
        assert errors.count("\n") == 1
