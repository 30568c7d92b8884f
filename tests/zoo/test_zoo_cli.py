"""``turducken zoo``: what it prints, what it writes, and how it ends."""

import json
from pathlib import Path

import pytest

from turducken.cli.entry import run
from turducken.zoo import SCENARIOS

DOCS = Path(__file__).parents[2] / "docs"
NAME = "page-reused-before-invept"


def keys_of(value: object) -> set[str]:
    """Return all keys but those inside findings, which are those of ``turducken run``."""
    if isinstance(value, dict):
        value = {**value, "findings": None} if "findings" in value else value
        return set(value) | {key for one in value.values() for key in keys_of(one)}
    if isinstance(value, list):
        return {key for one in value for key in keys_of(one)}
    return set()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "list"]) == 0
    out = capsys.readouterr().out
    for name in SCENARIOS:
        assert f" {name} " in out


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "list", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)["scenarios"]
    assert [one["name"] for one in listed] == list(SCENARIOS)


def test_show_tells_the_story_and_how_to_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "show", "page-above-4-gib"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    scenario = SCENARIOS["page-above-4-gib"]
    for text in (scenario.story, scenario.faulty, scenario.fixed, "narrow_type_setter"):
        assert text in out


def test_the_story_comes_before_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", NAME]) == 0
    out = " ".join(capsys.readouterr().out.split())
    scenario = SCENARIOS[NAME]
    parts = (scenario.story, scenario.faulty, "caught", scenario.failure, scenario.fixed, "clean")
    places = [out.index(part) for part in parts]
    assert places == sorted(places)


def test_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", NAME, "--form", "fixed"]) == 0
    out = capsys.readouterr().out
    assert "clean" in out
    assert "faulty:" not in out


def test_a_mistake_that_is_not_seen_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", "table-reused-before-invept", "--mode", "nested"]) == 1
    assert "NOT CAUGHT" in capsys.readouterr().out


def test_the_sanitizer_tells_what_the_tlb_hides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", "invept-type-0", "--tlb", "drop"]) == 0
    out = capsys.readouterr().out
    assert "caught by the sanitizer" in out
    assert "Missing INVEPT" in out


def test_results_as_json_have_the_documented_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zoo.json"
    assert run(["zoo", "run", NAME, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["behaved"] is True
    (one,) = record["scenarios"]
    assert one["name"] == NAME
    assert SCENARIOS[NAME].failure in one["forms"]["faulty"]["evidence"][0]
    assert [x["rule"] for x in one["forms"]["faulty"]["findings"] if x["kind"] == "missing"] == [
        SCENARIOS[NAME].rule
    ]
    assert one["forms"]["fixed"]["evidence"] == []
    assert all(x["kind"] == "useless" for x in one["forms"]["fixed"]["findings"])
    capsys.readouterr()
    run(["zoo", "list", "--json", "-"])
    used = keys_of(record) | keys_of(json.loads(capsys.readouterr().out))
    documented = (DOCS / "json.md").read_text().split("## `turducken zoo`")[1]
    assert [key for key in sorted(used) if f"`{key}`" not in documented] == []


def test_json_on_standard_output_is_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", NAME, "--form", "faulty", "--json", "-"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "page-reused"], "did you mean page-reused-before-invept"),
        (["show", "nothing-like-it"], "no scenario of the zoo"),
        (["run"], "give the NAME of a scenario, or --all"),
        (["run", NAME, "--all"], "give the NAME of a scenario, or --all"),
        (["run", NAME, "--tlb", "sieve"], "TLB policy 'sieve'"),
        (["run", NAME, "--form", "broken"], "broken"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["zoo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["zoo", "--help"], ["zoo", "run", "--help"]):
        assert run(arguments) == 0
        assert "Examples" in capsys.readouterr().out


@pytest.mark.slow
def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "run", "--all"]) == 0
    out = capsys.readouterr().out
    assert f"{len(SCENARIOS)} of {len(SCENARIOS)} scenarios behaved as expected" in out
