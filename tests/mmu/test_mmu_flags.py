"""Accessed and dirty flags of paging and of EPT, and the page-modification log.

SDM 3A, "Accessed and Dirty Flags"; SDM 3C, "Accessed and Dirty Flags for EPT" and
"Page-Modification Logging".
"""

import pytest
from mmu_support import GUEST, MIB, RWX, Rig, edit, entry, entry_place, features, leaf

from turducken.mmu.faults import EptViolation, PageFault, PmlFull
from turducken.mmu.mmu import PageModificationLog
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.paging.formats import FORMATS, PAGING_PAE
from turducken.paging.rights import make_attributes
from turducken.paging.table import PageTable

GVA, GPA = 0x4000_0000, 0x4000_0000 >> 8
A, D = 0x20, 0x40
EPT_A, EPT_D = 1 << 8, 1 << 9
SHAPES = [
    (name, level.shift)
    for name, fmt in FORMATS.items()
    if not fmt.is_ept
    for level in fmt.levels
    if level.leaf
]


def flags(table: PageTable, address: int) -> list[int]:
    """Return the accessed and dirty flags of the entries on the way, top down."""
    fmt = table.fmt
    return [step.entry & (fmt.accessed | fmt.dirty) for step in table.walk(address).steps]


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
@pytest.mark.parametrize(("name", "shift"), SHAPES)
def test_an_access_sets_accessed_flags_and_a_write_the_dirty_flag(
    name: str, shift: int, kind: int
) -> None:
    rig = Rig()
    table = rig.table(FORMATS[name].bind(features()))
    table.map(GVA, GVA, 1 << shift, RWX, max_shift=shift)
    rig.configure(table)
    rig.access(GVA, kind)
    found = flags(table, GVA)
    if name == PAGING_PAE.name:
        assert found.pop(0) == 0  # a PDPTE has no flags
    last = A | D if kind == WRITE else A
    assert found == [A] * (len(found) - 1) + [last]


def test_a_write_through_a_mapping_cached_clean_sets_the_dirty_flag() -> None:
    rig = Rig()
    table = rig.table()
    table.map(GVA, GVA, 0x1000, RWX)
    rig.configure(table)
    rig.access(GVA, READ)
    assert leaf(table, GVA) & (A | D) == A
    rig.access(GVA, WRITE)
    assert leaf(table, GVA) & (A | D) == A | D


def test_flags_cleared_in_memory_are_not_set_again_until_the_mapping_goes() -> None:
    rig = Rig()
    table = rig.table()
    table.map(GVA, GVA, 0x1000, RWX)
    rig.configure(table)
    rig.access(GVA, WRITE)
    for level in range(4):
        edit(table, GVA, level, clear=A | D)
    rig.access(GVA, WRITE)
    assert flags(table, GVA) == [0, 0, 0, 0]
    rig.tlb.invlpg(0, 0, GVA)
    rig.access(GVA, READ)
    assert flags(table, GVA) == [A, A, A, A]


def test_entries_in_the_structure_caches_keep_their_flags_to_themselves() -> None:
    rig = Rig()
    table = rig.table()
    table.map(GVA, GVA, 0x2000, RWX)
    rig.configure(table)
    rig.access(GVA)
    for level in range(3):
        edit(table, GVA, level, clear=A)
    rig.access(GVA + 0x1000)
    assert flags(table, GVA + 0x1000) == [0, 0, 0, A]


@pytest.mark.parametrize("level", range(4))
def test_a_walk_that_ends_in_a_page_fault_sets_no_flags(level: int) -> None:
    """The manual leaves open whether entries above the one that faults "are used"."""
    rig = Rig()
    table = rig.table()
    table.map(GVA, GVA, 0x1000, RWX)
    rig.configure(table)
    edit(table, GVA, level, set_=1 << 47)
    assert isinstance(rig.access(GVA), PageFault)
    edit(table, GVA, level, clear=1 << 47)
    assert flags(table, GVA) == [0, 0, 0, 0]
    edit(table, GVA, level, clear=2)
    assert isinstance(rig.access(GVA, WRITE), PageFault)
    assert flags(table, GVA) == [0, 0, 0, 0]


