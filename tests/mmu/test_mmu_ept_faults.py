"""EPT violations and misconfigurations: which of them, in what order, with what information.

SDM 3C, "EPT-Induced VM Exits"; "Exit Qualification for EPT Violations".
"""

import pytest
from mmu_support import EPT_FORMAT, GUEST, LONG, RWX, Rig, edit, entry_place, features

from turducken.mmu.faults import ApicAccess, EptMisconfiguration, EptViolation, PageFault
from turducken.mmu.mmu import AccessMode, EptSetup
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.mmu.tlb import LinearTag, Mapping
from turducken.paging.formats import EPT, EPT_5LEVEL, PAGING_4LEVEL, PAGING_PAE, Features
from turducken.paging.rights import XU, X, make_attributes
from turducken.paging.table import PageTable

GVA, GPA = 0x7000_5000, 0x9000
R_, W_, X_ = 1, 2, 4
LINEAR, FINAL = 1 << 7, 1 << 8
RIGHTS = {0: "", 1: "R", 2: "W", 3: "RW", 4: "X", 5: "RX", 6: "WX", 7: "RWX"}


def guest_under_ept(**configuration: object) -> tuple[Rig, PageTable, PageTable]:
    """Map `GVA` to `GPA` in a guest under an EPT of small pages."""
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(GVA, GPA, 0x2000, RWX)
    rig.configure(guest, ept, **configuration)  # type: ignore[arg-type]
    return rig, guest, ept


def set_rights(ept: PageTable, gpa: int, bits: int, level: int = 3) -> None:
    edit(ept, gpa, level, clear=7, set_=bits)


# Priority


MISCONFIGURED = {
    "write without read": (7, W_),
    "write and execute without read": (7, W_ | X_),
    "an address above MAXPHYADDR": (0, 1 << 46),
    "the highest address bit": (0, 1 << 51),
}
OF_LEAVES = {
    "memory type 2": (7 << 3, 2 << 3),
    "memory type 3": (7 << 3, 3 << 3),
    "memory type 7": (7 << 3, 7 << 3),
}


@pytest.mark.parametrize("what", [*MISCONFIGURED, *OF_LEAVES])
@pytest.mark.parametrize("level", range(4))
def test_each_misconfiguration_beats_a_denial_above_it(level: int, what: str) -> None:
    rig, _, ept = guest_under_ept()
    place = entry_place(ept, GPA, level)
    for above in range(level):
        set_rights(ept, GPA, R_, above)
    # The guest's tables are under the same upper entries.
    clear, set_ = MISCONFIGURED.get(what) or OF_LEAVES[what]
    ept.memory.store(place, 8, ept.memory.load(place, 8) & ~clear | set_)
    found = rig.mmu.guest_physical(GPA, WRITE, GVA, is_final=True)
    if what in OF_LEAVES and level < 3:
        # In an entry that references a table, bits 5:3 are reserved.
        assert ept.memory.load(place, 8) >> 3 & 7
    assert found == EptMisconfiguration(GPA, GVA, is_final=True)


@pytest.mark.parametrize("level", [1, 2])
def test_a_large_page_that_is_not_aligned_is_misconfigured(level: int) -> None:
    rig = Rig()
    ept = rig.table(EPT_FORMAT)
    shift = EPT_FORMAT.levels[level].shift
    ept.map(1 << shift, 1 << shift, 1 << shift, RWX)
    rig.configure(None, ept)
    for bit in range(12, shift):
        edit(ept, 1 << shift, level, set_=1 << bit)
        found = rig.access(1 << shift)
        assert isinstance(found, EptMisconfiguration), bit
        edit(ept, 1 << shift, level, clear=1 << bit)
    assert rig.where(1 << shift) == 1 << shift


@pytest.mark.parametrize("level", range(3))
def test_what_is_not_present_hides_what_is_below(level: int) -> None:
    rig, _, ept = guest_under_ept()
    edit(ept, GPA, 3, set_=1 << 47)
    edit(ept, GPA, level, clear=7)
    found = rig.mmu.guest_physical(GPA, READ, GVA, is_final=True)
    assert found == EptViolation(GPA, GVA, LINEAR | FINAL | 1)


def test_an_entry_that_is_not_present_may_hold_anything_else() -> None:
    rig, _, ept = guest_under_ept()
    edit(ept, GPA, 3, clear=7, set_=~7 & (1 << 64) - 1)
    assert isinstance(rig.mmu.guest_physical(GPA, READ, GVA, is_final=True), EptViolation)


