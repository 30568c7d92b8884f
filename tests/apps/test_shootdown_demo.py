"""``turducken demo shootdown``: the hole shows where it must, and nowhere else."""

import json

import pytest

from turducken.cli.entry import run


@pytest.mark.parametrize(
    ("sharing", "shown_by"), [("one", {"keep"}), ("copied", {"keep", "broadcast"})]
)
def test_who_shows_the_hole(
    sharing: str, shown_by: set[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "shootdown", "--json", "-", "--sharing", sharing]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["as_told"]
    leaks = {(one["tlb_policy"], one["shootdown"]) for one in record["runs"] if one["leak"]}
    assert leaks == {(one, False) for one in shown_by}
    assert {one["tlb_policy"] for one in record["runs"]} == {"keep", "transitions", "broadcast"}
    assert len(record["runs"]) == 6
    assert all(bool(one["missing_invalidations"]) != one["shootdown"] for one in record["runs"])
    seen = next(one for one in record["runs"] if one["leak"])
    assert seen["read"] == seen["secret"] != seen["before"]
    assert seen["written"]
    assert seen["inside"] != seen["secret"]


def test_the_table_tells_the_story(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "shootdown"]) == 0
    out = capfd.readouterr().out
    assert out.count(": the secret") == 1
    assert "shootdown" in out
    assert "refused" in out
    assert out.count("missing INVEPT") == 3
