"""What must go is gone, and what may stay stays: the policy `keep` row by row.

Everything that can be cached is cached under every tag, then the entries in memory are changed
behind the processor's back, then one operation is done. A probe under each tag tells by where it
leads whether the stale mapping was still there. SDM 3A, "Operations that Invalidate TLBs and
Paging-Structure Caches"; SDM 3C, "Operations that Invalidate Cached Mappings".
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
from mmu_support import EPT_FORMAT, GIB, LONG, RWX, Rig, entry_place, reached

from turducken.mmu.faults import EptViolation, PageFault
from turducken.mmu.mmu import AccessMode
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.mmu.tlb import Tlb
from turducken.paging.formats import PAGING_5LEVEL, PAGING_32, PAGING_PAE, BoundFormat, Features
from turducken.paging.rights import make_attributes
from turducken.paging.table import PageTable

FORMATS = (
    LONG,
    PAGING_5LEVEL.bind(Features()),
    PAGING_PAE.bind(Features()),
    PAGING_32.bind(Features()),
)
SUPERVISOR = make_attributes("RWX", user=False)
OLD, NEW = GIB, 2 * GIB
"""Where the pages lead before and after the change (there is no RAM; nothing is read there)."""
FAR = 1 << 40
"""Host address minus guest-physical address of such pages under the EPTs."""


@dataclass(frozen=True)
class Subject:
    """Something to cache: an access to ``made`` caches it, one to ``probe`` uses it.

    ``level`` is that of the entry that it caches; a page if it has a ``shift``, otherwise an entry
    of a paging-structure cache.
    """

    name: str
    made: int
    probe: int
    level: int
    shift: int | None = None
    is_global: bool = False

    def map(self, table: PageTable, target: int) -> None:
        attributes = SUPERVISOR
        if self.is_global:
            attributes = make_attributes("RWX", user=False, global_=True)
        size = 1 << (self.shift or 12)
        for one in {self.made, self.probe}:
            table.map(one, target + one % (1 << 29), size, attributes, max_shift=self.shift or 12)


def subjects(fmt: BoundFormat) -> list[Subject]:
    """Return a page of every size, global or not, and an entry of every structure cache."""
    pages = [
        (level.shift, number, is_global)
        for number, level in enumerate(fmt.levels)
        if level.leaf_mask
        for is_global in (False, True)
    ]
    first = 1 if fmt.name == PAGING_PAE.name else 0  # PDPTEs are registers there
    tables = range(first, len(fmt.levels) - 1)
    apart = fmt.levels[0].shift if fmt.entry_size == 8 and len(fmt.levels) > 3 else 26
    found = []
    for place, (shift, level, is_global) in enumerate(pages, 1):
        base = place << apart
        name = f"{'global ' if is_global else ''}page {shift}"
        found.append(Subject(name, base, base, level, shift, is_global))
    for place, level in enumerate(tables, len(pages) + 1):
        base = place << apart
        beside = base + (1 << fmt.levels[level + 1].shift)
        found.append(Subject(f"{fmt.levels[level].name} cache", base, beside, level))
    return found


@dataclass(frozen=True)
class Tag:
    vpid: int
    pcid: int
    ept: str | None


TAGS = [Tag(*one) for one in product((0, 1, 2), (0, 5), (None, "A", "B"))]
CURRENT = Tag(1, 5, "A")


class Cached:
    """A rig with every subject of a format cached under every tag, and changed since."""

    def __init__(self, fmt: BoundFormat) -> None:
        self.rig = rig = Rig()
        self.subjects = subjects(fmt)
        self.epts = {name: rig.ept(max_shift=30) for name in "AB"}
        for ept in self.epts.values():
            # Not writable: a write is an EPT violation.
            ept.map(OLD, FAR + OLD, 2 * GIB, make_attributes("RX"))
        self.linear = rig.table(fmt), rig.table(fmt)
        self.guest = rig.guest_table(fmt), rig.guest_table(fmt)
        for before, after in (self.linear, self.guest):
            for one in self.subjects:
                one.map(before, OLD)
                one.map(after, NEW)
        for tag in TAGS:
            self.enter(tag)
            for one in self.subjects:
                assert self.lookup(tag, one.made) == "old"
        self.change()

    def enter(self, tag: Tag) -> None:
        linear, guest = self.linear[0], self.guest[0]
        if tag.ept is None:
            self.rig.configure(linear, vpid=tag.vpid, pcid=tag.pcid)
        else:
            self.rig.configure(guest, self.epts[tag.ept], vpid=tag.vpid, pcid=tag.pcid)

    def lookup(self, tag: Tag, address: int) -> str:
        place = self.rig.where(address)
        assert isinstance(place, int), place
        place -= FAR if tag.ept else 0
        return "old" if OLD <= place < NEW else "new"

    def change(self) -> None:
        for before, after in (self.linear, self.guest):
            for one in self.subjects:
                place = entry_place(before, one.made, one.level)
                other = entry_place(after, one.made, one.level)
                size = before.fmt.entry_size
                before.memory.store(place, size, before.memory.load(other, size))

    def stale(self) -> set[tuple[Tag, str]]:
        """Return what is still used although memory says otherwise."""
        found = set()
        for tag in TAGS:
            self.enter(tag)
            for one in self.subjects:
                if self.lookup(tag, one.probe) == "old":
                    found.add((tag, one.name))
        return found

    def target(self, name: str) -> Subject:
        return next(one for one in self.subjects if one.name == name)


Goes = Callable[[Tag, Subject, Subject], bool]


@dataclass(frozen=True)
class Operation:
    """What ``do`` must drop, done in the context `CURRENT`: a `Subject` under a `Tag`.

    The third argument of ``goes`` is the subject whose address the operation names.
    """

    name: str
    do: Callable[[Cached, Subject], None]
    goes: Goes
    by_address: bool = False


def in_scope(tag: Tag, one: Subject) -> bool:
    """The current VPID's mappings for the current PCID, those from global pages included."""
    return tag.vpid == CURRENT.vpid and (one.is_global or tag.pcid == CURRENT.pcid)