@pytest.mark.parametrize("offered", [True, False])
def test_execute_only_is_misconfigured_where_it_is_not_offered(offered: bool) -> None:
    rig = Rig()
    ept = rig.table(EPT.bind(features(execute_only=offered)))
    ept.map(0, 0, 0x1000, RWX)
    edit(ept, 0, 3, clear=7, set_=X_)
    rig.configure(None, ept)
    if offered:
        assert rig.where(0, FETCH) == 0
        assert rig.access(0, READ) == EptViolation(0, 0, LINEAR | FINAL | 1 | X_ << 3)
    else:
        assert isinstance(rig.access(0, FETCH), EptMisconfiguration)


def test_a_guest_physical_address_of_more_than_48_bits_is_a_violation() -> None:
    rig = Rig()
    guest = rig.guest_table(PAGING_4LEVEL.bind(features(maxphyaddr=52)))
    guest.map(GVA, 1 << 48, 0x1000, RWX)
    rig.configure(guest, rig.ept())
    assert rig.access(GVA + 8) == EptViolation(1 << 48 | 8, GVA + 8, LINEAR | FINAL | 1)


def test_a_page_fault_comes_before_the_violation_of_the_final_access() -> None:
    rig, guest, ept = guest_under_ept()
    ept.unmap(GPA, 0x1000)
    edit(guest, GVA, 3, clear=2)
    assert isinstance(rig.access(GVA, WRITE), PageFault)
    assert isinstance(rig.access(GVA, READ), EptViolation)


def test_a_violation_of_a_guest_table_comes_before_what_the_table_holds() -> None:
    rig, guest, ept = guest_under_ept()
    place = entry_place(guest, GVA, 3)
    edit(guest, GVA, 3, clear=1)
    ept.unmap(place & ~0xFFF, 0x1000)
    assert rig.access(GVA, WRITE) == EptViolation(place, GVA, LINEAR | 1)


# Qualification


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
@pytest.mark.parametrize("rights", [0, 1, 3, 4, 5, 7])
@pytest.mark.parametrize("is_cached", [False, True])
def test_the_final_access(rights: int, kind: int, is_cached: bool) -> None:
    rig, _, ept = guest_under_ept()
    set_rights(ept, GPA, rights)
    if is_cached and rights:
        first = {1: READ, 3: READ, 4: FETCH, 5: READ, 7: READ}[rights]
        assert rig.where(GVA, first) == GPA + GUEST
    found = rig.access(GVA + 0x18, kind)
    if rights >> kind & 1:
        assert found == rig.access(GVA + 0x18, kind)
        assert not isinstance(found, EptViolation)
        return
    assert found == EptViolation(GPA + 0x18, GVA + 0x18, LINEAR | FINAL | rights << 3 | 1 << kind)


@pytest.mark.parametrize("levels", [(0,), (1,), (2,), (0, 3), (1, 2)])
@pytest.mark.parametrize("is_cached", [False, True])
def test_permissions_of_all_levels_count(levels: tuple[int, ...], is_cached: bool) -> None:
    rig, _, ept = guest_under_ept()
    for level in levels:
        set_rights(ept, GPA, R_ | (X_ if level % 2 else W_), level)
    together = {0: R_ | W_, 1: R_ | X_}
    rights = 7
    for level in levels:
        rights &= together[level % 2]
    if is_cached:
        assert not isinstance(rig.mmu.guest_physical(GPA, READ, GVA, is_final=True), EptViolation)
    kind = FETCH if not rights & X_ else WRITE
    found = rig.mmu.guest_physical(GPA, kind, GVA, is_final=True)
    assert found == EptViolation(GPA, GVA, LINEAR | FINAL | rights << 3 | 1 << kind)


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_a_guest_table_that_is_not_there(accessed_dirty: bool, level: int, kind: int) -> None:
    rig, guest, ept = guest_under_ept(accessed_dirty=accessed_dirty)
    place = entry_place(guest, GVA, level)
    ept.unmap(place & ~0xFFF, 0x1000)
    # "processor accesses to guest paging-structure entries are treated as writes": both bits.
    access = 3 if accessed_dirty else 1
    assert rig.access(GVA, kind) == EptViolation(place, GVA, LINEAR | access)


