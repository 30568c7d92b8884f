"""Debian's Bochs as a second opinion: the same image, the same report, but for what is known."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from turducken.system import Stops, System, SystemOptions, find_image, shipped_images

ROOT = Path(__file__).resolve().parents[2]
BOCHS = ROOT / "guests/bochs"
BUILD, CPUS = "lhv-i386-pae", 2
NEEDED = {
    "bochs": shutil.which("bochs"),
    "xorriso": shutil.which("xorriso"),
    "grub-common": shutil.which("grub-mkimage"),
    "grub-pc-bin": Path("/usr/lib/grub/i386-pc/multiboot.mod").exists(),
    "bochsbios": Path("/usr/share/bochs/BIOS-bochs-latest").exists(),
    "vgabios": Path("/usr/share/vgabios/vgabios.bin").exists(),
}
MISSING = [name for name, found in NEEDED.items() if not found]


@pytest.mark.bochs
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_lhv_reports_the_same_on_bochs(tmp_path: Path) -> None:
    ours = tmp_path / "ours.tap"
    result = System(SystemOptions(find_image(BUILD), cpus=CPUS)).run(Stops())
    ours.write_text(result.console)
    command = [sys.executable, str(BOCHS / "check"), "--cpus", str(CPUS), "--against", str(ours)]
    done = subprocess.run(
        [*command, "--timeout", "600", str(shipped_images()[BUILD])],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    tests = [line for line in done.stdout.splitlines() if line.startswith(("ok", "not ok"))]
    assert len(tests) > 500
    assert result.exit_status == 0


def test_every_known_difference_is_explained() -> None:
    known = (BOCHS / "known-differences.txt").read_text().splitlines()
    names = [line.split()[0] for line in known if line.strip() and not line.startswith("#")]
    explained = (ROOT / "docs/bochs.md").read_text()
    assert len(names) > 10
    assert [one for one in names if one not in explained] == []
