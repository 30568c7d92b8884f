"""``--watch``: where an address leads, and what stops it."""

import json

import pytest

from turducken.cli.entry import run

NOTE = "0x1234000"


def watched(
    capsys: pytest.CaptureFixture[str], address: str, mode: str, text: str = "tests=ept-note-page"
) -> list[dict]:
    arguments = ["lhv-amd64", "--mode", mode, "--cmdline", text, "--watch", address]
    assert run(["run", *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)["journeys"]


@pytest.mark.parametrize(("mode", "table"), [("bare", "EPT"), ("nested", "EPT12")])
def test_an_address_that_leads_nowhere_is_told_up_to_the_entry(
    capsys: pytest.CaptureFixture[str], mode: str, table: str
) -> None:
    (way,) = watched(capsys, "0x7000000000", mode)
    (stage, *_) = way["stages"]
    assert stage["table"] == table
    assert stage["outcome"] == "not present"
    assert stage["output"] is None
    assert stage["entries"][-1]["value"] == 0


@pytest.mark.parametrize(("mode", "tables"), [("bare", {"EPT"}), ("nested", {"EPT12", "EPT01"})])
def test_an_address_that_l2_uses(
    capsys: pytest.CaptureFixture[str], mode: str, tables: set[str]
) -> None:
    way = watched(capsys, NOTE, mode)[0]
    assert tables <= {one["table"] for one in way["stages"]}
    assert not way["is_past"] or mode == "nested"
    assert way["stages"][0]["output"] is not None


@pytest.mark.parametrize("mode", ["bare", "nested"])
def test_without_a_guest_there_is_no_table(capsys: pytest.CaptureFixture[str], mode: str) -> None:
    (way,) = watched(capsys, NOTE, mode, text="list")
    assert way["stages"][0]["entries"] == []
    assert way["stages"][0]["outcome"].startswith("no ")


def test_an_older_chain_is_never_in_the_place_of_the_present_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ways = watched(capsys, NOTE, "nested", text="tests=ept-note-page,ept-identity")
    assert not ways[0]["is_past"] or len(ways) == 1
    if len(ways) > 1:
        assert ways[1]["is_past"]
        assert ways[0]["stages"][0] != ways[1]["stages"][0]