def page_fault(c: Cached, target: Subject) -> None:
    c.enter(CURRENT)
    assert isinstance(c.rig.access(target.probe, user=True), PageFault)


def ept_violation(c: Cached, target: Subject) -> None:
    c.enter(CURRENT)
    assert isinstance(c.rig.access(target.probe, WRITE), EptViolation)


def transition_without_vpid(c: Cached, _target: Subject) -> None:
    c.rig.tlb.flush_vpid(0, "VM exit")


def transitions_with_vpid(c: Cached, _target: Subject) -> None:
    for tag in (CURRENT, TAGS[0], CURRENT):
        c.enter(tag)


OPERATIONS = (
    Operation(
        "INVLPG",
        lambda c, t: c.rig.tlb.invlpg(1, 5, t.probe),
        lambda tag, one, t: in_scope(tag, one) and (one is t or one.shift is None),
        by_address=True,
    ),
    Operation(
        "INVPCID 0",
        lambda c, t: c.rig.tlb.invpcid_address(1, 5, t.probe),
        lambda tag, one, t: in_scope(tag, one) and one is t and not one.is_global,
        by_address=True,
    ),
    Operation(
        "INVPCID 1, MOV to CR3",
        lambda c, t: c.rig.tlb.flush_pcid(1, 5),
        lambda tag, one, t: in_scope(tag, one) and not one.is_global,
    ),
    Operation(
        "INVPCID 2, MOV to CR0 or CR4",
        lambda c, t: c.rig.tlb.flush_vpid(1, "INVPCID"),
        lambda tag, one, t: tag.vpid == 1,
    ),
    Operation(
        "MOV to CR4 that sets SMEP",
        lambda c, t: c.rig.tlb.flush_pcid_and_globals(1, 5, "MOV CR4"),
        lambda tag, one, t: in_scope(tag, one),
    ),
    Operation(
        "INVPCID 3",
        lambda c, t: c.rig.tlb.flush_non_global(1),
        lambda tag, one, t: tag.vpid == 1 and not one.is_global,
    ),
    Operation(
        "page fault",
        page_fault,
        lambda tag, one, t: in_scope(tag, one) and one is t,
        by_address=True,
    ),
    Operation(
        "EPT violation",
        ept_violation,
        lambda tag, one, t: in_scope(tag, one) and one is t and tag.ept == "A",
        by_address=True,
    ),
    Operation(
        "VM entry or exit without VPID",
        transition_without_vpid,
        lambda tag, one, t: tag.vpid == 0,
    ),
    Operation("VM entries and exits with VPID", transitions_with_vpid, lambda tag, one, t: False),
    Operation(
        "INVVPID 0",
        lambda c, t: c.rig.tlb.invvpid_address(1, t.probe),
        lambda tag, one, t: tag.vpid == 1 and one is t,
        by_address=True,
    ),
    Operation(
        "INVVPID 1",
        lambda c, t: c.rig.tlb.flush_vpid(1, "INVVPID"),
        lambda tag, one, t: tag.vpid == 1,
    ),
    Operation("INVVPID 2", lambda c, t: c.rig.tlb.invvpid_all(), lambda tag, one, t: tag.vpid != 0),
    Operation(
        "INVVPID 3",
        lambda c, t: c.rig.tlb.invvpid_retaining_globals(1),
        lambda tag, one, t: tag.vpid == 1 and not one.is_global,
    ),
    Operation(
        "INVEPT 1",
        lambda c, t: c.rig.tlb.invept_single(c.epts["A"].root),
        lambda tag, one, t: tag.ept == "A",
    ),
    Operation(
        "INVEPT 2", lambda c, t: c.rig.tlb.invept_all(), lambda tag, one, t: tag.ept is not None
    ),
)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda one: one.name)
def test_linear_and_combined_mappings(fmt: BoundFormat, operation: Operation) -> None:
    names = [one.name for one in subjects(fmt)]
    for name in names if operation.by_address else names[:1]:
        c = Cached(fmt)
        target = c.target(name)
        operation.do(c, target)
        expected = {
            (tag, one.name)
            for tag in TAGS
            for one in c.subjects
            if not operation.goes(tag, one, target)
        }
        assert c.stale() == expected


