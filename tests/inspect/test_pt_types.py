"""Memory types against the machine's: MTRRs, devices, RAM; and a table against a machine's own."""

import pytest

from turducken.arch.memory_types import MemoryType
from turducken.inspect.errors import InspectError
from turducken.inspect.mtrr import END, parse_e820, parse_mtrr
from turducken.inspect.writers import write_snapshot
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.formats import FORMATS, Features
from turducken.paging.table import BumpAllocator, PageTable

MIB = 1 << 20
UC, WB = MemoryType.UC, MemoryType.WB
LINUX = """\
reg00: base=0x000000000 (    0MB), size=   32MB, count=1: write-back
reg01: base=0x001000000 (   16MB), size= 1024KB, count=1: uncachable
"""
MAP = """\
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x00000000007fffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000800000-0x00000000008fffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000900000-0x0000000000ffffff] ACPI data
"""


def spans(regions):
    return [(one.base, one.end, one.type) for one in regions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default=WB,1M-2M=UC", [(0, MIB, WB), (MIB, 2 * MIB, UC), (2 * MIB, END, WB)]),
        ("0-4M=WB,1M-2M=UC", [(0, MIB, WB), (MIB, 2 * MIB, UC), (2 * MIB, 4 * MIB, WB),
                              (4 * MIB, END, UC)]),
        ("0-1M=WB,0-1M=WT", [(0, MIB, MemoryType.WT), (MIB, END, UC)]),
        ("default=wb", [(0, END, WB)]),
    ],
)  # fmt: skip
def test_a_list_of_types(text, expected):
    assert spans(parse_mtrr(text)) == expected


def test_the_text_of_linux(tmp_path):
    path = tmp_path / "mtrr"
    path.write_text(LINUX)
    assert spans(parse_mtrr(str(path))) == [
        (0, 16 * MIB, WB), (16 * MIB, 17 * MIB, UC), (17 * MIB, 32 * MIB, WB), (32 * MIB, END, UC)
    ]  # fmt: skip
    path.write_text(LINUX.splitlines()[1])
    assert parse_mtrr(str(path))[0].type is WB, "without a range that is WB the default is WB"


@pytest.mark.parametrize("text", ["frob", "0-1M=frob", "5M-1M=WB", "0-x=WB", "0-1M=WB,frob"])
def test_lists_that_are_none(text):
    with pytest.raises(InspectError, match="--mtrr"):
        parse_mtrr(text)


def test_a_memory_map_of_linux(tmp_path):
    path = tmp_path / "dmesg"
    path.write_text(MAP)
    assert [tuple(one) for one in parse_e820(str(path))] == [(0, 8 * MIB), (9 * MIB, 7 * MIB)]
    path.write_text("nothing")
    with pytest.raises(InspectError, match="usable"):
        parse_e820(str(path))


@pytest.fixture
def snapshot(tmp_path):
    """Return the path of a snapshot with an EPT: WB but for one page, and one MMIO page cached."""
    memory = PhysicalMemory(32 * MIB)
    ept = PageTable.create(FORMATS["EPT"].bind(Features()), memory, BumpAllocator(MIB, 2 * MIB))
    ept.map(0, 0, 8 * MIB, rights.make_attributes("RWX"))
    ept.change(0x5000, 0x1000, rights.make_attributes("RWX", memory_type=UC), -1 & 0xFFFF_FFFF)
    ept.map(0xFEE0_0000, 0xFEE0_0000, 0x1000, rights.make_attributes("RW"))
    ept.map(0x2000_0000, 16 * MIB, 2 * MIB, rights.make_attributes("RW"))
    path = tmp_path / "snapshot"
    with open(path, "wb") as stream:
        write_snapshot(
            stream, memory, [(0, memory.size)],
            roots={"cpu0.ept": ept.root | 0x1E, "cpu1.ept": ept.root | 0x1E},
            mtrrs=[(0, 17 * MIB, 6), (17 * MIB, END - 17 * MIB, 0)],
        )  # fmt: skip
    return path


def rules(record):
    return {(one["rule"], one["start"]) for one in record["findings"]}


def test_types_against_the_snapshots_mtrrs(snapshot, pt_json):
    status, record = pt_json("check", snapshot, "--via", "cpu0.ept")
    assert status == 1
    found = rules(record)
    assert {("type-against-mtrr", "0x5000"), ("type-against-mtrr", "0xfee00000")} <= found
    assert ("type-against-mtrr", "0x20100000") in found
    assert ("large-page-types", "0x20000000") in found


def test_types_against_mtrrs_that_are_given(snapshot, pt_json):
    _, record = pt_json("check", snapshot, "--via", "cpu0.ept", "--mtrr", "default=WB")
    assert {one for one in rules(record) if one[0] == "type-against-mtrr"} == {
        ("type-against-mtrr", "0x5000")
    }
    _, record = pt_json(
        "check", snapshot, "--via", "cpu0.ept", "--mtrr", "default=WB", "--device", "0xfee00000+4K"
    )
    assert ("type-against-mtrr", "0xfee00000") in rules(record)


def test_a_map_says_where_there_is_ram(snapshot, pt_json, tmp_path):
    path = tmp_path / "dmesg"
    path.write_text(MAP)
    _, record = pt_json("check", snapshot, "--via", "cpu0.ept", "--e820", path)
    assert ("cached-outside-ram", "0xfee00000") in rules(record)


def test_an_ept_that_maps_nothing_is_a_finding(tmp_path, pt_json):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(8192))
    _, record = pt_json("check", f"raw:{path}", "--via", "ept=0x101e")
    assert {one["rule"] for one in record["findings"]} == {"maps-nothing"}


def test_a_table_against_the_machines_own(snapshot, pt, pt_json):
    same = pt_json("check", snapshot, "--via", "cpu0.ept", "--against", f"{snapshot}.cpu1")[1]
    assert "machine-differs" not in {one["rule"] for one in same["findings"]}
    memory = PhysicalMemory(4 * MIB)
    table = PageTable.create(FORMATS["EPT"].bind(Features()), memory, BumpAllocator(MIB, 2 * MIB))
    table.map(0, 0, 4 * MIB, rights.make_attributes("RWX"))
    other = snapshot.with_name("other")
    with open(other, "wb") as stream:
        write_snapshot(stream, memory, [(0, memory.size)], roots={"ept": table.root | 0x1E})
    _, record = pt_json("check", other, "--via", "ept", "--against", f"{snapshot}.cpu0")
    found = [one for one in record["findings"] if one["rule"] == "machine-differs"]
    assert ("0x5000", 0x1000) in [(one["start"], one["size"]) for one in found]
    assert "leads to nothing" in found[-1]["message"]
    for wrong in ("nothing", f"{snapshot}.cpu7", f"{snapshot}.frob"):
        assert pt("check", other, "--via", "ept", "--against", wrong)[0] == 2
