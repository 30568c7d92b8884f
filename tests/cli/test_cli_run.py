"""``turducken run`` as a user types it: outputs, statuses, and one line for every mistake."""

import gzip
import json
from pathlib import Path

import pytest
from tiny_images import SPIN, UNDEFINED, leave, say, tiny_file

from turducken.cli.entry import run

KEYS = {"outcome", "guest_exit_code", "cpus", "host_seconds", "mips", "tlb", "console"}


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "hello.bin"
    path.write_bytes(tiny_file(say("hello\n") + leave(0)))
    return str(path)


def write(path: Path, code: bytes) -> str:
    path.write_bytes(tiny_file(code))
    return str(path)


def test_console_and_summary_on_standard_output(
    image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", image]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("hello\n")
    assert "the guest ended the run with 0 (success)" in out
    assert err == ""
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_quiet_prints_nothing(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", image, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_console_alone(image: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["run", image, "--console", "-"]) == 0
    assert capfdbinary.readouterr() == (b"hello\n", b"")


def test_console_in_a_file(image: str, tmp_path: Path) -> None:
    assert run(["run", image, "-q", "--console", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == b"hello\n"


def test_json_alone(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", image, "--json", "-"]) == 0
    out, _ = capfd.readouterr()
    result = json.loads(out)
    assert set(result) >= KEYS
    assert (result["outcome"], result["guest_exit_code"]) == ("guest-exit", 0)
    assert result["console"] == "hello\n"
    (cpu,) = result["cpus"]
    assert cpu["instructions"] > 0
    assert isinstance(cpu["exits"], dict)
    assert set(result["tlb"]) >= {"hits", "misses", "invalidations"}


def test_json_and_console_in_files(image: str, tmp_path: Path) -> None:
    json_file, console = tmp_path / "json", tmp_path / "console"
    assert run(["run", image, "--json", str(json_file), "--console", str(console)]) == 0
    assert json.loads(json_file.read_text())["console"].encode() == console.read_bytes()


@pytest.mark.parametrize(
    ("code", "options", "status", "outcome"),
    [
        (leave(0), [], 0, "guest-exit"),
        (leave(3), [], 1, "guest-exit"),
        (UNDEFINED, [], 1, "triple-fault"),
        (b"\xfa\xf4", [], 1, "halted"),
        (SPIN, ["--max-instructions", "50000"], 3, "limit"),
        (say("ab\n") + SPIN, ["--until", "a", "--max-instructions", "9999999"], 0, "until"),
        (say("ab\n") + SPIN, ["--fail-on", "b$", "--max-instructions", "9999999"], 1, "fail-on"),
    ],
)
@pytest.mark.parametrize("mode", ["bare", "nested"])
def test_statuses(
    code: bytes, options: list[str], status: int, outcome: str, mode: str, tmp_path: Path
) -> None:
    arguments = ["run", write(tmp_path / "image", code), "--mode", mode, "-q", *options]
    assert run([*arguments, "--json", str(tmp_path / "json")]) == status
    result = json.loads((tmp_path / "json").read_text())
    assert result["outcome"] == outcome
    assert (result["guest_exit_code"] is None) == (outcome != "guest-exit")


def test_an_image_in_gzip(tmp_path: Path) -> None:
    path = tmp_path / "image.gz"
    path.write_bytes(gzip.compress(tiny_file(leave(0))))
    assert run(["run", str(path), "-q"]) == 0


def test_command_line_and_modules_reach_the_image(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "module:with colon"
    module.write_bytes(b"x")
    arguments = ["run", "lhv-amd64", "--cmdline", "tests=vmcall", "--module", f"{module}"]
    assert run([*arguments, "--module", f"{tmp_path / 'image'}:text"]) == 2
    assert "image: No such file" in capfd.readouterr().err
    long = "x" * 5000
    assert run([*arguments, "--module", f"{tmp_path / 'module'}:{long}"]) == 2
    assert "module: No such file" in capfd.readouterr().err
    (tmp_path / "other").write_bytes(b"y")
    assert run([*arguments, "--module", f"{tmp_path / 'other'}:{long}", "--json", "-"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["command_line"] == "lhv-amd64.elf tests=vmcall"
    assert "ok 1 - vmcall cpu0" in result["console"]
    assert "ok 2" not in result["console"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["lhv-amd64", "--cmdline", "tests=vmcal"],
        ["lhv-i386", "--cmdline", "tests=vmcall,vmcal"],
        ["zoo-amd64", "--cmdline", "scenario=vmcal"],
    ],
)
def test_a_test_that_is_not_there_has_not_passed(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", *arguments, "--console", "-"]) == 1
    assert 'Bail out! no test is named "vmcal"' in capfd.readouterr().out


BAD = [
    (["run", "no-such-image"], "no-such-image: no such file"),
    (["run", "/no/such/image"], "/no/such/image: No such file or directory"),
    (["run", "."], "no such file|Is a directory"),
    (["run", "/"], "/: Is a directory"),
    (["run", "/proc/self/mem"], "/proc/self/mem: Input/output error"),
    (["run", "IMAGE", "--module", "/"], "/: Is a directory"),
    (["run", "IMAGE", "--cpus", "0"], "0 processors"),
    (["run", "IMAGE", "--cpus", "300"], "300 processors"),
    (["run", "IMAGE", "--cpus", "many"], "--cpus many: not a whole number$"),
    (["run", "IMAGE", "--memory", "1M"], "at least 2 MiB"),
    (["run", "IMAGE", "--memory", "lots"], "'lots' is no size"),
    (["run", "IMAGE", "--memory", "100P"], "is no size"),
    (["run", "IMAGE", "--memory", "63T"], "memory"),
    (["run", "lhv-amd64", "--memory", "2M"], "memory ends at"),
    (["run", "IMAGE", "--until", "("], "--until '\\('"),
    (["run", "IMAGE", "--fail-on", "*"], "--fail-on '\\*'"),
    (["run", "IMAGE", "--until", "x", "--until-count", "0"], "--until-count 0"),
    (["run", "IMAGE", "--until-count", "2"], "--until-count: give --until, too"),
    (["run", "IMAGE", "--until-all"], "--until-all: give --until, too"),
    (["run", "IMAGE", "--until", "x", "--until-all", "--until-count", "2"], "one of them"),
    (["run", "IMAGE", "--success-code", "good"], "--success-code 'good': not a number"),
    (["run", "IMAGE", "--success-code", "-1"], "a value of 32 bits"),
    (["run", "IMAGE", "--initrd", "/nowhere"], "/nowhere: No such file"),
    (["run", "IMAGE", "--run", "true"], "--run: for Linux kernels; a Multiboot image that"),
    (["run", "IMAGE", "--share", "/nowhere"], "--share /nowhere: no such folder"),
    (["run", "IMAGE", "--insmod", "/nowhere"], "/nowhere: No such file"),
    (["run", "IMAGE", "--max-instructions", "0"], "--max-instructions 0"),
    (["run", "IMAGE", "--watch", "-1"], "--watch -1: physical addresses"),
    (["run", "IMAGE", "--watch", "10000000000000"], "--watch 10000000000000"),
    (["run", "IMAGE", "--app", "trustvisor", "--app", "trustvisor:sharing=one"], "more than once"),
    (["pt", "walk", "IMAGE", "0", "--via", "cr3=0", "--pat", "2"], "--pat 2: each byte"),
    (["pt", "render", "IMAGE", "x.png", "--via", "cr3=0"], "x.png: its name has to end in .svg"),
    (["run", "IMAGE", "--timeout", "0"], "--timeout 0"),
    (["run", "IMAGE", "--timeout", "-1"], "--timeout -1"),
    (["run", "IMAGE", "--timeout", "nan"], "--timeout nan"),
    (["run", "IMAGE", "--timeout", "soon"], "--timeout soon: not a number$"),
    (["pt", "walk"], "SOURCE: missing$"),
    (["run", "IMAGE", "--profile", "none"], "none: no such profile"),
    (["run", "IMAGE", "--profile", "PROFILE"], "vmx.ept.colour: unknown key"),
    (["run", "IMAGE", "--tlb", "none"], "TLB policy 'none'"),
    (["run", "IMAGE", "--shadow", "none"], "shadow policy 'none'"),
    (["run", "IMAGE", "--mode", "upside-down"], "--mode upside-down: one of bare, nested$"),
    (["run", "IMAGE", "--seed"], "--seed: a value is needed$"),
    (["run", "IMAGE", "--module", "/no/such/file:text"], "/no/such/file"),
    (["run", "IMAGE", "--console", "/no/such/file"], "--console /no/such/file"),
    (["run", "IMAGE", "--json", "/"], "--json /"),
    (["run", "IMAGE", "--json", "-", "--console", "-"], "only one of them"),
    (["run", "IMAGE", "--no-such-option"], "--no-such-option"),
    (["run", "IMAGE", "IMAGE"], "unexpected"),
    (["run", "TEXT"], "no Multiboot"),
    (["run", "EMPTY"], "no Multiboot"),
    (["run", "CUT"], "cut off"),
    (["run", "CUT-GZIP"], "cut off"),
    (["no-such-command"], "no-such-command: no such command"),
    (["--no-such-option"], "--no-such-option"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD, ids=lambda one: " ".join(one)[:40])
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str],
    complaint: str,
    image: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = {
        "IMAGE": Path(image).read_bytes(),
        "TEXT": b"just text\n" * 100,
        "EMPTY": b"",
        "CUT": (Path(str(_shipped("lhv-amd64"))).read_bytes())[:20_000],
        "CUT-GZIP": gzip.compress(bytes(5000))[:-9],
        "PROFILE": b'base = "default"\n[vmx.ept]\ncolour = true\n',
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    assert run([str(tmp_path / one) if one in made else one for one in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("turducken: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    import re

    assert re.search(complaint, err), err


def _shipped(name: str) -> Path:
    from turducken.system import shipped_images

    return shipped_images()[name]