# EPT


def guest_under_ept(*, accessed_dirty: bool = True) -> tuple[Rig, PageTable, PageTable]:
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(GVA, GPA, 0x2000, RWX)
    rig.configure(guest, ept, accessed_dirty=accessed_dirty)
    return rig, guest, ept


def tables_of(guest: PageTable) -> list[int]:
    return [step.address & ~0xFFF for step in guest.walk(GVA).steps]


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
def test_flags_of_ept(kind: int) -> None:
    rig, guest, ept = guest_under_ept()
    rig.access(GVA, kind)
    final = EPT_A | EPT_D if kind == WRITE else EPT_A
    assert flags(ept, GPA) == [EPT_A, EPT_A, EPT_A, final]
    for table in tables_of(guest):
        # "accesses to guest paging-structure entries are treated as writes"
        assert flags(ept, table)[3] == EPT_A | EPT_D
    assert flags(ept, 0x2000) == [EPT_A, EPT_A, EPT_A, 0]  # only what was used


@pytest.mark.parametrize("shift", [21, 30])
def test_flags_of_large_ept_leaves(shift: int) -> None:
    rig = Rig()
    ept = rig.table(rig.ept().fmt)
    ept.map(0, 0, 1 << shift, RWX)
    rig.configure(None, ept, accessed_dirty=True)
    rig.access(0x5000, READ)
    assert flags(ept, 0)[-1] == EPT_A
    rig.access(0x5000, WRITE)
    assert flags(ept, 0)[-1] == EPT_A | EPT_D
    assert len(flags(ept, 0)) == {21: 3, 30: 2}[shift]


def test_without_the_eptp_bit_no_flags_of_ept_change() -> None:
    rig, guest, ept = guest_under_ept(accessed_dirty=False)
    rig.access(GVA, WRITE)
    for gpa in (GPA, *tables_of(guest)):
        assert flags(ept, gpa) == [0, 0, 0, 0]
    assert flags(guest, GVA) == [A, A, A, A | D]


def test_the_dirty_flag_of_ept_through_a_mapping_cached_clean() -> None:
    rig, guest, ept = guest_under_ept()
    edit(guest, GVA, 3, set_=D)
    rig.access(GVA, READ)
    assert leaf(ept, GPA) & EPT_D == 0
    rig.access(GVA, WRITE)
    assert leaf(ept, GPA) & EPT_D


def test_flags_of_ept_cleared_in_memory_need_invept() -> None:
    rig, _, ept = guest_under_ept()
    rig.access(GVA, WRITE)
    edit(ept, GPA, 3, clear=EPT_A | EPT_D)
    rig.tlb.invlpg(0, 0, GVA)
    rig.access(GVA, WRITE)
    assert leaf(ept, GPA) & (EPT_A | EPT_D) == 0
    rig.tlb.invept_single(ept.root)
    rig.access(GVA, WRITE)
    assert leaf(ept, GPA) & (EPT_A | EPT_D) == EPT_A | EPT_D


def test_a_mapping_made_without_flags_serves_with_them() -> None:
    """INVEPT is needed "before entering with A/D on a root used before with A/D off"."""
    rig, guest, ept = guest_under_ept(accessed_dirty=False)
    rig.access(GVA, WRITE)
    rig.configure(guest, ept, accessed_dirty=True)
    rig.access(GVA, WRITE)
    assert leaf(ept, GPA) & (EPT_A | EPT_D) == 0
    rig.tlb.invept_all()
    rig.access(GVA, WRITE)
    assert leaf(ept, GPA) & (EPT_A | EPT_D) == EPT_A | EPT_D


def test_flags_are_set_before_the_final_access_is_refused() -> None:
    """The linear address has been translated: the access fails behind the guest's tables."""
    rig, guest, ept = guest_under_ept()
    ept.unmap(GPA, 0x1000)
    assert isinstance(rig.access(GVA, WRITE), EptViolation)
    assert flags(guest, GVA) == [A, A, A, A | D]


