import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turducken.address import GIB, MIB
from turducken.arch.memory_types import MemoryType
from turducken.devices.mtrr import Mtrrs

UC, WC, WT, WP, WB = MemoryType.UC, MemoryType.WC, MemoryType.WT, MemoryType.WP, MemoryType.WB
CAP, DEF, FIX64, FIX16, FIX4 = 0xFE, 0x2FF, 0x250, 0x258, 0x268
FULL = (1 << 46) - 1


def variable(mtrrs, number, base, size, kind):
    assert mtrrs.write_msr(0x200 + 2 * number, base | kind)
    assert mtrrs.write_msr(0x201 + 2 * number, FULL & ~(size - 1) | 0x800)


@pytest.fixture
def mtrrs():
    registers = Mtrrs()
    assert registers.write_msr(DEF, 0xC00 | WB)
    return registers


def test_capabilities_are_read_only(mtrrs):
    assert mtrrs.read_msr(CAP) == 0x508
    assert not mtrrs.write_msr(CAP, 0x508)


def test_everything_is_uncacheable_until_enabled():
    registers = Mtrrs()
    assert registers.write_msr(DEF, WB)
    assert registers.type_of(0) is UC
    assert list(registers.ranges()) == [(0, 1 << 46, UC)]


@pytest.mark.parametrize(
    ("index", "value"),
    [(DEF, 2), (DEF, 0x100 | WB), (DEF, 1 << 12), (0x200, 3), (0x200, 0x800 | WB), (0x200, 1 << 46),
     (0x201, 0x400), (0x201, 1 << 46), (0x210, 0), (FIX64, 2), (FIX4, 7 << 56), (0x251, 0)],
)  # fmt: skip
def test_reserved_bits_and_types_are_refused(mtrrs, index, value):
    assert not mtrrs.write_msr(index, value)


@pytest.mark.parametrize(
    ("index", "byte", "first", "last"),
    [(FIX64, 0, 0, 0xFFFF), (FIX64, 7, 0x70000, 0x7FFFF), (FIX16, 2, 0x88000, 0x8BFFF),
     (FIX16 + 1, 0, 0xA0000, 0xA3FFF), (FIX4, 1, 0xC1000, 0xC1FFF),
     (FIX4 + 7, 7, 0xFF000, 0xFFFFF)],
)  # fmt: skip
def test_fixed_ranges(mtrrs, index, byte, first, last):
    assert mtrrs.write_msr(index, WP << 8 * byte)
    assert {mtrrs.type_of(first), mtrrs.type_of(last)} == {WP}
    neighbours = [address for address in (first - 1, last + 1) if 0 <= address < MIB]
    assert all(mtrrs.type_of(address) is UC for address in neighbours)
    assert mtrrs.type_of(MIB) is WB


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(UC, WB, UC), (WT, WB, WT), (WB, WB, WB), (WC, WB, UC), (UC, WC, UC), (WP, WP, WP)],
)
def test_overlapping_variable_ranges(mtrrs, first, second, result):
    variable(mtrrs, 0, GIB, GIB, first)
    variable(mtrrs, 1, GIB, MIB, second)
    assert mtrrs.type_of(GIB) is result
    assert mtrrs.type_of(GIB + MIB) is first


def test_ranges_as_a_bios_sets_them(mtrrs):
    for index in (FIX64, FIX16):
        assert mtrrs.write_msr(index, int.from_bytes([WB] * 8))
    variable(mtrrs, 0, 3 * GIB, GIB, UC)
    assert list(mtrrs.ranges()) == [
        (0, 0xA0000, WB),
        (0xA0000, MIB, UC),
        (MIB, 3 * GIB, WB),
        (3 * GIB, 4 * GIB, UC),
        (4 * GIB, 1 << 46, WB),
    ]


def test_changes_are_announced():
    log = []
    registers = Mtrrs(on_change=lambda: log.append(1))
    registers.write_msr(DEF, 0xC06)
    registers.write_msr(DEF, 0xC02)
    assert len(log) == 1


@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from([DEF, FIX64, FIX16, FIX4, *range(0x200, 0x210)]),
            st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 13)),
        ),
        max_size=12,
    ),
    address=st.integers(0, FULL),
)
def test_whatever_is_written_the_ranges_cover_all_and_agree(writes, address):
    registers = Mtrrs()
    for index, value in writes:
        registers.write_msr(index, value)
    runs = list(registers.ranges())
    assert (runs[0][0], runs[-1][1]) == (0, 1 << 46)
    assert all(one[1] == two[0] and one[2] is not two[2] for one, two in itertools.pairwise(runs))
    for start, _end, kind in runs[:20]:
        assert registers.type_of(start) is kind
    assert registers.type_of(address) in set(MemoryType)