FLAGS = {"none": 0, "accessed": 0x20, "both": 0x60}


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("rights", ["R", "RX", "RW", "RWX"])
@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_a_guest_table_that_is_read_only(
    accessed_dirty: bool, rights: str, flags: str, kind: int
) -> None:
    """Without A/D flags of EPT, only an update of the guest's flags needs write permission."""
    rig, guest, ept = guest_under_ept(accessed_dirty=accessed_dirty)
    for level in range(3):
        edit(guest, GVA, level, set_=0x20)
    edit(guest, GVA, 3, set_=FLAGS[flags])
    place = entry_place(guest, GVA, 3)
    ept.change(place & ~0xFFF, 0x1000, make_attributes(rights), make_attributes("RWX"))
    needs_update = FLAGS[flags] & 0x20 == 0 or (kind == WRITE and FLAGS[flags] != 0x60)
    found = rig.access(GVA, kind)
    if "W" in rights or not (accessed_dirty or needs_update):
        assert rig.where(GVA, kind) == GPA + GUEST
        return
    allowed = R_ | (X_ if "X" in rights else 0)
    assert found == EptViolation(place, GVA, LINEAR | 3 | allowed << 3)
    assert guest.walk(GVA).leaf & 0x60 == FLAGS[flags]


@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_a_load_of_pdptes_is_a_read_without_a_linear_address(accessed_dirty: bool) -> None:
    rig = Rig()
    guest, ept = rig.guest_table(PAGING_PAE.bind(features())), rig.ept()
    rig.configure(guest, ept, accessed_dirty=accessed_dirty)
    set_rights(ept, guest.root, X_)
    found = rig.mmu.guest_physical(guest.root, READ, None, is_final=False)
    assert found == EptViolation(guest.root, None, 1 | X_ << 3)
    # The violation has dropped what was cached: "is repeated only if still caused by memory".
    set_rights(ept, guest.root, R_)
    assert not isinstance(
        rig.mmu.guest_physical(guest.root, READ, None, is_final=False), EptViolation
    )
    assert ept.walk(guest.root).leaf >> 8 & 3 == (1 if accessed_dirty else 0)


def test_a_misconfiguration_of_a_guest_table_names_the_table() -> None:
    rig, guest, ept = guest_under_ept()
    place = entry_place(guest, GVA, 2)
    edit(ept, place, 3, clear=7, set_=W_)
    assert rig.access(GVA) == EptMisconfiguration(place, GVA, is_final=False)
    assert EptMisconfiguration._fields == ("gpa", "address", "is_final")  # no qualification


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
def test_without_paging_the_linear_address_is_valid_and_final(kind: int) -> None:
    rig = Rig()
    ept = rig.ept()
    ept.unmap(GPA, 0x1000)
    rig.configure(None, ept)
    assert rig.access(GPA + 4, kind) == EptViolation(GPA + 4, GPA + 4, LINEAR | FINAL | 1 << kind)


USER_PAGE, WRITABLE, XD = 1 << 9, 1 << 10, 1 << 11


@pytest.mark.parametrize("is_user", [False, True])
@pytest.mark.parametrize("rights", ["RX", "RWX", "R", "RW"])
def test_advanced_information(rights: str, is_user: bool) -> None:
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(GVA, GPA, 0x1000, make_attributes(rights, user=is_user))
    ept.unmap(GPA, 0x1000)
    expected = USER_PAGE if is_user else 0
    expected |= WRITABLE if "W" in rights else 0
    expected |= 0 if "X" in rights else XD
    rig.configure(guest, ept, advanced=True)
    assert rig.access(GVA) == EptViolation(GPA, GVA, LINEAR | FINAL | 1 | expected)
    rig.configure(guest, ept)
    assert rig.access(GVA) == EptViolation(GPA, GVA, LINEAR | FINAL | 1)
    # "If CR0.PG = 0, ... every linear address is a user-mode linear address", and writable.
    rig.configure(None, ept, advanced=True)
    assert rig.access(GPA) == EptViolation(GPA, GPA, LINEAR | FINAL | 1 | USER_PAGE | WRITABLE)
    ept.unmap(guest.root, 0x1000)
    rig.tlb.invept_all()
    rig.configure(guest, ept, advanced=True)
    assert rig.access(GVA) == EptViolation(guest.root, GVA, LINEAR | 1)


@pytest.mark.parametrize("is_user", [False, True])
@pytest.mark.parametrize("letters", ["X", "U", "XU", ""])
def test_mode_based_execution(letters: str, is_user: bool) -> None:
    rig = Rig()
    fmt = EPT.bind(features(mode_based_execute=True))
    guest, ept = rig.guest_table(), rig.ept(fmt)
    guest.map(GVA, GPA, 0x1000, make_attributes("RX", user=is_user))
    bits = (X if "X" in letters else 0) | (XU if "U" in letters else 0)
    ept.change(GPA, 0x1000, bits, X | XU)
    rig.configure(guest, ept)
    is_allowed = ("U" if is_user else "X") in letters
    for _ in range(2):  # from the tables, and from what the read caches
        found = rig.access(GVA, FETCH, user=is_user)
        if is_allowed:
            assert not isinstance(found, EptViolation)
        else:
            word = LINEAR | FINAL | 4 | (3 | (4 if "X" in letters else 0)) << 3
            assert found == EptViolation(GPA, GVA, word | ("U" in letters) << 6)
        rig.access(GVA, READ, user=is_user)