def test_flags_above_a_guest_table_that_is_refused() -> None:
    rig, guest, ept = guest_under_ept()
    last = entry_place(guest, GVA, 3) & ~0xFFF
    ept.unmap(last, 0x1000)
    assert isinstance(rig.access(GVA, WRITE), EptViolation)
    place = entry_place(guest, GVA, 2)
    assert leaf(ept, place) & (EPT_A | EPT_D) == EPT_A | EPT_D
    assert entry(guest, GVA, 2) & A == 0


# The page-modification log

LOG = 12 * MIB


def with_log(index: int) -> tuple[Rig, PageTable, PageTable, PageModificationLog]:
    rig, guest, ept = guest_under_ept()
    rig.mmu.pml = log = PageModificationLog(LOG, index)
    return rig, guest, ept, log


def logged(rig: Rig) -> list[int]:
    """Return the log's entries in the order in which they were made."""
    return [word for n in range(511, -1, -1) if (word := rig.memory.load(LOG + 8 * n, 8))]


def test_every_dirty_flag_that_is_set_is_logged() -> None:
    rig, guest, _, log = with_log(511)
    rig.access(GVA + 0x123, WRITE)
    assert logged(rig) == [*tables_of(guest), GPA]
    assert log.index == 511 - 5
    rig.access(GVA + 0x456, WRITE)
    rig.access(GVA + 0x1000, READ)
    assert log.index == 511 - 5
    rig.access(GVA + 0x1000, WRITE)
    assert logged(rig)[5:] == [GPA + 0x1000]


def test_a_large_page_is_logged_by_the_address_that_was_written() -> None:
    rig = Rig()
    ept = rig.table(rig.ept().fmt)
    ept.map(0, GUEST, 2 * MIB, RWX)
    rig.configure(None, ept, accessed_dirty=True)
    rig.mmu.pml = PageModificationLog(LOG, 511)
    rig.access(0x5432, WRITE)
    assert logged(rig) == [0x5000]


def test_the_index_wraps_to_ffff_and_then_the_log_is_full() -> None:
    rig, _guest, ept, log = with_log(4)
    rig.access(GVA, WRITE)
    assert log.index == 0xFFFF
    assert rig.access(GVA + 0x1008, WRITE) == PmlFull(GPA + 0x1008)
    assert leaf(ept, GPA + 0x1000) & (EPT_A | EPT_D) == 0
    log.index = 511
    assert rig.where(GVA + 0x1008, WRITE) == GPA + 0x1008 + GUEST
    assert leaf(ept, GPA + 0x1000) & (EPT_A | EPT_D) == EPT_A | EPT_D


@pytest.mark.parametrize("index", [512, 0xFFFF])
def test_a_full_log_stops_accessed_flags_too(index: int) -> None:
    """ "... it first needs to set an accessed or dirty flag for EPT": the index is examined."""
    rig, _guest, ept, log = with_log(511)
    rig.access(GVA, READ)
    log.index = index
    assert rig.where(GVA, READ) == GPA + GUEST  # nothing to set
    assert rig.access(GVA + 0x1000, READ) == PmlFull(GPA + 0x1000)
    assert leaf(ept, GPA + 0x1000) & EPT_A == 0


def test_no_log_without_a_dirty_flag_to_set() -> None:
    rig, guest, ept, log = with_log(511)
    for table in (GPA, *tables_of(guest)):
        edit(ept, table, 3, set_=EPT_A | EPT_D)
    rig.access(GVA, WRITE)
    assert (logged(rig), log.index) == ([], 511)


def test_a_read_only_guest_table_is_not_logged() -> None:
    rig, guest, ept, log = with_log(511)
    ept.change(guest.root, 0x1000, make_attributes("R"), make_attributes("RWX"))
    assert isinstance(rig.access(GVA), EptViolation)
    assert (logged(rig), log.index) == ([], 511)
