import pytest

from turducken.address import Hpa
from turducken.inspect.chain import ChainOptions, Through, parse_chain, walk_chain
from turducken.inspect.containers import open_file
from turducken.inspect.errors import InspectError
from turducken.inspect.through import ChainMap
from turducken.inspect.writers import write_snapshot
from turducken.memory import MemoryHoleError, PhysicalMemory
from turducken.paging import rights
from turducken.paging.formats import EPT, FORMATS, Features
from turducken.paging.table import BumpAllocator, PageTable
from turducken.paging.walker import Stop
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs


@pytest.fixture
def nested(samples):
    source = open_file(str(samples / "nested.core"))
    return source, parse_chain("cr3,ept12,ept01", ChainOptions(), source.roots)


def test_every_stage_and_place_is_told(nested):
    source, stages = nested
    way = walk_chain(source, stages, 0x40_0010)
    assert [one.stage.name for one in way.stages] == ["cr3", "ept12", "ept01"]
    assert [one.walk.stop for one in way.stages] == [Stop.PAGE] * 3
    assert way.output == 0x280_0010
    assert way.shift == 12
    for one in way.stages:
        for step, place in zip(one.walk.steps, one.places, strict=True):
            assert source.load(place, 8) == step.entry


def test_reading_and_mapping_agree_with_walking(nested):
    source, stages = nested
    chain = ChainMap(source, stages)
    ranges = chain.composed().ranges
    memory = Through(source, stages)
    for one in ranges:
        for address in (one.start, one.end - 1):
            assert walk_chain(source, stages, address).output == one.target + address - one.start
    # A table below two translations is read in bulk as it is read word by word.
    assert chain.mapping().tables_read > 4
    with pytest.raises(MemoryHoleError):
        memory.read(0x123, 1)


def test_a_stop_in_an_outer_stage_is_explained(nested):
    source, stages = nested
    broken = [stages[0], parse_chain("ept12=0x4440000", ChainOptions())[0], stages[2]]
    way = walk_chain(source, broken, 0x40_0000)
    assert way.output is None
    assert "cannot be read" in way.reason


def test_the_smallest_right_of_all_stages_counts(nested):
    source, stages = nested
    way = walk_chain(source, stages[1:], 0x40_0000)
    from turducken.paging.rights import describe

    assert describe(way.attributes) == "R-X WB"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ept12", "no value"),
        ("frob=1", "no paging format"),
        ("cr3:frob=1", "no paging format"),
        ("ept=zzz", "not a number"),
        ("ept=0x1ffffffffffffffff", "64 bits"),
        ("ept=-1", "64 bits"),
        ("=5", "no paging format"),
        (",", "no paging format"),
    ],
)
def test_bad_chains_are_one_clear_line(text, message):
    with pytest.raises(InspectError, match=message):
        parse_chain(text, ChainOptions())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cr3=0x1000", ["4-level"]),
        ("cr3:pae=0x1000,ept=0x2000", ["PAE", "EPT"]),
        ("guest:32-bit=4096,cpu1.ept01=0x2000", ["32-bit", "EPT"]),
        ("5-level=0x1000", ["5-level"]),
    ],
)
def test_formats_come_from_names(text, names):
    assert [one.fmt.name for one in parse_chain(text, ChainOptions())] == names


def test_an_eptp_of_walk_length_five_is_read_with_five_levels(tmp_path, pt_json):
    memory = PhysicalMemory(4 << 20)
    fmt = FORMATS["EPT 5-level"].bind(Features())
    table = PageTable.create(fmt, memory, BumpAllocator(1 << 20, 2 << 20))
    table.map(1 << 50, 0x5000, 0x1000, rights.make_attributes("RW"))
    path = tmp_path / "dump"
    path.write_bytes(memory.bytes)
    root = table.root | 0x26
    status, record = pt_json("walk", f"raw:{path}", hex(1 << 50), "--via", f"ept={root:#x}")
    assert (status, record["output"]) == (0, "0x5000")
    assert record["stages"][0]["entries"][0]["level"] == "EPT PML5E"
    _, record = pt_json("check", f"raw:{path}", "--via", f"ept={root:#x}")
    assert "eptp-invalid" not in {one["rule"] for one in record["findings"]}
    _, record = pt_json("check", f"raw:{path}", "--via", f"ept:ept-5={table.root | 0x1E:#x}")
    assert "eptp-invalid" in {one["rule"] for one in record["findings"]}


def test_what_a_processor_lacks_can_be_said(tmp_path, pt_json):
    memory = PhysicalMemory(8 << 20)
    table = PageTable.create(EPT.bind(Features()), memory, BumpAllocator(1 << 20, 2 << 20))
    table.map(0, 0, 2 << 20, rights.make_attributes("RX"))
    table.map(1 << 30, 1 << 30, 1 << 30, rights.make_attributes("RX"))
    path = tmp_path / "dump"
    path.write_bytes(memory.bytes)
    via = ("--via", f"ept={table.root | 0x1E:#x}")

    def effective(address, *options):
        _, record = pt_json("walk", f"raw:{path}", address, *via, *options)
        return record["stages"][0]["stop"], record["effective"]

    assert effective("0x0")[0] == effective("0x40000000")[0] == "page"
    assert effective("0x0", "--no-2mib")[0] == "malformed"
    assert effective("0x40000000", "--no-1gib")[0] == "malformed"
    assert effective("0x0", "--mode-based-execute")[1]["rights"] == "R-X-XU"


@pytest.mark.parametrize("is_on", [True, False])
def test_a_snapshots_vmcs_says_how_its_ept_is_read(tmp_path, pt_json, is_on):
    memory = PhysicalMemory(8 << 20)
    table = PageTable.create(EPT.bind(Features()), memory, BumpAllocator(1 << 20, 2 << 20))
    table.map(0, 0, 0x1000, rights.RWX)
    region = Vmcs(memory, Hpa(0x3000))
    region.write(f.PRIMARY_CONTROLS, Primary.ACTIVATE_SECONDARY_CONTROLS)
    region.write(f.SECONDARY_CONTROLS, Secondary.MODE_BASED_EXECUTE * is_on)
    path = tmp_path / "snapshot"
    with open(path, "wb") as stream:
        write_snapshot(
            stream, memory, [(0, memory.size)],
            roots={"cpu0.ept": table.root | 0x1E, "cpu0.vmcs": 0x3000}, lacks=["pages_2mib"],
        )  # fmt: skip
    source = open_file(str(path))
    assert source.lacks == {"pages_2mib"}
    _, record = pt_json("walk", path, "0x0", "--via", "cpu0.ept")
    assert record["effective"]["rights"] == ("RWX-XU" if is_on else "RWX")
