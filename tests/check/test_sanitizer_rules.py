"""Which changes of an entry need an invalidation, row by row of the manual's lists."""

import pytest

from turducken.check.rules import classify
from turducken.paging.formats import EPT, PAGING_4LEVEL, PAGING_32, Features

EPT_FORMAT, LONG, LEGACY = (one.bind(Features()) for one in (EPT, PAGING_4LEVEL, PAGING_32))
PAGE = 0x123_4000
UC, WB, IPAT, LARGE, A, D, SVE = 0, 6 << 3, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 63
R, W, X = 1, 2, 4
LEAF, TABLE = 3, 2

EPT_ROWS = [
    (LEAF, 7 | WB, 0, "permission-cleared"),
    (LEAF, 7 | WB, 5 | WB, "permission-cleared"),
    (LEAF, 7 | WB, 3 | WB, "permission-cleared"),
    (TABLE, 7, 5, "permission-cleared"),
    (LEAF, 7 | WB, 7 | WB | 0x1000, "address-changed"),
    (TABLE, 7, 7 | 0x1000, "address-changed"),
    (TABLE, 7, 7 | LARGE | WB, "size-changed"),
    (TABLE, 7 | LARGE | WB, 7, "size-changed"),
    (LEAF, 7 | WB, 7 | UC, "type-changed"),
    (LEAF, 7 | WB, 7 | WB | IPAT, "type-changed"),
    (LEAF, 7 | WB | A | D, 7 | WB | D, "accessed-cleared"),
    (TABLE, 7 | A, 7, "accessed-cleared"),
    (LEAF, 7 | WB | A | D, 7 | WB | A, "dirty-cleared"),
    (LEAF, 5 | WB, 7 | WB, None),
    (LEAF, R | WB, R | X | WB, None),
    (LEAF, 7 | WB, 7 | WB | A | D, None),
    (LEAF, 7 | WB, 7 | WB | SVE, None),
    (TABLE, 7, 7 | 1 << 11, None),
]


@pytest.mark.parametrize(("level", "before", "after", "rule"), EPT_ROWS)
def test_ept_entries(level: int, before: int, after: int, rule: str | None) -> None:
    assert classify(EPT_FORMAT, level, before | PAGE, after | PAGE, flags=True) == rule


@pytest.mark.parametrize("cleared", [A, D])
def test_flags_that_are_not_in_use_may_be_cleared(cleared: int) -> None:
    before = 7 | WB | A | D | PAGE
    assert classify(EPT_FORMAT, LEAF, before, before & ~cleared, flags=False) is None


P, RW, US, PWT, PCD, ACCESSED, DIRTY, PS, PAT, G, XD = (
    1 << n for n in (0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 63)
)
KEY = 3 << 59
ALL = P | RW | US

GUEST_ROWS = [
    (LEAF, ALL, ALL & ~P, "not-present"),
    (TABLE, ALL, 0, "not-present"),
    (LEAF, ALL, ALL & ~RW, "permission-cleared"),
    (LEAF, ALL, ALL & ~US, "permission-cleared"),
    (LEAF, ALL, ALL | XD, "permission-cleared"),
    (TABLE, ALL, ALL & ~RW, "permission-cleared"),
    (LEAF, ALL, ALL | 0x1000, "address-changed"),
    (TABLE, ALL, ALL | PS, "size-changed"),
    (TABLE, ALL | PS, ALL, "size-changed"),
    (LEAF, ALL, ALL | PCD, "type-changed"),
    (LEAF, ALL, ALL | PAT, "type-changed"),
    (LEAF, ALL, ALL | KEY, "key-changed"),
    (LEAF, ALL & ~RW, ALL, None),
    (LEAF, ALL & ~US, ALL, None),
    (LEAF, ALL | XD, ALL, None),
    (LEAF, ALL | ACCESSED | DIRTY, ALL, None),
    (LEAF, ALL, ALL | ACCESSED | DIRTY, None),
    (LEAF, ALL | G, ALL, None),
    (TABLE, ALL, ALL | PCD | PWT, None),
]


@pytest.mark.parametrize(("level", "before", "after", "rule"), GUEST_ROWS)
def test_entries_of_a_guest(level: int, before: int, after: int, rule: str | None) -> None:
    base = 0x120_0000 if level == TABLE else PAGE
    assert classify(LONG, level, before | base, after | base, flags=False) == rule


def test_entries_of_32_bits_have_no_keys_and_no_execute_disable() -> None:
    assert classify(LEGACY, 1, PAGE | ALL, PAGE | ALL & ~RW, flags=False) == "permission-cleared"
    assert classify(LEGACY, 1, PAGE | ALL, PAGE | ALL | G, flags=False) is None
