"""Help teaches, and the listings list."""

import subprocess
import sys

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


COMMANDS = [
    "run",
    "compare",
    "pt walk",
    "pt read",
    "pt diff",
    "pt decode",
    "pt render",
    "zoo list",
    "zoo run",
    "demo shootdown",
    "fuzz",
    "images",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_statuses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    _, _, told = capsys.readouterr().out.partition("Exit status")
    statuses = [line.split()[0] for line in told.splitlines() if line.strip()[:1].isdigit()]
    assert {"0", "2", "70", "74", "130"} <= set(statuses)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("turducken ", {"run", "compare", "pt", "zoo", "demo", "fuzz", "bench", "images"}),
        ("turducken run --ti", {"--timeout"}),
        ("turducken pt ", {"walk", "dump", "decode", "render"}),
        ("turducken pt decode --", {"--as", "--json"}),
        ("turducken zoo run --", {"--all", "--form"}),
    ],
)
def test_a_shell_completes_all_commands(
    words: str,
    offered: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_TURDUCKEN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        run([])
    out, err = capsys.readouterr()
    assert offered <= set(out.split())
    assert err == ""


HEAVY = ["numpy", "unicorn", "rich", "elftools", "llvmlite", "pydantic", "turducken.system"]


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("--version", HEAVY),
        ("pt decode 0x37 --as ept.pte --json -", [one for one in HEAVY if one != "rich"]),
        (
            "run lhv-amd64 --max-instructions 1 -q",
            ["numpy", "rich", "pydantic", "turducken.check", "turducken.apps.trustvisor"],
        ),
    ],
)
def test_commands_import_what_they_need(command: str, unwanted: list[str]) -> None:
    script = (
        "import sys; from turducken.cli.entry import run; run(sys.argv[2:])\n"
        "print([one for one in sys.argv[1].split(',') if one in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(unwanted), *command.split()],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([option]) == 0
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
