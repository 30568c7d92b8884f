"""``turducken run --snapshot``: what it writes, `pt` reads through all tables."""

import json
from pathlib import Path

import pytest

from turducken.cli.entry import run

NOTE_PAGE = 0x1234000
RUN = ["run", "lhv-amd64", "--cmdline", "tests=ept-note-page", "--quiet", "--snapshot"]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("snapshot") / "machine.core")
    assert run([*RUN, path]) == 0
    return path


def output(snapshot: str, via: str, capfd: pytest.CaptureFixture[str]) -> int:
    capfd.readouterr()
    assert run(["pt", "walk", snapshot, hex(NOTE_PAGE), "--via", via, "--json", "-"]) == 0
    return int(json.loads(capfd.readouterr().out)["output"], 16)


def test_the_shadow_leads_where_both_tables_lead(
    snapshot: str, capfd: pytest.CaptureFixture[str]
) -> None:
    both = output(snapshot, "cpu0.ept12,cpu0.ept01", capfd)
    assert both == output(snapshot, "cpu0.ept02", capfd)
    assert both != NOTE_PAGE


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*RUN, str(tmp_path)]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "--snapshot" in err
