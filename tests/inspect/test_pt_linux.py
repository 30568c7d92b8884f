"""A real guest's memory: Debian's Linux under our hypervisor, in our tools and in Volatility's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from turducken.inspect.containers import open_file
from turducken.inspect.volatility import PLUGIN_DIRECTORY, VIA_VARIABLE
from turducken.machine.boot import ImageError, load_image
from turducken.system import Mode, Stops, System, SystemOptions
from turducken.system.linux import find_kernel
from turducken.system.snapshot import save_snapshot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """Return a snapshot of a kernel that has said its name, and that name."""
    for root in (Path(__file__).parents[2] / "build" / "debian", Path("/")):
        try:
            kernel = find_kernel(root)
            break
        except ImageError as error:
            reason = str(error)
    else:
        pytest.skip(reason)
    options = SystemOptions(
        load_image(kernel.image), Mode.NESTED, text="console=ttyS0 earlyprintk=ttyS0 nokaslr"
    )
    system = System(options)
    result = system.run(Stops(until=re.compile("Linux version")))
    assert result.matched
    path = tmp_path_factory.mktemp("linux") / "snapshot"
    with open(path, "wb") as stream:
        save_snapshot(system, stream)
    return path, result.matched.partition("] ")[2].strip()


def test_its_tables_and_its_vmcs_are_found(snapshot, pt_json):
    path, _ = snapshot
    _, record = pt_json("find", path, "--chains")
    formats = {one["root"]: one["format"] for one in record["candidates"]}
    (vmcs,) = record["vmcs"]
    assert formats[hex(int(vmcs["eptp"], 16) & ~0xFFF)] == "EPT"
    assert "4-level" in formats.values()
    assert pt_json("check", path, "--via", "cpu0.ept01")[0] == 0


def test_volatility_finds_its_banner_through_the_ept(snapshot, tmp_path):
    path, banner = snapshot
    via = f"ept01={open_file(str(path)).roots['cpu0.ept01']:#x}"
    program = Path(sys.executable).with_name("vol")
    if not program.exists():
        pytest.skip("needs the vol command")
    done = subprocess.run(
        [program, "-q", "-p", PLUGIN_DIRECTORY, "-f", path, "banners.Banners"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), VIA_VARIABLE: via},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert banner[:60] in done.stdout, done.stdout + done.stderr
