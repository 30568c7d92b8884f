import random

import naive_paging as naive
import pytest

from turducken.arch.memory_types import PAT_RESET
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.build import build
from turducken.paging.compare import Change, compare
from turducken.paging.compose import compose
from turducken.paging.formats import EPT, FORMATS, Features
from turducken.paging.ranges import map_ranges, merge
from turducken.paging.table import BumpAllocator, OutOfTablesError, PageTable
from turducken.paging.walker import Stop, walk

FEATURES = Features(maxphyaddr=naive.PHYS)
NAMES = tuple(naive.SHIFTS)
SEEDS = range(3)


def expected_attributes(fmt, answer):
    """Turn the naive model's answer into an attribute word, field by field."""
    _, _, r, w, x, u, kind, flag = answer
    word = rights.ATTRIBUTES.make(R=r, W=w, X=x, XU=x, U=u)
    if fmt == "EPT":
        return word | rights.ATTRIBUTES.make(MT=kind, IPAT=flag)
    return word | rights.ATTRIBUTES.make(MT=PAT_RESET >> 8 * kind & 7, G=flag, PAGING=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_walker_agrees_with_the_naive_model(name, seed):
    memory, root = naive.random_tree(name, seed)
    fmt = FORMATS[name].bind(FEATURES)
    dice = random.Random(seed)
    addresses = naive.edges(name, memory, root)
    addresses += [dice.randrange(1 << naive.INPUT_BITS[name]) for _ in range(200)]
    for address in dice.sample(addresses, min(3000, len(addresses))):
        walked = walk(fmt, memory, root, address)
        answer = naive.translate(name, memory, root, address)
        if isinstance(answer, str):
            assert walked.stop.value == answer
            continue
        assert walked.stop is Stop.PAGE
        assert (walked.output(address), walked.shift) == answer[:2]
        ad = rights.A | rights.D
        assert rights.attributes_of(
            fmt, walked
        ) & ~ad & ~rights.PROTECTION_KEY.mask & ~rights.SVE == (expected_attributes(name, answer))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_merged_ranges_are_what_is_walked(name, seed, accessed_dirty):
    memory, root = naive.random_tree(name, seed)
    fmt = FORMATS[name].bind(FEATURES)
    mapping = map_ranges(fmt, memory, root, accessed_dirty=accessed_dirty)
    ranges = mapping.ranges
    assert not mapping.truncated
    assert (ranges.start[1:] > ranges.last[:-1]).all()
    assert (merge(ranges).start == ranges.start).all()
    for address in naive.edges(name, memory, root):
        walked = walk(fmt, memory, root, address)
        found = ranges.find(naive.linear(name, address))
        if walked.stop is not Stop.PAGE:
            assert found is None
            continue
        assert found is not None
        assert found.target + naive.linear(name, address) - found.start == walked.output(address)
        word = rights.attributes_of(fmt, walked)
        assert found.attributes == word if accessed_dirty else word & ~(rights.A | rights.D)
        assert found.shifts >> walked.shift & 1
    for one in ranges:
        offset = one.start & ((1 << naive.INPUT_BITS[name]) - 1)
        assert walk(fmt, memory, root, offset).steps[-1].address == one.entry_address


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_problems_are_where_the_walker_stops_for_bad_entries(name, seed):
    memory, root = naive.random_tree(name, seed, garbage=0.5)
    fmt = FORMATS[name].bind(FEATURES)
    mapping = map_ranges(fmt, memory, root)
    bad = {}
    for index in range(len(mapping.problems)):
        start = int(mapping.problems.start[index])
        bad[start] = start + mapping.problem_size(index), int(mapping.problems.state[index])
    spans = sorted((low, high, state) for low, (high, state) in bad.items())
    for address in naive.edges(name, memory, root):
        walked = walk(fmt, memory, root, address)
        state = [state for low, high, state in spans if low <= address < high]
        expected = {Stop.MALFORMED: [1], Stop.NO_MEMORY: [2]}.get(walked.stop, [])
        assert state == expected, hex(address)


def random_ranges(name, dice, table, *, pages=1 << 18, count=12, max_pages=3000):
    """Map random ranges and return the model: page number to (target page, attributes)."""
    model = {}
    top = 1 << naive.INPUT_BITS[name] - 12
    bases = [0, dice.randrange(top >> 1), top // 4 - 700]
    if name in ("4-level", "5-level"):
        bases.append((1 << 52) - pages)
    for _ in range(count):
        base = dice.choice(bases)
        start = base + dice.randrange(min(pages, top // 4))
        size = dice.choice((1, 2, 511, 512, 513, dice.randrange(1, max_pages)))
        if dice.random() < 0.4:
            start &= ~511
        size = min(size, (1 << 52) - start)
        target = dice.randrange(1 << 19)
        if dice.random() < 0.6:
            target = target & ~511 | start & 511
        can_nx = name not in ("32-bit",)
        attributes = rights.make_attributes(
            dice.choice(("RWX", "RX", "R", "RW") if can_nx else ("RWX", "RX")),
            dice.choice((0, 4, 6)),
            user=name == "EPT" or dice.random() < 0.5,
        )
        attributes |= 0 if name == "EPT" else rights.PAGING
        table.map(start << 12, target << 12, size << 12, attributes)
        for page in range(size):
            model[start + page] = target + page, attributes
    return model


def assert_maps(table, model):
    seen = {}
    for one in table.mapping().ranges:
        for page in range(one.size >> 12):
            seen[(one.start >> 12) + page] = (one.target >> 12) + page, one.attributes
    assert seen == model


def new_table(name, **kwargs):
    memory = PhysicalMemory(64 << 20)
    pages = BumpAllocator(0x10_0000, 60 << 20)
    return PageTable.create(FORMATS[name].bind(FEATURES), memory, pages, free=pages.free, **kwargs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_built_is_what_is_mapped(name, seed):
    dice = random.Random(seed)
    table = new_table(name)
    model = random_ranges(name, dice, table)
    assert_maps(table, model)
    for page in dice.sample(sorted(model), 200):
        answer = naive.translate(name, table.memory, table.root, (page << 12) % (1 << 57))
        assert answer[0] >> 12 == model[page][0]
        assert expected_attributes(name, answer) == model[page][1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_built_whole_maps_the_same_ranges(name, seed):
    dice = random.Random(seed + 100)
    table = new_table(name)
    model = random_ranges(name, dice, table)
    ranges = table.mapping().ranges
    root = build(table.fmt, table.memory, ranges, BumpAllocator(32 << 20, 60 << 20))
    whole = PageTable(table.fmt, table.memory, root)
    assert_maps(whole, model)
    assert not len(compare(ranges, whole.mapping().ranges))
    leaves = int(whole.mapping().ranges.leaves.sum())
    assert leaves <= int(ranges.leaves.sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_changes_are_those_of_a_dictionary(name, seed):
    dice = random.Random(seed + 200)
    table = new_table(name)
    model = random_ranges(name, dice, table)
    for _ in range(25):
        page = dice.choice(sorted(model))
        size = dice.choice((1, 3, 512, 1000))
        size = min(size, (1 << 52) - page)
        if name in ("32-bit", "PAE"):
            size = min(size, (1 << 20) - page)
        what = dice.choice(("unmap", "protect", "type", "split"))
        if what == "unmap":
            table.unmap(page << 12, size << 12)
            for one in range(page, page + size):
                model.pop(one, None)
            if not model:
                break
            continue
        if what == "split":
            table.split(page << 12, 12)
            assert table.walk(page << 12).shift == 12
            continue
        value = rights.make_attributes("RX", 0)
        mask = rights.W if what == "protect" else rights.MEMORY_TYPE.mask
        table.change(page << 12, size << 12, value, mask)
        for one in range(page, page + size):
            if one in model:
                target, attributes = model[one]
                model[one] = target, attributes & ~mask | value & mask
    assert_maps(table, model)


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_subtree_is_equal_and_independent(name):
    dice = random.Random(7)
    source, copy = new_table(name), None
    model = random_ranges(name, dice, source)
    pages = BumpAllocator(32 << 20, 60 << 20)
    copy = PageTable.create(source.fmt, source.memory, pages)
    for start in sorted({page & ~0x3FFFF for page in model}):
        size = 0x40000 if name not in ("32-bit", "PAE") else min(0x40000, (1 << 20) - start)
        copy.copy(source, start << 12, size << 12)
    assert_maps(copy, model)
    page = sorted(model)[0]
    copy.unmap(page << 12, 1 << 12)
    assert_maps(source, model)


def test_part_of_a_subtree_can_be_copied():
    source = new_table("EPT")
    source.map(0, 0x4000_0000, 4 << 21, rights.make_attributes())
    copy = PageTable.create(source.fmt, source.memory, BumpAllocator(32 << 20, 60 << 20))
    copy.copy(source, 0x1000, 0x20_0000)
    (one,) = copy.mapping().ranges
    assert (one.start, one.size, one.target) == (0x1000, 0x20_0000, 0x4000_1000)


def test_freed_tables_are_given_back():
    memory = PhysicalMemory(64 << 20)
    pages = BumpAllocator(0x10_0000, 60 << 20)
    table = PageTable.create(EPT.bind(FEATURES), memory, pages, free=pages.free)
    table.map(0, 0, 2 << 30, rights.make_attributes(), max_shift=12)
    used = pages.next
    table.unmap(0, 512 << 30)
    table.map(0, 0, 2 << 30, rights.make_attributes(), max_shift=12)
    assert pages.next == used
    table.map(0, 0, 1 << 30, rights.make_attributes())
    assert table.walk(0).shift == 30


def test_an_allocator_that_is_empty_is_one_clear_error():
    memory = PhysicalMemory(1 << 20)
    table = PageTable.create(EPT.bind(FEATURES), memory, BumpAllocator(0x1000, 0x2000))
    with pytest.raises(OutOfTablesError):
        table.map(0, 0, 0x1000, rights.make_attributes())


def test_ranges_outside_the_input_space_are_refused():
    table = new_table("EPT")
    with pytest.raises(ValueError, match="outside"):
        table.map(1 << 48, 0, 0x1000, rights.make_attributes())
    with pytest.raises(ValueError, match="whole pages"):
        table.unmap(0x1234, 0x1000)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_composing_is_walking_twice(name, seed):
    dice = random.Random(seed + 300)
    memory, root = naive.random_tree(
        name, seed, garbage=0.05, phys=1 << 32, density=0.3 if name == "PAE" else 0.05
    )
    inner = map_ranges(FORMATS[name].bind(FEATURES), memory, root).ranges
    outer_table = new_table("EPT")
    for _ in range(60):
        size = dice.choice((1, 5, 512, 700, 4096, 1 << 16)) << 12
        start = dice.randrange((1 << 32) >> 12) << 12
        target = dice.randrange(1 << 22) << 12
        if dice.random() < 0.5:
            start, target = start & ~0x1F_FFFF, target & ~0x1F_FFFF
        word = rights.make_attributes(dice.choice(("RWX", "R", "RX", "RW")))
        outer_table.map(start, target, size, word)
    outer_memory, outer_root = outer_table.memory, outer_table.root
    outer = outer_table.mapping().ranges
    both = compose(inner, outer)
    probes = set()
    for table in (both.ranges, both.unmapped, inner):
        for one in table:
            probes.update((one.start, one.start + one.size - 1, one.start + one.size // 2 & ~0xFFF))
    hits = 0
    for address in sorted(probes):
        first = naive.translate(name, memory, root, address)
        found, lost = both.ranges.find(address), both.unmapped.find(address)
        if isinstance(first, str):
            assert found is None
            assert lost is None
            continue
        second = naive.translate("EPT", outer_memory, outer_root, first[0])
        if isinstance(second, str):
            assert found is None
            assert lost is not None
            assert lost.target + address - lost.start == first[0]
            continue
        hits += 1
        assert lost is None
        assert found is not None
        assert found.target + address - found.start == second[0]
        for position, mask in ((2, rights.R), (3, rights.W), (4, rights.X)):
            assert bool(found.attributes & mask) == (first[position] and second[position])
        assert bool(found.attributes & rights.U) == first[5]
    assert hits


@pytest.mark.parametrize("seed", range(4))
def test_composition_by_page_index_equals_composition_by_search(seed, monkeypatch):
    import numpy as np

    from turducken.paging import compose as module

    def scattered(seed, count, span):
        dice = np.random.default_rng(seed)
        table = new_table("EPT")
        start = np.sort(dice.choice(span, count, replace=False).astype(np.uint64)) << np.uint64(12)
        target = dice.choice(span, count, replace=False).astype(np.uint64) << np.uint64(12)
        from turducken.paging.ranges import RangeTable

        one = np.ones(count, dtype=np.uint64)
        page = one << np.uint64(12)
        word = np.full(count, rights.make_attributes(), dtype=np.uint32)
        assert table
        return RangeTable(start, page, target, word, one, page, one)

    inner, outer = scattered(seed, 9000, 30000), scattered(seed + 1, 9000, 20000)
    by_page = compose(inner, outer)
    monkeypatch.setattr(module, "INDEX_PAGES", 0)
    by_search = compose(inner, outer)
    for one, other in ((by_page.ranges, by_search.ranges), (by_page.unmapped, by_search.unmapped)):
        assert list(one) == list(other)


def test_comparing_tells_every_kind_of_difference():
    a, b = new_table("EPT"), new_table("EPT")
    wb, ro = rights.make_attributes(), rights.make_attributes("R")
    for table in (a, b):
        table.map(0, 0, 1 << 30, wb)
    a.unmap(0x1000, 0x1000)
    b.unmap(0x5000, 0x2000)
    b.map(0x20_0000, 0x7000_0000, 0x3000, wb)
    b.change(0x40_0000, 0x1000, ro, rights.RWX)
    found = [(d.change, d.start, d.size) for d in compare(a.mapping().ranges, b.mapping().ranges)]
    assert found == [
        (Change.ONLY_B, 0x1000, 0x1000),
        (Change.ONLY_A, 0x5000, 0x2000),
        (Change.TARGET, 0x20_0000, 0x3000),
        (Change.ATTRIBUTES, 0x40_0000, 0x1000),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_comparing_is_comparing_page_by_page(seed):
    dice = random.Random(seed)
    a, b = new_table("EPT"), new_table("EPT")
    model_a = random_ranges("EPT", dice, a)
    b.copy(a, 0, 1 << 48)
    model_b = dict(model_a)
    for _ in range(8):
        page = dice.choice(sorted(model_a))
        b.map(page << 12, 0x5000, 0x3000, rights.make_attributes("R", 0))
        model_b.update({page + i: (5 + i, rights.make_attributes("R", 0)) for i in range(3)})
    differing = {
        page for page in model_a.keys() | model_b.keys() if model_a.get(page) != model_b.get(page)
    }
    found = set()
    for one in compare(a.mapping().ranges, b.mapping().ranges):
        for page in range(one.size >> 12):
            found.add((one.start >> 12) + page)
            address = (one.start >> 12) + page
            for target, model in ((one.target_a, model_a), (one.target_b, model_b)):
                if target is None:
                    assert address not in model
                else:
                    assert model[address][0] == (target >> 12) + page
    assert found == differing
