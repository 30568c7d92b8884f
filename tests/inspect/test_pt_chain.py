import pytest

from turducken.inspect.chain import ChainOptions, Through, parse_chain, walk_chain
from turducken.inspect.containers import open_file
from turducken.inspect.errors import InspectError
from turducken.inspect.through import ChainMap
from turducken.memory import MemoryHoleError
from turducken.paging.walker import Stop


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
