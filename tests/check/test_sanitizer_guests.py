"""Guests that change their own page tables, with and without INVLPG: each rule both ways."""

from collections.abc import Callable

import pytest
from guest_code import (
    ACKNOWLEDGED,
    DONE,
    OTHER,
    PAGE,
    PAUSE,
    RELOAD_CR3,
    REQUEST,
    SECOND_CODE,
    Guests,
    invlpg,
    mark,
    read,
    until,
    write,
    write_half,
)

from turducken.mmu.policy import POLICIES

W, A, PCD = 1 << 1, 1 << 5, 1 << 4

CHANGES: dict[str, tuple[Callable[[int], int], bytes]] = {
    "not-present": (lambda value: value & ~1, read(PAGE)),
    "address-changed": (lambda value: value ^ PAGE ^ OTHER, read(PAGE)),
    "permission-cleared": (lambda value: value & ~W, write(PAGE, 7)),
    "type-changed": (lambda value: value | PCD, read(PAGE)),
}
"""What becomes of the entry, and the access that comes out otherwise then."""

HARMLESS: dict[str, tuple[Callable[[int], int], bytes]] = {
    "the same again": (lambda value: value, read(PAGE)),
    "accessed flag cleared": (lambda value: value & ~A, read(PAGE)),
    "only reads are left": (lambda value: value & ~W, read(PAGE)),
    "a bit for software": (lambda value: value | 1 << 9, write(PAGE, 7)),
}


@pytest.mark.parametrize("rule", CHANGES)
@pytest.mark.parametrize("tlb", POLICIES)
def test_a_use_after_a_change_without_invlpg_is_found(rule: str, tlb: str) -> None:
    guests = Guests(tlb)
    change, use = CHANGES[rule]
    after = change(guests.value)
    found = guests.run([write(PAGE, 1), write(guests.leaf, after), use])
    assert [one.rule for one in found] == [rule]
    (one,) = found
    assert one.stage == "guest"
    assert one.missing == "INVLPG"
    assert one.place == guests.leaf
    assert one.before is not None
    assert one.after is not None
    assert one.after.value == after
    assert one.before.value & ~0x60 == guests.value & ~0x60
    assert one.modifier.level == "L1"
    assert one.modifier.address == SECOND_CODE + len(write(PAGE, 1))
    assert one.use is not None
    assert one.use.by.address == SECOND_CODE + len(write(PAGE, 1) + write(guests.leaf, after))
    assert one.use.linear == PAGE
    assert one.use.access == (1 if rule == "permission-cleared" else 0)


@pytest.mark.parametrize("rule", CHANGES)
@pytest.mark.parametrize("flush", [invlpg(PAGE), RELOAD_CR3], ids=["INVLPG", "MOV CR3"])
def test_the_same_with_an_invalidation_is_clean(rule: str, flush: bytes) -> None:
    guests = Guests()
    change, use = CHANGES[rule]
    code = [write(PAGE, 1), write(guests.leaf, change(guests.value)), flush, use]
    assert not guests.run(code)


@pytest.mark.parametrize("what", HARMLESS)
def test_changes_that_need_no_invalidation(what: str) -> None:
    guests = Guests()
    change, use = HARMLESS[what]
    assert not guests.run([write(PAGE, 1), write(guests.leaf, change(guests.value)), use])


def test_an_entry_that_becomes_present_needs_no_invalidation() -> None:
    guests = Guests()
    leaf, value = guests.leaf, guests.value
    assert not guests.run([write(leaf, 0), invlpg(PAGE), write(leaf, value), read(PAGE)])


def test_more_rights_need_no_invalidation() -> None:
    guests = Guests()
    leaf, value = guests.leaf, guests.value
    assert not guests.run([write(leaf, value & ~W), read(PAGE), write(leaf, value), read(PAGE)])


def test_an_entry_that_is_put_back_before_its_use() -> None:
    guests = Guests()
    leaf, value = guests.leaf, guests.value
    assert not guests.run([read(PAGE), write(leaf, 0), write(leaf, value), read(PAGE)])


def test_an_entry_written_in_halves_counts_as_it_is_in_the_end() -> None:
    guests = Guests()
    leaf, value = guests.leaf, guests.value
    halves = [write_half(leaf, 0), write_half(leaf + 4, 0), write_half(leaf, value | 1 << 9)]
    assert not guests.run([read(PAGE), *halves, read(PAGE)])


@pytest.mark.parametrize(("pat", "found"), [(0, []), (1 << 12, ["size-changed"])])
def test_a_large_page_in_the_place_of_small_ones(pat: int, found: list[str]) -> None:
    guests = Guests()
    large = PAGE & ~0x1F_FFFF | guests.value & 7 | A | 1 << 7 | pat
    findings = guests.run([read(PAGE), write(guests.entries[-2], large), read(PAGE)])
    assert [one.rule for one in findings] == found


def test_an_upper_entry_is_an_entry_too() -> None:
    guests = Guests()
    found = guests.run([read(PAGE), write(guests.entries[-2], 0), read(PAGE)])
    assert [one.rule for one in found] == ["not-present"]


def test_a_table_that_is_reused_before_the_invalidation() -> None:
    guests = Guests()
    reuse = write(guests.leaf, 0x1234_5007)
    found = guests.run([read(PAGE), write(guests.entries[-2], 0), reuse, read(PAGE)])
    assert [one.rule for one in found] == ["table-reused"]
    assert found[0].place == guests.leaf


def test_a_page_of_tables_that_is_rewritten_as_a_whole() -> None:
    guests = Guests()
    many = [write(guests.leaf + 8 * n, 0) for n in range(32)]
    found = guests.run([read(PAGE), read(PAGE + 0x1F000), *many, read(PAGE + 0x1F000)])
    assert [one.rule for one in found] == ["not-present"]
    assert found[0].place == guests.leaf + 8 * 0x1F


def test_a_deliberate_change_is_marked() -> None:
    guests = Guests()
    change = write(guests.leaf, guests.value ^ PAGE ^ OTHER)
    assert not guests.run([read(PAGE), mark(1), change, mark(0), read(PAGE)])


# Two processors

REMAP = OTHER ^ PAGE


def test_a_shootdown_that_waits_is_clean() -> None:
    guests = Guests(cpus=2)
    change = write(guests.leaf, guests.value ^ REMAP)
    first = [read(PAGE), change, invlpg(PAGE), write(REQUEST, 1), until(ACKNOWLEDGED, PAUSE)]
    first += [write(PAGE, 5), write(DONE, 1)]
    second = [until(REQUEST, read(PAGE)), invlpg(PAGE), write(ACKNOWLEDGED, 1)]
    second += [until(DONE, read(PAGE))]
    assert not guests.run(first, second)
    assert guests.pc.memory.load(DONE, 8) == 1


@pytest.mark.parametrize("tlb", POLICIES)
def test_a_processor_that_nobody_tells(tlb: str) -> None:
    guests = Guests(tlb, cpus=2)
    change = write(guests.leaf, guests.value ^ REMAP)
    first = [until(REQUEST, PAUSE), change, invlpg(PAGE), write(PAGE, 5), write(DONE, 1)]
    second = [read(PAGE), write(REQUEST, 1), until(DONE, read(PAGE)), read(PAGE)]
    found = guests.run(first, second)
    assert [one.rule for one in found] == ["address-changed"]
    (one,) = found
    assert one.use is not None
    assert (one.modifier.cpu, one.use.by.cpu) == (0, 1)
    assert "Multiple Processors" in one.citation
