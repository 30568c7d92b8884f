"""Runs end well: by signals, by their time, and when what they write cannot be written."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_images import SPIN, leave, say, tiny, tiny_file

from turducken.cli.ending import ended_from_outside
from turducken.cli.entry import run
from turducken.cli.output import written_file
from turducken.system import Mode, Outcome, System, SystemOptions

UNCLAIMED = b"\xa1\x00\x00\x00\xd0\xeb\xf9"
"""mov eax, [d0000000h]; and again: nothing is there"""
CPUIDS = b"\x0f\xa2\xeb\xfc"
PORTS = b"\xe4\x80\xeb\xfc"
"""in al, 80h; and again"""
LOOPS = {"spin": SPIN, "memory": UNCLAIMED, "cpuid": CPUIDS, "ports": PORTS}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "turducken", *map(str, arguments)]


@contextmanager
def started(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # The command leaves a hang-up ignored that is ignored when it starts, as under nohup.
    process = subprocess.Popen(
        ["env", "--default-signal=HUP", *command(*arguments)], text=True, **pipes
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def write(path: Path, code: bytes) -> Path:
    path.write_bytes(tiny_file(code))
    return path


@pytest.mark.parametrize(
    ("loop", "mode", "number", "name"),
    [
        ("spin", "bare", 2, "SIGINT"),
        ("memory", "bare", 15, "SIGTERM"),
        ("memory", "nested", 2, "SIGINT"),
        ("cpuid", "nested", 1, "SIGHUP"),
        ("ports", "nested", 15, "SIGTERM"),
    ],
)
def test_a_signal_ends_a_run_and_everything_is_told(
    loop: str, mode: str, number: int, name: str, tmp_path: Path
) -> None:
    image = write(tmp_path / "image", say("looping\n") + LOOPS[loop])
    record, snapshot = tmp_path / "json", tmp_path / "core"
    outputs = ("--json", record, "--snapshot", snapshot)
    with started("run", image, "--mode", mode, "--memory", "16M", *outputs) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "looping\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    assert f"interrupted ({name})" in out
    told = json.loads(record.read_text())
    assert (told["outcome"], told["signal"]) == ("interrupted", name)
    assert told["console"] == "looping\n"
    assert snapshot.stat().st_size > 16 << 20


def test_a_signal_before_the_run_begins_is_not_lost(tmp_path: Path) -> None:
    image, pipe, record = write(tmp_path / "image", SPIN), tmp_path / "pipe", tmp_path / "json"
    os.mkfifo(pipe)
    outputs = ["--json", record, "--report", tmp_path / "page.html", "--trace", tmp_path / "t.json"]
    with started("run", image, "--module", pipe, *outputs) as process:
        with open(pipe, "wb") as module:  # opens once turducken reads it
            process.send_signal(15)
            module.write(b"x")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "")
    assert "interrupted (SIGTERM)" in out
    told = json.loads(record.read_text())
    assert (told["outcome"], told["instructions"]) == ("interrupted", 0)
    assert (tmp_path / "page.html").read_text().endswith("</html>\n")
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_other_commands_just_leave(tmp_path: Path) -> None:
    image, pipe = write(tmp_path / "image", SPIN), tmp_path / "pipe"
    os.mkfifo(pipe)
    with started("compare", image, "--module", pipe) as process:
        with open(pipe, "wb"):
            process.send_signal(2)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("mode", ["bare", "nested"])
@pytest.mark.parametrize("loop", ["spin", "memory"])
def test_a_run_has_a_time(loop: str, mode: str, tmp_path: Path) -> None:
    image, record = write(tmp_path / "image", LOOPS[loop]), tmp_path / "json"
    arguments = ["run", str(image), "--mode", mode, "-q", "--timeout", "0.05"]
    assert run([*arguments, "--json", str(record)]) == 3
    assert json.loads(record.read_text())["outcome"] == "timeout"


def test_what_does_not_end_when_asked_is_cut_short() -> None:
    system = System(SystemOptions(tiny(SPIN), Mode.BARE, memory=16 << 20))

    def never_ends() -> None:
        while True:
            pass

    with ended_from_outside(system, 0.01):
        assert system.run(on_turn=never_ends).outcome is Outcome.TIMEOUT


# Output files


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    image, record = write(tmp_path / "image", leave(0)), tmp_path / "json"
    record.write_text("older")
    record.chmod(0o640)
    arguments = ["--json", str(record), "-q"]
    assert run(["run", str(tmp_path / "none"), *arguments]) == 2
    assert run(["run", str(image), *arguments, "--snapshot", "/no/such/place"]) == 2
    assert record.read_text() == "older"
    with pytest.raises(ZeroDivisionError), written_file("--json", str(record)) as file:
        file.write(bytes(100 // (len(arguments) - 3)))
    assert record.read_text() == "older"
    assert run(["run", str(image), *arguments]) == 0
    assert json.loads(record.read_text())["outcome"] == "guest-exit"
    assert stat.S_IMODE(record.stat().st_mode) == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["image", "json"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    image, link = write(tmp_path / "image", leave(0)), tmp_path / "link"
    link.symlink_to(tmp_path / "json")
    assert run(["run", str(image), "-q", "--json", str(link), "--console", "/dev/null"]) == 0
    assert link.is_symlink()
    assert (tmp_path / "json").exists()


@pytest.mark.parametrize("option", ["--json", "--console", "--snapshot"])
def test_a_full_disk_is_one_line(
    option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = write(tmp_path / "image", say("hello\n") + leave(0))
    assert run(["run", str(image), "-q", option, "/dev/full"]) == 74
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"turducken: {option} /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "redirection", "reason"),
    [
        ("run IMAGE", ">/dev/full", "No space left on device"),
        ("run IMAGE", ">&-", "Bad file descriptor"),
        ("run IMAGE", "| head -1", "Broken pipe"),
        ("run IMAGE --json -", ">/dev/full", "No space left on device"),
        ("images", ">&-", "Bad file descriptor"),
    ],
)
def test_standard_output_that_cannot_be_written(
    words: str, redirection: str, reason: str, tmp_path: Path
) -> None:
    image = write(tmp_path / "image", b"".join(say("line\n") for _ in range(300)) + leave(0))
    line = " ".join(command(*words.replace("IMAGE", str(image)).split()))
    done = subprocess.run(
        f"{line} {redirection}", check=False, shell=True, capture_output=True, timeout=60
    )
    if redirection.startswith(">"):
        assert done.returncode == 74
    elif not done.stderr:
        return  # all of it went into the pipe before the reader closed it
    assert done.stderr.decode() == f"turducken: standard output: {reason}\n"