def test_an_entry_may_be_present_by_user_execution_alone() -> None:
    rig = Rig()
    for mode_based, outcome in ((True, 0x9000), (False, EptViolation(0, 0, LINEAR | FINAL | 4))):
        ept = rig.table(EPT.bind(features(mode_based_execute=mode_based)))
        ept.map(0, 0x9000, 0x1000, RWX)
        edit(ept, 0, 3, clear=7, set_=1 << 10)
        rig.configure(None, ept)
        assert rig.where(0, FETCH) == outcome


# What is not cached


def test_nothing_is_cached_from_entries_that_are_not_present_or_malformed() -> None:
    """After such an entry becomes a good one, neither INVEPT nor INVLPG is needed."""
    for level in range(4):
        for clear, set_ in ((1, 0), (0, 1 << 47), (0, 1 << 51)):
            rig, guest, ept = guest_under_ept()
            place, good = entry_place(guest, GVA, level), guest.walk(GVA).steps[level].entry
            guest.memory.store(place, 8, good & ~clear | set_)
            assert isinstance(rig.access(GVA), PageFault)
            guest.memory.store(place, 8, good)
            assert rig.where(GVA) == GPA + GUEST
        for clear, set_ in ((7, 0), (7, W_), (0, 1 << 47)):
            rig, guest, ept = guest_under_ept()
            place, good = entry_place(ept, GPA, level), ept.walk(GPA).steps[level].entry
            ept.memory.store(place, 8, good & ~clear | set_)
            assert isinstance(rig.access(GVA), EptViolation | EptMisconfiguration)
            ept.memory.store(place, 8, good)
            assert rig.where(GVA) == GPA + GUEST


def test_after_adding_permissions_at_most_one_spurious_fault_follows() -> None:
    rig, guest, ept = guest_under_ept()
    edit(guest, GVA, 3, set_=0x60)
    set_rights(ept, GPA, R_)
    assert rig.where(GVA) == GPA + GUEST
    set_rights(ept, GPA, R_ | W_)
    assert isinstance(rig.access(GVA, WRITE), EptViolation)
    assert rig.where(GVA, WRITE) == GPA + GUEST

    edit(guest, GVA + 0x1000, 3, clear=2, set_=0x60)
    assert rig.where(GVA + 0x1000) == GPA + 0x1000 + GUEST
    edit(guest, GVA + 0x1000, 3, set_=2)
    assert isinstance(rig.access(GVA + 0x1000, WRITE), PageFault)
    assert rig.where(GVA + 0x1000, WRITE) == GPA + 0x1000 + GUEST


def test_a_spurious_fault_through_an_upper_entry_is_not_repeated_either() -> None:
    rig, guest, _ = guest_under_ept()
    edit(guest, GVA, 1, clear=2)
    assert rig.where(GVA) == GPA + GUEST
    edit(guest, GVA, 1, set_=2)
    assert isinstance(rig.access(GVA + 0x1000, WRITE), PageFault)
    assert rig.where(GVA + 0x1000, WRITE) == GPA + 0x1000 + GUEST


def test_revoked_rights_stay_in_use_until_invept() -> None:
    rig, _, ept = guest_under_ept()
    assert rig.where(GVA, WRITE) == GPA + GUEST
    ept.unmap(GPA, 0x1000)
    assert rig.where(GVA, WRITE) == GPA + GUEST
    rig.tlb.invept_single(ept.root)
    assert isinstance(rig.access(GVA, WRITE), EptViolation)


def test_without_paging_no_combined_mapping_is_made_or_used() -> None:
    rig, guest, ept = guest_under_ept()
    guest.map(GPA, 0xA000, 0x1000, RWX)
    assert rig.where(GPA) == 0xA000 + GUEST
    combined = [tag for tag, _ in rig.tlb.spaces() if isinstance(tag, LinearTag)]
    rig.configure(None, ept)
    assert rig.where(GPA) == GPA + GUEST
    assert [tag for tag, _ in rig.tlb.spaces() if isinstance(tag, LinearTag)] == combined
    rig.configure(None, ept, vpid=7)
    assert rig.where(GPA) == GPA + GUEST
    assert [tag for tag, _ in rig.tlb.spaces() if isinstance(tag, LinearTag)] == combined
    # With paging on again, what was combined before is still there.
    guest.unmap(GPA, 0x1000)
    rig.configure(guest, ept)
    assert rig.where(GPA) == 0xA000 + GUEST


