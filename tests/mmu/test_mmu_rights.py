"""Access rights and page-fault error codes, for every format and page size.

SDM 3A, "Access Rights" and "Page-Fault Exceptions".
"""

from functools import cache

import naive_mmu as naive
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmu_support import HOST_TABLES, RWX, Rig, features

from turducken.mmu import rights
from turducken.mmu.faults import PageFault
from turducken.mmu.mmu import AccessMode
from turducken.mmu.rights import FETCH, READ, WRITE
from turducken.mmu.tlb import Mapping
from turducken.paging.formats import FORMATS, BoundFormat
from turducken.paging.table import PageTable
from turducken.paging.walker import Step

ADDRESS = 0x4_0000_0000 >> 4  # 40000000: a page of any size can begin here
SHAPES = [
    (name, level.shift)
    for name, fmt in FORMATS.items()
    if not fmt.is_ept
    for level in fmt.levels
    if level.leaf
]
FLAGS = ("wp", "smep", "smap", "nx", "pke")
"""Names of `AccessMode`; nx is EFER.NXE here."""


@cache
def path(name: str, shift: int) -> tuple[Rig, PageTable, list[Step]]:
    """Return a table that maps one page of ``1 << shift`` bytes, and the entries on the way."""
    rig = Rig()
    table = rig.table(FORMATS[name].bind(features()))
    table.map(ADDRESS, ADDRESS, 1 << shift, RWX, max_shift=shift)
    steps = table.walk(ADDRESS).steps
    return rig, table, steps[1:] if name == "PAE" else steps


def entry_bits(name: str) -> st.SearchStrategy[int]:
    """Return strategies for R/W, U/S, XD and a key, mostly permissive."""
    mostly = st.sampled_from((1, 1, 1, 0))
    wide = 0 if name == "32-bit" else 1
    key = st.integers(0, 15) if name in ("4-level", "5-level") else st.just(0)
    return st.tuples(mostly, mostly, st.sampled_from((0, 0, 0, wide)), key).map(
        lambda one: 1 | one[0] << 1 | one[1] << 2 | one[2] << 63 | one[3] << 59
    )


def compare(name: str, shift: int, entries: list[int], mode: AccessMode, access: tuple) -> None:
    """Compare a walk, and then a use of what it cached, with the model."""
    rig, table, steps = path(name, shift)
    fmt = FORMATS[name].bind(features(nx=mode.nx))
    kind, user, ac = access
    size = fmt.entry_size
    for step, entry in zip(steps, entries, strict=True):
        table.memory.store(step.address, size, entry)
    registers = naive.Registers(
        name,
        table.root,
        tuple(table.memory.load(table.root + 8 * n, 8) for n in range(4)),
        wp=mode.wp,
        smep=mode.smep,
        smap=mode.smap,
        nxe=mode.nx,
        pke=mode.pke,
        pkru=mode.pkru,
    )
    ram = naive.Ram(bytearray(rig.memory.read(HOST_TABLES, 0x8000)), HOST_TABLES)
    expected = naive.translate(ram, registers, ADDRESS + 0x123, kind, user=user, ac=ac)
    set_up(rig, fmt, table, mode)
    for again in range(2):
        found = rig.access(ADDRESS + 0x123, kind, user=user, ac=ac)
        if isinstance(found, Mapping):
            assert expected == ("page", found.page | 0x123), again
        else:
            assert isinstance(found, PageFault)
            assert expected == ("page fault", *found), again
    for step in steps:
        assert table.memory.load(step.address, size) == ram.load(step.address, size)


def set_up(rig: Rig, fmt: BoundFormat, table: PageTable, mode: AccessMode) -> None:
    rig.tlb.forget_everything()
    wide = fmt.entry_size == 8
    keyed = fmt.address_bits >= 48
    mode = AccessMode(
        mode.wp, mode.smep, mode.smap, mode.nx and wide, mode.pke and keyed, mode.pkru
    )
    rig.configure(PageTable(fmt, table.memory, table.root), mode=mode)


modes = st.builds(AccessMode, *([st.booleans()] * 5), pkru=st.integers(0, (1 << 32) - 1))
accesses = st.tuples(st.sampled_from((READ, WRITE, FETCH)), st.booleans(), st.booleans())


@pytest.mark.parametrize(("name", "shift"), SHAPES)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), mode=modes, access=accesses)
def test_rights(
    name: str, shift: int, data: st.DataObject, mode: AccessMode, access: tuple
) -> None:
    _, _, steps = path(name, shift)
    flags = data.draw(st.lists(entry_bits(name), min_size=len(steps), max_size=len(steps)))
    entries = [
        step.entry & ~(7 | 0xF << 59 | 1 << 63) | one
        for step, one in zip(steps, flags, strict=True)
    ]
    mode.nx = mode.nx and name != "32-bit"
    compare(name, shift, entries, mode, access)


@pytest.mark.parametrize(("name", "shift"), SHAPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), mode=modes, access=accesses)
def test_entries_without_a_translation(
    name: str, shift: int, data: st.DataObject, mode: AccessMode, access: tuple
) -> None:
    """Not present, or any other bit of one entry flipped: most of the reserved ones fault."""
    _, _, steps = path(name, shift)
    entries = [step.entry for step in steps]
    number = data.draw(st.integers(0, len(steps) - 1))
    width = 32 if name == "32-bit" else 64
    kept = {0, 7} if number < len(steps) - 1 else {7}
    flips = st.integers(0, width - 1).filter(lambda one: one not in kept)
    is_table = number < len(steps) - 1
    if is_table:
        # Another table's address would do; only what the format refuses is of interest.
        flips = st.sampled_from([0, *range(width - 12, width)] if width == 64 else [0])
    entries[number] ^= 1 << data.draw(flips)
    compare(name, shift, entries, mode, access)


def test_the_pk_flag_tells_of_the_key_whatever_else_forbids_the_access() -> None:
    mode = AccessMode(wp=True, pke=True, pkru=0b10 << 2)  # writes with key 1
    entry = 1 | 4 | 1 << 59  # read-only, user, key 1
    assert rights.rights_error(mode, entry, entry, WRITE, user=True) == 1 | 2 | 4 | 32
    assert rights.rights_error(mode, entry, entry & ~(1 << 59), WRITE, user=True) == 1 | 2 | 4


def planted_is_allowed(mode: AccessMode, all_of: int, *rest: int, **more: bool) -> bool:
    return rights.is_allowed(mode, all_of | 2, *rest, **more)


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("turducken.mmu.mmu.is_allowed", planted_is_allowed),
        ("turducken.mmu.mmu.rights_error", lambda *_, **__: 1),
        ("turducken.mmu.mmu.not_present_error", lambda *_, **__: 0),
    ],
)
def test_planted_faults_are_seen(
    where: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, fault)
    access = (WRITE, True, False)
    _, _, steps = path("4-level", 12)
    entries = [step.entry for step in steps]
    mode = AccessMode(wp=True)
    with pytest.raises(AssertionError):  # noqa: PT012
        compare("4-level", 12, [*entries[:-1], entries[-1] & ~2], mode, access)
        compare("4-level", 12, [*entries[:-1], 0], mode, access)
