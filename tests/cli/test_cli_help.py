"""Help teaches, and the listings list."""

import pytest

from turducken.cli.entry import run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_commands_and_examples(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    out = capsys.readouterr().out
    for word in ("run", "images", "profiles", "pt", "Examples", "turducken run"):
        assert word in out


@pytest.mark.parametrize("command", ["run", "images", "profiles", "pt"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage: turducken " + command in " ".join(capsys.readouterr().out.split())


def test_help_of_run_tells_the_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    run(["run", "--help"])
    out = capsys.readouterr().out
    assert "Exit status" in out
    assert "--until matched" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("turducken 0.")


def test_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["images"]) == 0
    out = capsys.readouterr().out
    for name in ("lhv-amd64", "lhv-i386", "lhv-i386-pae"):
        assert f"{name} " in out


def test_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles"]) == 0
    out = capsys.readouterr().out
    for name in ("default", "haswell", "sandybridge", "skylake", "minimal"):
        assert f"{name} " in out


def test_a_command_without_its_arguments_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pt"]) == 2
    assert "walk" in capsys.readouterr().out