# What an EPT caches: guest-physical mappings, and what combined mappings take from an EPT.

EPT_OLD, EPT_NEW = 1 << 41, 1 << 42


@dataclass(frozen=True)
class EptSubject:
    """Like `Subject`, at guest-physical addresses."""

    name: str
    made: int
    probe: int
    level: int
    shift: int | None = None

    def map(self, table: PageTable, target: int) -> None:
        size = 1 << (self.shift or 12)
        for one in {self.made, self.probe}:
            table.map(
                one, target + one % GIB, size, make_attributes("RX"), max_shift=self.shift or 12
            )


EPT_SUBJECTS = [
    EptSubject(f"page {level.shift}", place << 39, place << 39, number, level.shift)
    for place, (number, level) in enumerate(enumerate(EPT_FORMAT.levels), 1)
    if level.leaf_mask
] + [
    EptSubject(
        f"{EPT_FORMAT.levels[number].name} cache",
        place << 39,
        (place << 39) + (1 << EPT_FORMAT.levels[number + 1].shift),
        number,
    )
    for place, number in enumerate(range(3), 8)
]


class EptCached:
    """Guest-physical mappings of every subject, and combined ones of the pages, under every tag.

    The guest maps linear page n << 40 to each subject's first page.
    """

    def __init__(self) -> None:
        self.rig = rig = Rig()
        self.guest = rig.guest_table()
        self.epts = {name: (rig.ept(max_shift=30), rig.ept(max_shift=30)) for name in "AB"}
        for place, one in enumerate(EPT_SUBJECTS, 1):
            self.guest.map(place << 40, one.made, 4096, RWX)
            for before, after in self.epts.values():
                one.map(before, EPT_OLD)
                one.map(after, EPT_NEW)
        self.tags = [tag for tag in TAGS if tag.ept]
        for tag in self.tags:
            self.enter(tag)
            for place, one in enumerate(EPT_SUBJECTS, 1):
                assert self.physical(one.made) == "old"
                if one.shift is not None:
                    assert self.combined(place) == "old"
        for before, after in self.epts.values():
            for one in EPT_SUBJECTS:
                entry = after.memory.load(entry_place(after, one.made, one.level), 8)
                before.memory.store(entry_place(before, one.made, one.level), 8, entry)

    def enter(self, tag: Tag) -> None:
        assert tag.ept
        self.rig.configure(self.guest, self.epts[tag.ept][0], vpid=tag.vpid, pcid=tag.pcid)

    def physical(self, gpa: int) -> str:
        found = self.rig.mmu.guest_physical(gpa, READ, 0, is_final=True)
        return self._age(reached(found, gpa))

    def combined(self, place: int) -> str:
        return self._age(self.rig.where(place << 40))

    @staticmethod
    def _age(place: object) -> str:
        assert isinstance(place, int), place
        return "old" if place < EPT_NEW else "new"

    def stale(self) -> set[tuple[str, str]]:
        """Return what is stale: (EP4TA's or tag's name, subject's name).

        Combined mappings are asked first: with their guest-physical mapping gone they still lead to
        the old place, and a new one is made from what the guest-physical mapping says.
        """
        found = set()
        for tag in self.tags:
            self.enter(tag)
            for place, one in enumerate(EPT_SUBJECTS, 1):
                if one.shift is not None and self.combined(place) == "old":
                    found.add((f"{tag}", one.name))
        for ept in "AB":
            self.enter(Tag(0, 0, ept))
            for one in EPT_SUBJECTS:
                if self.physical(one.probe) == "old":
                    found.add((ept, one.name))
        return found


