"""Every planted root is found among real program bytes, and hardly anything else is."""

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from turducken.inspect.find import PageSpace, find_roots
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.formats import FORMATS, Features
from turducken.paging.readers import Segment
from turducken.paging.table import PageTable

MIB = 1 << 20
HANDFUL = 3


def program_files(dice):
    """Return real programs and libraries of this machine, shuffled."""
    folders = [Path("/usr/bin"), Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib")]
    folders.append(Path(sysconfig.get_paths()["stdlib"]))
    files = [
        one
        for folder in folders
        if folder.is_dir()
        for one in sorted(folder.iterdir())
        if one.is_file() and 4096 < one.stat().st_size < 8 * MIB
    ]
    dice.shuffle(files)
    return files


def filled_memory(dice, size):
    memory = PhysicalMemory(size)
    at = 0
    for file in program_files(dice):
        if at >= size - 2 * MIB:
            break
        try:
            data = file.read_bytes()[: size - at]
        except OSError:
            continue
        memory.write(at, data)
        at += -(-len(data) // 4096) * 4096
    assert at > size // 2, "too few programs on this machine to test with"
    return memory


def planted_table(name, memory, allocate, dice):
    table = PageTable.create(FORMATS[name].bind(Features()), memory, allocate)
    for _ in range(dice.choice((1, 3, 10))):
        size = dice.choice((1, 8, 64, 512, 2000)) << 12
        start = dice.randrange(1 << 19) << 12
        target = dice.randrange(memory.size - size >> 12) << 12
        letters = dice.choice(("RWX", "RX") if name == "32-bit" else ("RWX", "RW", "RX"))
        table.map(start, target, size, rights.make_attributes(letters))
    return table


@pytest.mark.parametrize("seed", range(4))
def test_planted_roots_are_found_among_programs(seed):
    dice = random.Random(seed)
    memory = filled_memory(dice, 48 * MIB)
    pages = dice.sample(range(16, memory.size >> 12), 4000)
    planted = {}
    for _ in range(3):
        for name in FORMATS:
            table = planted_table(name, memory, lambda: pages.pop() << 12, dice)
            planted[table.root] = name
    space = PageSpace([Segment(0, np.frombuffer(memory.bytes, dtype=np.uint8))])
    found = {one.root: one for one in find_roots(memory, space)}
    for root, name in planted.items():
        assert root in found, f"{name} at {root:#x}"
        assert name in (found[root].format, *found[root].also)
    false = [one for root, one in found.items() if root not in planted]
    assert len(false) <= HANDFUL, false


def test_programs_alone_have_hardly_any_roots():
    memory = filled_memory(random.Random(9), 48 * MIB)
    space = PageSpace([Segment(0, np.frombuffer(memory.bytes, dtype=np.uint8))])
    assert len(find_roots(memory, space)) <= HANDFUL


def test_a_root_with_one_page_and_a_few_bad_entries_is_found():
    memory = filled_memory(random.Random(3), 16 * MIB)
    pages = random.Random(3).sample(range(16, memory.size >> 12), 100)
    fmt = FORMATS["EPT"].bind(Features())
    small = PageTable.create(fmt, memory, lambda: pages.pop() << 12)
    small.map(0x1234000, 0x1234000 % memory.size, 0x1000, rights.make_attributes())
    spoilt = PageTable.create(fmt, memory, lambda: pages.pop() << 12)
    spoilt.map(0, 0, 200 << 12, rights.make_attributes(), max_shift=12)
    leaf = spoilt.walk(0x5000).steps[-1].address
    for index in (3, 50, 100):
        memory.store((leaf & ~0xFFF) + index * 8, 8, 0x5006)  # an L1's MMIO trick
    space = PageSpace([Segment(0, np.frombuffer(memory.bytes, dtype=np.uint8))])
    found = {one.root: one for one in find_roots(memory, space, ["EPT"])}
    assert {small.root, spoilt.root} <= found.keys()
    assert found[spoilt.root].malformed == 3


def test_tables_of_a_guest_are_found_through_its_ept(pt_json, samples):
    _, alone = pt_json("find", samples / "nested.core")
    assert [one["format"] for one in alone["candidates"]] == ["EPT"] * 4
    _, inside = pt_json("find", samples / "nested.core", "--via", "ept12,ept01")
    assert [
        one["root"] for one in inside["candidates"] if "4-level" in (one["format"], *one["also"])
    ] == ["0x100000"]


def test_the_notes_roots_are_found(pt_json, samples):
    _, record = pt_json("find", samples / "trustvisor.core", "--format", "EPT")
    assert {one["root"] for one in record["candidates"]} == {"0x14674000", "0x1030e000"}
    _, record = pt_json("find", samples / "lhv-before-fix.core")
    assert [one["root"] for one in record["candidates"]] == ["0x8bb4000"]
