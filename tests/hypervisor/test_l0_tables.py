"""L0's private frames, the tables it writes, and EPT01."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turducken.address import GIB, MIB, PAGE_SIZE, Gpa1, Hpa
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor.ept01 import RWX, Ept01, R, X
from turducken.hypervisor.ept_table import EptTable, leaf_for, page_of
from turducken.hypervisor.frames import FrameAllocator, FrameShare, OutOfFramesError
from turducken.hypervisor.guest_memory import GuestMemory
from turducken.hypervisor.mtrr import TypeMap
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.formats import EPT, Features
from turducken.paging.walker import Stop, walk

RAM = 64 * MIB
PRIVATE = range(48 * MIB, 64 * MIB)
PC_TYPES = TypeMap(
    [0, 0xA0000, MIB, RAM], [MemoryType.WB, MemoryType.UC, MemoryType.WB, MemoryType.UC]
)
FORMAT = EPT.bind(Features())


def make_memory() -> tuple[PhysicalMemory, FrameAllocator]:
    memory = PhysicalMemory(RAM)
    return memory, FrameAllocator(memory, PRIVATE)


def make_ept01(types: TypeMap = PC_TYPES, **sizes: bool) -> tuple[PhysicalMemory, Ept01]:
    memory, frames = make_memory()
    return memory, Ept01(memory, frames, types, physical_bits=46, **sizes)


# Frames


def test_frames_are_zeroed_whole_and_inside_the_region() -> None:
    memory, frames = make_memory()
    first = frames.allocate()
    memory.write(first, b"\xff" * PAGE_SIZE)
    frames.free(first)
    again = frames.allocate()
    assert again == first
    assert memory.read(again, PAGE_SIZE) == bytes(PAGE_SIZE)
    run = frames.allocate_run(3)
    assert run in PRIVATE
    assert run + 3 * PAGE_SIZE <= PRIVATE.stop
    assert frames.in_use == 4


def test_frames_run_out_with_an_error() -> None:
    memory = PhysicalMemory(RAM)
    frames = FrameAllocator(memory, range(2 * PAGE_SIZE))
    frames.allocate()
    frames.allocate()
    with pytest.raises(OutOfFramesError):
        frames.allocate()
    with pytest.raises(OutOfFramesError):
        frames.allocate_run(1)


def test_a_share_has_its_own_limit() -> None:
    _, frames = make_memory()
    share = FrameShare(frames, 1)
    frame = share.allocate()
    with pytest.raises(OutOfFramesError):
        share.allocate()
    share.free(frame)
    assert share.allocate() == frame


@pytest.mark.parametrize("region", [range(0), range(1, PAGE_SIZE), range(RAM, RAM + PAGE_SIZE)])
def test_a_private_region_is_whole_frames_of_ram(region: range) -> None:
    with pytest.raises(ValueError, match="private region"):
        FrameAllocator(PhysicalMemory(RAM), region)


# Tables


def test_a_large_leaf_is_split_into_equal_parts() -> None:
    memory, frames = make_memory()
    table = EptTable(memory, frames)
    table.set(GIB, 30, leaf_for(5 * GIB | RWX | MemoryType.WB << 3, 30))
    table.set(GIB + 0x3000, 12, 0x7000 | R)
    for gpa, page, rights_ in (
        (GIB, 5 * GIB, RWX),
        (GIB + 0x2FFF, 5 * GIB + 0x2000, RWX),
        (GIB + 0x3FFF, 0x7000, R),
        (GIB + 0x4000, 5 * GIB + 0x4000, RWX),
        (2 * GIB - 1, 6 * GIB - PAGE_SIZE, RWX),
    ):
        found = walk(FORMAT, memory, table.root, gpa)
        assert found.stop is Stop.PAGE
        assert found.output(gpa) & -PAGE_SIZE == page
        assert found.all_of & RWX == rights_


def test_a_leaf_replaces_a_table_and_gives_its_frames_back() -> None:
    memory, frames = make_memory()
    table = EptTable(memory, frames)
    for number in range(512):
        table.set(number * PAGE_SIZE, 12, number * PAGE_SIZE | RWX)
    table.set(2 * MIB, 12, 0x1000 | RWX)
    used = frames.in_use
    table.set(0, 30, leaf_for(RWX, 30))
    assert frames.in_use == used - 3  # one page directory, two page tables
    assert walk(FORMAT, memory, table.root, 0x5678).page == 0


def test_clear_leaves_the_root_and_destroy_nothing() -> None:
    memory, frames = make_memory()
    table = EptTable(memory, frames)
    for gpa in (0, GIB, 600 * GIB, 1 << 47):
        table.set(gpa, 12, RWX)
    table.clear()
    assert frames.in_use == table.frames == 1
    assert memory.read(table.root, PAGE_SIZE) == bytes(PAGE_SIZE)
    table.destroy()
    assert frames.in_use == 0


ADDRESSES = st.integers(0, 15).map(lambda n: (n & 3) * 0x1000 | (n >> 2) * 0x20_0000)


@given(st.lists(st.tuples(ADDRESSES, st.sampled_from((12, 21, 30)), st.sampled_from((0, R, RWX)))))
@settings(max_examples=100, deadline=None)
def test_a_table_is_what_the_writes_say(writes: list[tuple[int, int, int]]) -> None:
    memory, frames = make_memory()
    table = EptTable(memory, frames)
    model: dict[int, tuple[int, int]] = {}
    for number, (address, shift, right) in enumerate(writes):
        base = address & -(1 << shift)
        target = (number + 1) << 30
        table.set(base, shift, leaf_for(target | right, shift) if right else 0)
        for page in {one & -PAGE_SIZE for one in PROBES if one & -(1 << shift) == base}:
            model[page] = (target + page - base, right)
    for probe in PROBES:
        page, right = model.get(probe & -PAGE_SIZE, (0, 0))
        found = walk(FORMAT, memory, table.root, probe)
        assert (found.stop is Stop.PAGE) == bool(right)
        if right:
            assert (found.output(probe), found.all_of & RWX) == (page + probe % PAGE_SIZE, right)
        entry = table.get(probe)
        assert entry.value == memory.load(entry.address, 8)


PROBES = [
    (n & 3) * 0x1000 | (n >> 2) * 0x20_0000 | offset for n in range(16) for offset in (0, 0x123)
] + [GIB - 1]


# EPT01


def test_ept01_is_the_identity_but_for_the_private_region() -> None:
    memory, ept01 = make_ept01()
    for gpa in range(0, RAM, PAGE_SIZE):
        found = walk(FORMAT, memory, ept01.eptp, gpa)
        if gpa in PRIVATE:
            assert found.stop is Stop.NOT_PRESENT
            assert ept01.find(Gpa1(gpa)) is None
        else:
            assert found.stop is Stop.PAGE
            assert found.page | gpa & (1 << found.shift) - 1 == gpa
            assert found.all_of & RWX == RWX


def test_no_entry_of_ept01_reaches_the_private_region() -> None:
    _, ept01 = make_ept01()
    ept01.find(Gpa1(1 << 40))
    for _, entry in ept01.table.leaves():
        page = page_of(entry.value, entry.shift)
        assert page >= PRIVATE.stop or page + (1 << entry.shift) <= PRIVATE.start


def test_ept01_uses_the_largest_pages_of_one_type() -> None:
    memory, ept01 = make_ept01()
    shifts = {gpa: walk(FORMAT, memory, ept01.eptp, gpa).shift for gpa in (0, 2 * MIB, 3 * GIB)}
    assert shifts == {0: 12, 2 * MIB: 21, 3 * GIB: 30}
    _, small = make_ept01(pages_1gib=False)
    assert small.table.get(3 * GIB).shift == 21


@pytest.mark.parametrize("gpa", [0, 0x9F000, 0xA0000, 0xFF000, MIB, 47 * MIB, RAM, 3 * GIB])
def test_ept01_has_the_types_of_the_mtrrs(gpa: int) -> None:
    memory, ept01 = make_ept01()
    word = rights.attributes_of(FORMAT, walk(FORMAT, memory, ept01.eptp, gpa))
    assert rights.MEMORY_TYPE.get(word) == PC_TYPES.type_of(gpa)


def test_ept01_follows_new_types() -> None:
    memory, ept01 = make_ept01()
    types = TypeMap([0, 5 * MIB, 5 * MIB + 0x3000], [6, 1, 6])
    ept01.map(Gpa1(0x9000), Hpa(0x9000), RWX, MemoryType.WP)
    assert ept01.follow_types(types)
    assert not ept01.follow_types(types)
    for gpa in (0, 0xA0000, 5 * MIB - 1, 5 * MIB, 5 * MIB + 0x2FFF, 5 * MIB + 0x3000, 3 * GIB):
        word = rights.attributes_of(FORMAT, walk(FORMAT, memory, ept01.eptp, gpa))
        assert rights.MEMORY_TYPE.get(word) == types.type_of(gpa)
    word = rights.attributes_of(FORMAT, walk(FORMAT, memory, ept01.eptp, 0x9000))
    assert rights.MEMORY_TYPE.get(word) == MemoryType.WP


def test_ept01_changes_page_by_page() -> None:
    memory, ept01 = make_ept01()
    changes = []
    ept01.changed = lambda: changes.append(1)
    ept01.unmap(Gpa1(8 * MIB))
    ept01.protect(Gpa1(8 * MIB + 0x1000), R | X)
    ept01.map(Gpa1(8 * MIB + 0x2000), Hpa(0x5000), RWX, None)
    assert len(changes) == 3
    assert ept01.find(Gpa1(8 * MIB)) is None
    assert walk(FORMAT, memory, ept01.eptp, 8 * MIB + 0x1000).all_of & RWX == R | X
    assert walk(FORMAT, memory, ept01.eptp, 8 * MIB + 0x2000).page == 0x5000
    assert walk(FORMAT, memory, ept01.eptp, 8 * MIB + 0x3000).page == 8 * MIB + 0x3000
    ept01.restore(Gpa1(8 * MIB))
    assert walk(FORMAT, memory, ept01.eptp, 8 * MIB).page == 8 * MIB


def test_an_unmapped_page_does_not_come_back_by_itself() -> None:
    _, ept01 = make_ept01()
    ept01.unmap(Gpa1(1 << 40))
    assert ept01.find(Gpa1(1 << 40)) is None
    assert ept01.find(Gpa1((1 << 40) + 0x1000)) is not None
    assert ept01.find(Gpa1(1 << 40)) is None


def test_l0s_memory_is_never_given_back() -> None:
    _, ept01 = make_ept01()
    with pytest.raises(ValueError, match="L0's own"):
        ept01.restore(Gpa1(PRIVATE.start))


# L1's memory as L0 uses it


def test_guest_memory_reaches_what_ept01_gives() -> None:
    memory, ept01 = make_ept01()
    guest = GuestMemory(memory, ept01)
    guest.write(0x1FFE, b"abcd")
    assert memory.read(0x1FFE, 4) == guest.read(0x1FFE, 4) == b"abcd"
    guest.store(0x3000, 8, 0x1122)
    assert guest.load(0x3000, 8) == memory.load(0x3000, 8) == 0x1122


def test_guest_memory_has_an_empty_bus_where_l1_has_nothing() -> None:
    memory, ept01 = make_ept01()
    guest = GuestMemory(memory, ept01)
    before = memory.read(PRIVATE.start, PAGE_SIZE)
    guest.store(PRIVATE.start, 8, 0)
    guest.write(PRIVATE.start - 2, b"1234")
    assert memory.read(PRIVATE.start, PAGE_SIZE) == before
    assert guest.load(PRIVATE.start, 8) == (1 << 64) - 1
    assert guest.read(PRIVATE.start - 2, 4) == b"12\xff\xff"


def test_guest_memory_follows_ept01() -> None:
    memory, ept01 = make_ept01()
    guest = GuestMemory(memory, ept01)
    guest.store(0x3000, 8, 1)
    ept01.protect(Gpa1(0x3000), R)
    guest.store(0x3000, 8, 2)
    assert guest.load(0x3000, 8) == 1
    ept01.unmap(Gpa1(0x3000))
    assert guest.load(0x3000, 8) == (1 << 64) - 1
    ept01.map(Gpa1(0x3000), Hpa(0x9000), RWX, None)
    guest.store(0x3000, 8, 3)
    assert memory.load(0x9000, 8) == 3