def everything_stale(c: EptCached) -> set[tuple[str, str]]:
    tags = {(f"{tag}", one.name) for tag in c.tags for one in EPT_SUBJECTS if one.shift is not None}
    return tags | {(ept, one.name) for ept in "AB" for one in EPT_SUBJECTS}


def test_only_invept_drops_guest_physical_mappings() -> None:
    c = EptCached()
    tlb = c.rig.tlb
    c.enter(CURRENT)
    tlb.invlpg(1, 5, 1 << 40)
    tlb.invpcid_address(1, 5, 1 << 40)
    tlb.flush_pcid(1, 5)
    tlb.flush_non_global(1)
    tlb.flush_vpid(1, "MOV CR4")
    tlb.flush_vpid(0, "VM entry")
    tlb.invvpid_address(1, 1 << 40)
    tlb.invvpid_all()
    tlb.invvpid_retaining_globals(1)
    # What combined mappings are gone is made again from the stale guest-physical ones.
    assert c.stale() == everything_stale(c)


@pytest.mark.parametrize("both", [False, True])
def test_invept_drops_combined_and_guest_physical_mappings(both: bool) -> None:
    c = EptCached()
    if both:
        c.rig.tlb.invept_all()
        assert c.stale() == set()
        return
    # The operand says which, not the current EPTP.
    c.enter(Tag(1, 5, "B"))
    c.rig.tlb.invept_single(c.epts["A"][0].root)
    assert c.stale() == {
        (tag, name) for tag, name in everything_stale(c) if tag == "B" or "ept='B'" in tag
    }


@pytest.mark.parametrize("target", EPT_SUBJECTS, ids=lambda one: one.name)
def test_an_ept_violation_drops_one_guest_physical_address_of_the_current_ep4ta(
    target: EptSubject,
) -> None:
    c = EptCached()
    c.enter(CURRENT)
    violation = c.rig.mmu.guest_physical(target.probe, WRITE, 0x1000, is_final=True)
    assert isinstance(violation, EptViolation)
    # The linear address 1000 is not one of those that lead there: their combined mappings stay.
    assert c.stale() == everything_stale(c) - {("A", target.name)}


@pytest.mark.parametrize(
    "number", [n for n, one in enumerate(EPT_SUBJECTS, 1) if one.shift is not None]
)
def test_an_ept_violation_drops_the_combined_mapping_that_met_it(number: int) -> None:
    c = EptCached()
    name = EPT_SUBJECTS[number - 1].name
    c.enter(CURRENT)
    assert isinstance(c.rig.access(number << 40, WRITE), EptViolation)
    # In the current VPID, PCID and EP4TA; and the guest-physical mapping it was made from.
    assert c.stale() == everything_stale(c) - {(f"{CURRENT}", name), ("A", name)}


