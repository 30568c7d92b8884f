"""The examples and the template in docs/examples."""

import struct
from pathlib import Path

import pytest
from tiny_images import leave, tiny_file

from turducken.cli.entry import run

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SEAL, UNSEAL = 0x5731_0000, 0x5731_0001
PAGE = 0x30_0000


def call(number: int) -> bytes:
    """mov eax, number; mov ebx, PAGE; vmcall"""
    return b"\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", PAGE) + b"\x0f\x01\xc1"


WRITE = b"\xc7\x05" + struct.pack("<II", PAGE, 1)
"""mov dword [PAGE], 1: without an IDT, #GP is a triple fault."""
LEAVE_WITH_ANSWER = b"\xba\xf4\x00\x00\x00\xef\xeb\xfe"


def run_with(app: str, code: bytes, tmp_path: Path) -> int:
    image = tmp_path / "image"
    image.write_bytes(tiny_file(code))
    return run(["run", str(image), "--app", str(EXAMPLES / app), "--quiet"])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (call(SEAL) + leave(0), 0),
        (call(SEAL) + LEAVE_WITH_ANSWER, 0),
        (call(SEAL) + call(SEAL) + LEAVE_WITH_ANSWER, 1),
        (call(UNSEAL) + LEAVE_WITH_ANSWER, 1),
        (WRITE + leave(0), 0),
        (WRITE + call(SEAL) + WRITE + leave(0), 1),
        (call(SEAL) + call(UNSEAL) + WRITE + leave(0), 0),
    ],
)
def test_write_once(code: bytes, status: int, tmp_path: Path) -> None:
    assert run_with("write_once.py", code, tmp_path) == status


def test_count_exits(capfd: pytest.CaptureFixture[str]) -> None:
    app = f"{EXAMPLES / 'count_exits.py'}:every=10"
    arguments = ["run", "--app", app, "--cmdline", "tests=ept-rights-*", "--quiet"]
    assert run(arguments) == 0
    assert "[count-exits] 1" in capfd.readouterr().err


def test_template(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_with("template.py:greeting=hi,loud=on", leave(0), tmp_path) == 0
    assert "[my-app] HI: 1 processors" in capfd.readouterr().err


def test_several_applications_at_once(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(tiny_file(call(SEAL) + WRITE + leave(0)))
    apps = ["--app", str(EXAMPLES / "template.py"), "--app", str(EXAMPLES / "write_once.py")]
    assert run(["run", str(image), *apps, "--app", "trustvisor", "--quiet"]) == 1
