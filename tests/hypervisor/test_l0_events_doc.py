"""docs/events.md: each row of its tables names tests, and these exist."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from test_l0_faults import NOTICES

ROOT = Path(__file__).parents[2]
LHV = ROOT / "guests" / "lhv" / "tests"


def rows() -> list[tuple[str, str]]:
    """Return the first and the last cell of each row."""
    found = []
    for line in (ROOT / "docs" / "events.md").read_text().splitlines():
        cells = [one.strip() for one in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "event" and set(cells[0]) != {"-"}:
            found.append((cells[0], cells[-1]))
    return found


ROWS = rows()


def names_in_lhv() -> set[str]:
    """Return every quoted word of lhv's tests: the names of tests are among them."""
    text = "".join(one.read_text() for one in LHV.glob("*.c"))
    return set(re.findall(r'"([a-z0-9][a-z0-9-]*)"', text))


def functions_in(path: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))


def test_there_are_rows() -> None:
    assert len(ROWS) > 25


@pytest.mark.parametrize(("event", "tests"), ROWS, ids=[event for event, _ in ROWS])
def test_a_row_names_tests_that_exist(event: str, tests: str) -> None:
    links = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", tests)
    for name, target in links:
        path = (ROOT / "docs" / target).resolve()
        assert path.is_file(), target
        assert path.name == name
    names = re.findall(r"`([^`]+)`", tests)
    assert names, "no test"
    known = {one for _, target in links for one in functions_in(ROOT / "docs" / target)}
    lhv = names_in_lhv()
    files = {name for name, _ in links}
    for name in names:
        if name in files:
            continue
        if name.startswith("test_"):
            assert name in known, name
        elif name in NOTICES:
            assert "test_l0_faults.py" in files
        else:
            assert any(fnmatch(one, name) for one in lhv), name
