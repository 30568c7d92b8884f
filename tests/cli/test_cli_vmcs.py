"""``turducken vmcs``, and what else of a VMCS commands show."""

import json
from pathlib import Path

import pytest

from turducken.cli.entry import run


@pytest.fixture(scope="module", params=["bare", "nested"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("snapshot") / "machine.core")
    arguments = ["lhv-amd64", "--mode", request.param, "--cmdline", "tests=ept-note-page"]
    assert run(["run", *arguments, "--quiet", "--snapshot", path]) == 0
    return path


def test_fields_have_names_and_meanings(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vmcs", snapshot]) == 0
    out = capsys.readouterr().out
    assert "launched" in out
    assert "Exit reason = 0x00000012 (VMCALL)" in out
    assert "Guest CS access rights" in out
    assert "VMCS link pointer = 0xffffffffffffffff (none)" in out
    assert run(["vmcs", snapshot, "--all", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fields"]["TSC offset"]["value"] == 0
    assert run(["vmcs", snapshot, hex(told["region"])]) == 0


def test_what_is_not_there_is_one_line(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("cpu7.vmcs", "0x123", "0xffffffff000"):
        assert run(["vmcs", snapshot, wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_bare_snapshot_knows_the_ept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "machine.core")
    options = ["--mode", "bare", "--cmdline", "tests=ept-note-page", "--quiet"]
    assert run(["run", "lhv-amd64", *options, "--snapshot", path]) == 0
    assert run(["pt", "walk", path, "0x1234000", "--via", "cpu0.ept", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] is not None


def test_the_summary_of_a_failed_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    mistake = ["run", "mistakes-amd64", "--cmdline", "mistake=guest-cs-is-data", "--mode", "bare"]
    assert run(mistake) == 1
    out = capsys.readouterr().out
    assert "turducken: L1 on cpu0" in out
    why = out[out.index("why  VMLAUNCH") :]
    for words in ("guest.segments.cs-type", "allowed:", "SDM 3C", "RSP", "VMCS at", "--vmcs: all"):
        assert words in why
    assert run([*mistake, "--explain", "none", "--vmcs"]) == 1
    out = capsys.readouterr().out
    assert "guest.segments.cs-type" not in out
    assert "Host GDTR base" in out


def test_diagnoses_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake = ["run", "mistakes-amd64", "--cmdline", "mistake=eptp-is-the-root-address"]
    assert run([*mistake, "--json", "-"]) == 1
    told = json.loads(capsys.readouterr().out)
    first = told["diagnoses"][0]
    assert first["fatal"]
    assert first["level"] == "L1"
    assert first["rules"][0]["id"] == "controls.execution.eptp-walk-length"
    assert first["rules"][0]["fields"][0]["name"] == "EPT pointer (EPTP)"
    assert told["cpus"][0]["level"] == "L1"
    assert told["cpus"][0]["vmcs"]["name"] == "VMCS12"
    assert run([*mistake, "--json", "-", "--explain", "none"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnoses"] is None
