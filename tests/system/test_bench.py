"""`turducken bench`: its workloads, its records, its picture, its command line; not its speed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turducken.cli.bench import app
from turducken.cli.errors import InputError
from turducken.report.bench import suite
from turducken.report.bench.plot import charts, svg
from turducken.report.bench.records import Aim, Measurement, measurements_as_list
from turducken.report.bench.view import row
from turducken.report.bench.workloads import bench_options, run_workload
from turducken.system import Mode

_KEYS = {"group", "name", "value", "unit", "ratio", "to", "aim", "met", "note"}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("name", "rounds"),
    [("calls", 1000), ("static", 10), ("remapping", 10), ("roots", 10), ("l2-short", 1_000_000)],
)
def test_a_workload_says_when_it_began_and_ended(name: str, rounds: int, mode: Mode) -> None:
    timing = run_workload(bench_options(mode), name, 1)
    assert timing.rounds == rounds
    assert timing.seconds > 0
    assert (timing.frames > 0) == (mode is Mode.NESTED)


def test_a_round_trip_takes_one_exit_bare_and_two_nested() -> None:
    exits = [run_workload(bench_options(mode), "calls", 1).exits for mode in Mode]
    assert [round(one / 1000) for one in exits] == [1, 2]


def _policies() -> Iterator[Measurement]:
    for workload in ("static", "roots"):
        for name, ratio in (("bare", None), ("lazy", 2.0)):
            group = f"policies: {workload}"
            yield Measurement(group, name, 10.0, "us/round", to="bare", ratio=ratio)
            yield Measurement(group, f"{name}, exits", 3.0, "exits/round")


def test_records_have_the_documented_keys() -> None:
    some = [
        Measurement("g", "plain", 1.0, "s"),
        Measurement("g", "aimed", 2.0, "s", to="plain", ratio=2.0, aim=Aim(1.5, is_upper=True)),
    ]
    plain, aimed = measurements_as_list(some)
    assert plain.keys() == aimed.keys() == _KEYS
    assert (plain["ratio"], plain["aim"], plain["met"]) == (None, None, None)
    assert (aimed["aim"], aimed["met"]) == ("< 1.5", False)
    documented = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    chapter = documented.split("## `turducken bench`")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", chapter)) >= _KEYS
    assert "missed" in row(some[1])


def test_the_picture_has_a_bar_for_each_policy_and_workload() -> None:
    time, exits = charts(_policies())
    assert time.groups["static"] == {"bare": 1.0, "lazy": 2.0}
    assert exits.groups["roots"] == {"bare": 3.0, "lazy": 3.0}
    picture = svg(_policies())
    assert picture.count("<rect") == 2 * 4 + 2
    assert svg([Measurement("g", "plain", 1.0, "s")]) == ""


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"calls": lambda: iter([Measurement("g", "n", 1.0, "s")]), "policies": _policies}
    monkeypatch.setattr("turducken.cli.bench.GROUPS", groups)


@pytest.mark.usefixtures("_quick")
def test_the_command(tmp_path: Path) -> None:
    where = tmp_path / "p.svg"
    ran = CliRunner().invoke(app, ["calls", "policies", "--json", "-", "--plot", str(where)])
    assert ran.exit_code == 0
    assert len(json.loads(ran.stdout)["measurements"]) == 9
    assert where.read_text().startswith("<svg")
    ran = CliRunner().invoke(app, ["calls"])
    assert ran.stdout.split() == ["g", "n", "1.000", "s"]


@pytest.mark.usefixtures("_quick")
def test_comparison_with_an_earlier_run(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    CliRunner().invoke(app, ["calls", "--json", str(old)])
    record = json.loads(old.read_text())
    record["measurements"][0]["value"] = 4.0
    old.write_text(json.dumps(record))
    ran = CliRunner().invoke(app, ["calls", "policies", "--compare", str(old)])
    changed = [line for line in ran.stdout.splitlines() if "times that" in line]
    (line,) = changed
    assert line.split()[:2] == ["n", "1.000"]
    assert line.endswith("; was 4.000, now 0.25 times that")


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"measurements": [{}]}'])
def test_comparison_with_something_else(tmp_path: Path, content: str | None) -> None:
    old = tmp_path / "old.json"
    if content is not None:
        old.write_text(content)
    ran = CliRunner().invoke(app, ["calls", "--compare", str(old)])
    assert ran.exit_code != 0
    assert isinstance(ran.exception, InputError)


@pytest.mark.parametrize("name", suite._TRAPS)
def test_a_workload_of_traps(name: str) -> None:
    assert run_workload(bench_options(Mode.BARE), name, 1).rounds == 1000


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("arguments", [["nonsense"], ["calls", "--plot", "p.svg"]])
def test_bad_input(arguments: list[str]) -> None:
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code != 0


def test_every_group_is_there() -> None:
    assert set(suite.GROUPS) >= {"loops", "calls", "traps", "memory", "policies", "boot", "pt"}
