import pytest

from turducken.address import MIB
from turducken.memory import PhysicalMemory
from turducken.vmx.msr_lists import MsrEntry, read_msr_area


def test_entries():
    memory = PhysicalMemory(MIB)
    for number, (head, data) in enumerate([(0xC000_0080, 0xD01), (1 << 32 | 0x10, 5)]):
        memory.store(0x1000 + 16 * number, 8, head)
        memory.store(0x1008 + 16 * number, 8, data)
    assert list(read_msr_area(memory, 0x1000, 2)) == [
        MsrEntry(0xC000_0080, 0, 0xD01, 0x1008),
        MsrEntry(0x10, 1, 5, 0x1018),
    ]
    assert list(read_msr_area(memory, 0x1000, 0)) == []


def test_an_area_outside_memory_is_all_ones():
    entry = next(read_msr_area(PhysicalMemory(MIB), 1 << 40, 1))
    assert entry.index == 0xFFFF_FFFF
    assert not entry.is_loadable
    assert not entry.is_storable


@pytest.mark.parametrize(
    ("index", "reserved", "loadable", "storable"),
    [
        (0xC000_0080, 0, True, True),
        (0x10, 0, True, True),
        (0x10, 1, False, False),
        (0xC000_0100, 0, False, True),
        (0xC000_0101, 0, False, True),
        (0xC000_0102, 0, True, True),
        (0x7FF, 0, True, True),
        (0x800, 0, False, False),
        (0x8FF, 0, False, False),
        (0x900, 0, True, True),
        (0x9B, 0, False, True),
        (0x79, 0, False, True),
    ],
)
def test_which_msrs_a_list_may_name(index, reserved, loadable, storable):
    entry = MsrEntry(index, reserved, 0, 0)
    assert (entry.is_loadable, entry.is_storable) == (loadable, storable)