def test_an_ept_violation_of_a_guest_table_leaves_the_combined_mapping() -> None:
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(0x5000, 0x9000, 0x1000, RWX)
    rig.configure(guest, ept)
    assert rig.where(0x5000) == 0x9000 + (16 << 20)
    place = entry_place(guest, 0x5000, 3)
    # The guest's table becomes read-only; its dirty flag cannot be set.
    ept.change(place & ~0xFFF, 0x1000, make_attributes("R"), make_attributes("RWX"))
    rig.tlb.ept_violation(rig.mmu.tag, place, None)
    violation = rig.access(0x5000, WRITE)
    assert isinstance(violation, EptViolation)
    assert violation.gpa == place
    guest.memory.store(place, 8, 0)
    # "If that guest-physical address was the translation of a linear address": it was not.
    assert rig.where(0x5000) == 0x9000 + (16 << 20)


# Tags


def test_eptp_bits_outside_51_12_are_no_part_of_the_tag() -> None:
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(0x5000, 0x9000, 0x2000, RWX)
    rig.configure(guest, ept)
    assert rig.where(0x5000) == 0x9000 + (16 << 20)
    place = entry_place(guest, 0x5000, 3)
    ept.change(0x9000, 0x2000, 0, make_attributes("RWX"))
    for accessed_dirty in (True, False):
        rig.configure(guest, ept, accessed_dirty=accessed_dirty)
        assert rig.where(0x5000) == 0x9000 + (16 << 20)
    assert isinstance(rig.access(0x6000), EptViolation)
    assert guest.memory.load(place, 8) & 0x20


def test_linear_mappings_go_though_ept_is_in_use_and_combined_ones_though_it_is_not() -> None:
    rig = Rig()
    table, guest, ept = rig.table(), rig.guest_table(), rig.ept()
    table.map(0x5000, 0x9000, 0x1000, RWX)
    guest.map(0x5000, 0x9000, 0x1000, RWX)
    for way in ((table, None), (guest, ept)):
        other = (guest, ept) if way[1] is None else (table, None)
        rig.configure(*way)
        before = rig.where(0x5000)
        assert isinstance(before, int)
        way[0].map(0x5000, 0xA000, 0x1000, RWX)
        assert rig.where(0x5000) == before
        rig.configure(*other)
        rig.tlb.invlpg(0, 0, 0x5000)
        rig.configure(*way)
        assert rig.where(0x5000) == before + 0x1000


def test_a_global_mapping_serves_every_pcid_but_one_vpid() -> None:
    rig = Rig()
    table = rig.table()
    table.map(0x5000, 0x9000, 0x1000, make_attributes("RWX", global_=True))
    rig.configure(table, vpid=1, pcid=3)
    assert rig.where(0x5000) == 0x9000
    table.unmap(0x5000, 0x1000)
    rig.configure(table, vpid=1, pcid=4)
    assert rig.where(0x5000) == 0x9000
    rig.configure(table, vpid=2, pcid=3)
    assert isinstance(rig.where(0x5000), PageFault)


def test_the_global_bit_means_nothing_without_pge() -> None:
    rig = Rig()
    table = rig.table()
    table.map(0x5000, 0x9000, 0x1000, make_attributes("RWX", global_=True))
    rig.configure(table, pcid=3, globals_=False)
    assert rig.where(0x5000) == 0x9000
    table.unmap(0x5000, 0x1000)
    rig.configure(table, pcid=4, globals_=False)
    assert isinstance(rig.where(0x5000), PageFault)


# Parts of large pages


BY_ADDRESS = {
    "INVLPG": lambda rig, address: rig.tlb.invlpg(1, 0, address),
    "INVPCID 0": lambda rig, address: rig.tlb.invpcid_address(1, 0, address),
    "INVVPID 0": lambda rig, address: rig.tlb.invvpid_address(1, address),
    "page fault": lambda rig, address: rig.access(address, user=True),
}


@pytest.mark.parametrize("how", BY_ADDRESS)
@pytest.mark.parametrize("shift", [21, 30])
def test_all_parts_of_a_large_page_go_together(shift: int, how: str) -> None:
    """ "They invalidate all TLB entries corresponding to the translation specified by the paging
    structures", however many smaller ones the processor made of it.
    """
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    big = 1 << shift
    guest.map(2 * big, 0, big, SUPERVISOR)
    assert guest.walk(2 * big).shift == shift
    rig.configure(guest, ept, vpid=1)
    parts = [2 * big + offset for offset in (0x20_0000 - 0x1000, 0, 0x7000)]
    before = [rig.where(one) for one in parts]
    guest.map(2 * big, GIB, big, SUPERVISOR)
    assert [rig.where(one) for one in parts] == before
    BY_ADDRESS[how](rig, 2 * big + 0x5000)
    assert all(isinstance(rig.where(one), EptViolation) for one in parts)


