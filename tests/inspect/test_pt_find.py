"""Every planted root is found among real program bytes, and hardly anything else is."""

import random
import sysconfig
from pathlib import Path

import foreign_tables
import numpy as np
import pytest

from turducken.inspect.containers import open_file
from turducken.inspect.search import vmcs
from turducken.inspect.search.pages import PageSpace, space_of
from turducken.inspect.search.roots import find_roots
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


@pytest.mark.parametrize("kind", foreign_tables.KINDS)
def test_other_hypervisors_tables_are_found_as_epts(kind):
    machine = foreign_tables.Machine(1)
    root = foreign_tables.KINDS[kind](machine)
    found = find_roots(machine.memory, machine.space)
    mine = next(one for one in found if one.root == root)
    assert mine.format == "EPT"
    assert found[0].root == root
    assert len(found) <= HANDFUL
    assert bool(mine.malformed) is (kind == "xen")
    assert any("devices marked" in one for one in mine.signs) is (kind == "kvm")


@pytest.mark.parametrize("mistake", foreign_tables.MISTAKES)
@pytest.mark.parametrize("kind", foreign_tables.KINDS)
def test_one_mistake_does_not_hide_a_root(kind, mistake):
    machine = foreign_tables.Machine(2, 16 * MIB)
    tables = {}
    root = foreign_tables.KINDS[kind](machine, tables)
    foreign_tables.make_mistake(machine, tables, mistake)
    found = find_roots(machine.memory, machine.space, ["EPT", "4-level"])
    mine = next(one for one in found if one.root == root)
    assert mine.format == "EPT" or "EPT" in mine.also
    assert mine.malformed
    assert mine.fault


def test_near_misses_are_shown_on_request():
    machine = foreign_tables.Machine(3, 16 * MIB)
    tables = {}
    root = foreign_tables.plain(machine, tables)
    machine.put(tables[2], 1, 0)
    for index in range(0, 512, 4):
        machine.put(tables[3][0], index, machine.dice.getrandbits(63) | 1)
    strict = find_roots(machine.memory, machine.space, ["EPT"])
    assert root not in {one.root for one in strict}
    loose = find_roots(machine.memory, machine.space, ["EPT"], near_misses=True)
    assert any(one.root == root and one.is_near_miss for one in loose)


def test_ordinary_tables_that_were_walked_are_no_epts():
    machine = foreign_tables.Machine(4, 16 * MIB)
    root = foreign_tables.tree(
        machine,
        lambda address: address | 0x67,
        lambda number, address: address | (0x63, 0x161)[number % 2],
    )
    (mine,) = (one for one in find_roots(machine.memory, machine.space) if one.root == root)
    assert mine.format == "4-level"
    assert "references are marked accessed" in mine.signs


def vmcs_words(places, values, revision):
    words = [0] * 512
    words[0] = revision
    for number in range(20, 40):
        words[number] = number
    for name, value in values.items():
        words[places[name] // 8] = value
    return words


VALUES = {
    "host_cr0": 0x8000_0021,
    "host_cr3": 0x1000,
    "host_rip": 0xFFFF_FFFF_8100_0000,
    "guest_cr3": 0x2000,
    "link": 0xFFFF_FFFF_FFFF_FFFF,
}


@pytest.mark.parametrize(("places", "revision"), [(vmcs._OWN, 0x12), (vmcs._KVM, 0x11E57ED0)])
def test_a_vmcs_of_a_known_layout_is_read(places, revision):
    machine = foreign_tables.Machine(5, 16 * MIB)
    ept = foreign_tables.plain(machine)
    region = machine.page()
    words = vmcs_words(places, {**VALUES, "eptp": ept | 0x5E}, revision)
    machine.memory.write(region, np.array(words, dtype=np.uint64).tobytes())
    found = find_roots(machine.memory, machine.space, ["EPT"])
    (one,) = vmcs.find_vmcs(machine.memory, machine.space, found)
    assert (one.address, one.revision, one.eptp) == (region, revision, ept | 0x5E)
    assert (one.host_cr3, one.host_rip, one.guest_cr3) == (0x1000, VALUES["host_rip"], 0x2000)


def test_a_vmcs_of_an_unknown_layout_is_told_by_its_values():
    machine = foreign_tables.Machine(6, 16 * MIB)
    ept = foreign_tables.plain(machine)
    kernel = PageTable.create(FORMATS["4-level"].bind(Features()), machine.memory, machine.page)
    kernel.map(0xFFFF_8000_0000_0000, 0x10_0000, 4 * MIB, rights.make_attributes("RX"))
    region = machine.page()
    places = {"eptp": 0x318, "link": 0x90, "host_cr3": 0x200, "host_rip": 0x440}
    values = {
        "eptp": ept | 0x5E,
        "link": VALUES["link"],
        "host_cr3": kernel.root,
        "host_rip": 0xFFFF_8000_0001_2345,
    }
    words = vmcs_words(places, values, 4)
    machine.memory.write(region, np.array(words, dtype=np.uint64).tobytes())
    found = find_roots(machine.memory, machine.space, ["EPT", "4-level"])
    (one,) = vmcs.find_vmcs(machine.memory, machine.space, found)
    assert (one.address, one.eptp) == (region, ept | 0x5E)
    assert (one.host_cr3, one.host_rip) == (kernel.root, values["host_rip"])


def test_chains_lead_to_the_guests_own_tables(pt_json, samples):
    _, record = pt_json("find", samples / "nested.core", "--chains")
    assert "cr3:4-level=0x100000,ept=0x4400000" in [one["via"] for one in record["chains"]]
    for chain in record["chains"]:
        status, _ = pt_json("dump", samples / "nested.core", "--via", chain["via"])
        assert status == 0


def test_holes_of_a_sparse_file_are_not_read(tmp_path, pt_json):
    """They are known to be zero: the same is found as where they are zeros that were written."""
    machine = foreign_tables.Machine(8, 16 * MIB, noisy=False)
    root = foreign_tables.plain(machine)
    full, sparse = tmp_path / "full", tmp_path / "sparse"
    full.write_bytes(machine.memory.bytes)
    with open(sparse, "wb") as stream:
        for at in range(0, machine.memory.size, 4096):
            page = machine.memory.read(at, 4096)
            if any(page):
                stream.seek(at)
                stream.write(page)
        stream.truncate(machine.memory.size)
    source = open_file(f"raw:{sparse}")
    known = sum(high - low for low, high in space_of(source).empty_runs())
    assert known > 512, "this file system keeps no holes"
    found = [pt_json("find", f"raw:{one}")[1]["candidates"] for one in (full, sparse)]
    assert found[0] == found[1]
    assert found[0][0]["root"] == f"{root:#x}"


def test_progress_goes_from_nothing_to_all():
    machine = foreign_tables.Machine(9, 16 * MIB)
    told = []
    find_roots(machine.memory, machine.space, on_progress=told.append)
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.8 < told[-1] <= 1