def test_without_ept_and_paging_a_linear_address_is_physical() -> None:
    rig = Rig()
    rig.configure(None, None)
    assert [rig.where(address, kind) for address in (0, 0xFFFF_FFFF) for kind in range(3)] == [
        0,
        0,
        0,
        0xFFFF_FFFF,
        0xFFFF_FFFF,
        0xFFFF_FFFF,
    ]


def test_no_combined_mapping_is_made_by_an_access_that_fails() -> None:
    rig, guest, ept = guest_under_ept(mode=AccessMode(wp=True))
    edit(guest, GVA, 3, clear=2)
    assert isinstance(rig.access(GVA, WRITE), PageFault)
    ept.unmap(GPA + 0x1000, 0x1000)
    assert isinstance(rig.access(GVA + 0x1000), EptViolation)
    spaces = {tag: len(space) for tag, space in rig.tlb.spaces() if isinstance(tag, LinearTag)}
    assert sum(spaces.values()) == 0


def test_formats_are_bound_once() -> None:
    assert LONG is PAGING_4LEVEL.bind(features())


# The APIC-access page, and #VE


@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
def test_a_page_walk_that_meets_the_apic_access_page(kind: int) -> None:
    """SDM 3C, "Guest-Physical Accesses to the APIC-Access Page": each level of the guest's."""
    for level in range(4):
        rig, guest, _ = guest_under_ept()
        place = entry_place(guest, GVA, level)
        rig.mmu.apic_access_page = (place + GUEST) & ~0xFFF
        found = rig.access(GVA, kind)
        assert found == ApicAccess(GVA, place & 0xFFF, READ, is_physical=True)


def test_a_page_that_is_the_apic_access_page_is_accessed_by_its_linear_address() -> None:
    rig, _, _ = guest_under_ept()
    rig.mmu.apic_access_page = GPA + GUEST
    assert rig.access(GVA + 0x20, WRITE) == ApicAccess(GVA + 0x20, 0x20, WRITE)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("suppresses", [False, True])
def test_the_entry_that_is_not_present_decides_about_ve(level: int, suppresses: bool) -> None:
    rig, _, ept = guest_under_ept()
    assert rig.access(GVA) is not None  # the guest's tables are known
    bit = 1 << 63
    edit(ept, GPA, level, clear=7, set_=bit if suppresses else 0)
    rig.tlb.forget_everything()
    found = rig.mmu.guest_physical(GPA, READ, GVA, is_final=True)
    assert isinstance(found, EptViolation)
    assert found.suppresses_ve is suppresses


def test_the_leaf_decides_about_ve_where_all_entries_are_present() -> None:
    for level, expected in ((1, False), (3, True)):
        rig, _, ept = guest_under_ept()
        set_rights(ept, GPA, R_)
        edit(ept, GPA, level, set_=1 << 63)
        for _ in range(2):  # from memory, then from the TLB
            found = rig.access(GVA, WRITE)
            assert isinstance(found, EptViolation)
            assert found.suppresses_ve is expected
            assert not isinstance(rig.access(GVA, READ), EptViolation)


# Five levels


@pytest.mark.parametrize(("walk_length", "levels"), [(3, 4), (4, 5)])
def test_the_walk_length_of_the_eptp_is_the_number_of_levels(walk_length: int, levels: int) -> None:
    """An address of more than 48 bits is an EPT violation where there are four."""
    rig, high = Rig(), 1 << 50
    fmt = (EPT if levels == 4 else EPT_5LEVEL).bind(Features(maxphyaddr=52))
    table = rig.table(fmt)
    table.map(GPA, GUEST + GPA, 0x1000, RWX)
    if levels == 5:
        table.map(high, GUEST + GPA, 0x1000, RWX)
    four = EPT.bind(Features(maxphyaddr=52))
    setup = EptSetup(four, 0, False).with_eptp(table.root | 6 | walk_length << 3)
    assert len(setup.format.levels) == levels
    rig.mmu.configure(paging=None, root=0, mode=AccessMode(), vpid=0, pcid=0, ept=setup)
    found = rig.mmu.guest_physical(GPA, READ, GPA, is_final=True)
    assert isinstance(found, Mapping)
    assert found.page == GUEST + GPA
    found = rig.mmu.guest_physical(high, READ, high, is_final=True)
    assert isinstance(found, Mapping) == (levels == 5)