def test_an_ept_violation_drops_only_the_part_it_met() -> None:
    rig = Rig()
    guest, ept = rig.guest_table(), rig.ept()
    guest.map(4 << 20, 0, 2 << 20, SUPERVISOR)
    ept.change(0x5000, 0x1000, make_attributes("RX"), make_attributes("RWX"))
    rig.configure(guest, ept)
    before = rig.where(0x40_6000)
    assert isinstance(rig.access(0x40_5000), object)
    assert isinstance(rig.access(0x40_5000, WRITE), EptViolation)
    guest.unmap(4 << 20, 2 << 20)
    assert rig.where(0x40_6000) == before
    assert isinstance(rig.where(0x40_5000), PageFault)


# Structure caches


def test_an_entry_of_one_format_does_not_serve_another() -> None:
    rig = Rig()
    four, five = rig.table(), rig.table(PAGING_5LEVEL.bind(Features()))
    four.map(0x5000, 0x9000, 0x2000, RWX)
    five.map(0x5000, 0xA000, 0x2000, RWX)
    rig.configure(four)
    assert rig.where(0x5000) == 0x9000
    rig.configure(five)
    assert rig.where(0x6000) == 0xB000


def test_rights_of_upper_entries_come_from_the_structure_caches() -> None:
    """ "The processor may enforce access rights based on the ... paging-structure caches"."""
    rig = Rig()
    table = rig.table()
    table.map(0x5000, 0x9000, 0x3000, RWX)
    rig.configure(table, mode=AccessMode(wp=True, nx=True))
    assert rig.where(0x5000) == 0x9000
    place = entry_place(table, 0x5000, 1)
    table.memory.store(place, 8, table.memory.load(place, 8) & ~2 | 1 << 63)
    assert rig.where(0x6000, WRITE) == 0xA000
    assert rig.where(0x6000, FETCH) == 0xA000
    rig.tlb.invlpg(0, 0, 0x1234_5000)
    assert isinstance(rig.where(0x7000, WRITE), PageFault)
    assert isinstance(rig.where(0x7000, FETCH), PageFault)
    # The pages cached before keep the rights they were cached with.
    assert rig.where(0x6000, WRITE) == 0xA000


def test_rights_of_upper_entries_reach_entries_cached_later() -> None:
    rig = Rig()
    table = rig.table()
    for address in (0x5000, GIB, GIB + 0x1000):
        table.map(address, address, 0x1000, RWX)
    place = entry_place(table, 0x5000, 0)
    table.memory.store(place, 8, table.memory.load(place, 8) & ~2)
    rig.configure(table)
    rig.access(0x5000)  # caches the PML4E, read-only
    rig.access(GIB)  # begins there, and caches the entries below
    assert isinstance(rig.access(GIB + 0x1000, WRITE), PageFault)


def too_little(*_: object) -> None:
    """Stands for an invalidation that is not done."""


def too_much(tlb: Tlb, *_: object) -> None:
    tlb.forget_everything()


PLANTED = [
    (name, fault)
    for name in (
        "invlpg",
        "invpcid_address",
        "flush_pcid",
        "flush_vpid",
        "flush_non_global",
        "page_fault",
        "ept_violation",
        "invvpid_address",
        "invvpid_all",
        "invept_single",
        "invept_all",
    )
    for fault in (too_little, too_much)
]


@pytest.mark.parametrize(("name", "fault"), PLANTED)
def test_planted_faults_are_seen(
    name: str, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_caught(operation: Operation) -> bool:
        try:
            test_linear_and_combined_mappings(FORMATS[3], operation)
        except AssertionError:
            return True
        return False

    assert not any(is_caught(one) for one in OPERATIONS)
    monkeypatch.setattr(Tlb, name, fault)
    assert any(is_caught(one) for one in OPERATIONS)
