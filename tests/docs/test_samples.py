"""What README and docs show of commands is what the commands print now.

A sample is a fenced block that begins with ``$ turducken ...``. ``...`` stands for what is left
out; lines may be wrapped otherwise, and times, addresses and large numbers are not compared.
"""

import re
import shlex
from pathlib import Path

import pytest

from turducken.cli.entry import run

ROOT = Path(__file__).parents[2]
_SAMPLES = ROOT / "src" / "turducken" / "paging" / "samples"
_BLOCK = re.compile(
    r"^```(?:console)?\n\$ (?:\.venv/bin/)?turducken ([^\n]*)\n(.*?)^```$", re.M | re.S
)
_HOST_TIMES = re.compile(r"in [\d.]+ [mu]?s \([\d.]+ million instructions/s\)")
_AMOUNTS = re.compile(r"[\d.,]+ (?:[kMG] )?(?=instructions|[mun]?s of guest time)")
_ADDRESSES = re.compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]*[0-9][0-9a-f]{4,})\b")
_NUMBERS = re.compile(r"\b[\d,]{2,}\b")
FILES = ["README.md", "docs/first-hypervisor.md", "docs/pt.md"]


def samples() -> list[tuple[str, str, str]]:
    found = []
    for name in FILES:
        for command, output in _BLOCK.findall((ROOT / name).read_text()):
            found.append((name, command, output))
    return found


def plain(text: str) -> str:
    """Return text on one line, without rules, indentation, and what changes for other reasons.

    That is the host's speed, and where code and data of an image are after it was built again.
    """
    text = _AMOUNTS.sub("SOME ", _HOST_TIMES.sub("in TIME", text))
    text = _NUMBERS.sub("NUMBER", _ADDRESSES.sub("ADDRESS", text))
    return " ".join(re.sub(r"[─━]+", " ", text).split())


def missing(sample: str, output: str) -> str | None:
    """Return the first part of a sample that the output does not have at its place."""
    told, at = plain(output), 0
    parts = [plain(one) for one in re.split(r"\.\.\.", sample)]
    for number, part in enumerate(one for one in parts):
        place = told.find(part, at)
        if place < 0 or (number == 0 and place > 0 and part):
            return part
        at = place + len(part)
    if parts[-1] and at != len(told):
        return "the end"
    return None


@pytest.mark.parametrize(("file", "command", "sample"), samples(), ids=lambda one: one[:50])
def test_a_sample_is_what_the_command_prints(
    file: str,
    command: str,
    sample: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(_SAMPLES)
    assert run(shlex.split(command)) in (0, 1)
    output = capfd.readouterr().out
    assert missing(sample, output) is None, f"{file} shows something else of: {command}\n{output}"


def test_the_first_hypervisor(capfd: pytest.CaptureFixture[str]) -> None:
    for mode in ("bare", "nested"):
        assert run(["run", "first-amd64", "--mode", mode, "--console", "-"]) == 0
        out = capfd.readouterr().out
        assert "exit reason 18" in out
        assert "step 5: EPT violation at 40000000, qualification 181" in out
        read = [line.split()[-1] for line in out.splitlines() if "has read" in line]
        assert read == ["73726966", "11111111", "22222222"]


def test_there_are_samples() -> None:
    files = [name for name, _, _ in samples()]
    assert all(files.count(name) >= least for name, least in zip(FILES, (2, 7, 1), strict=True))


def test_the_comparison_catches_what_is_wrong() -> None:
    output = "one\ntwo   2\nthree\nrun in 3.4 ms (1.0 million instructions/s)\n"
    assert missing("one\n...\nthree\nrun in 9 s (2 million instructions/s)\n", output) is None
    assert missing("one two 2\nthree\n...", output) is None
    for wrong in ("two\n...", "one\n...\nfour\n...", "one\n", "one\n...\nthree\n", ""):
        assert missing(wrong, output) is not None or not wrong
