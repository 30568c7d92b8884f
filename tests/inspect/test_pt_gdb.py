"""The extension in the real gdb, and the remote source, against the real QEMU, paused."""

import shutil
import socket
import subprocess
import time

import pytest

from turducken.gdb.extension import PATH
from turducken.inspect.samples import nested
from turducken.inspect.writers import Extent, write_raw

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64"
)
needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="needs gdb")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def qemu(tmp_path_factory):
    """Return the port of a paused QEMU whose memory is the nested sample, and its roots."""
    memory, roots = nested()
    image = tmp_path_factory.mktemp("qemu") / "ram"
    # From 1 MiB on: below that the machine has its own ideas of what is RAM.
    low = 1 << 20
    with open(image, "wb") as stream:
        write_raw(stream, memory, [Extent(low, memory.size - low, low)], base=low)
    port = free_port()
    process = subprocess.Popen(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-S", "-display", "none",
            "-nodefaults", "-gdb", f"tcp:127.0.0.1:{port}",
            "-device", f"loader,file={image},addr={low:#x},force-raw=on",
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield port, roots
    process.kill()
    process.wait()


def chain(roots, *names):
    return ",".join(f"{name}={roots[name]:#x}" for name in names)


@pytest.fixture
def gdb(qemu):
    port, _ = qemu

    def run(*commands):
        arguments = ["gdb", "-nx", "-q", "-batch", "-ex", "set confirm off"]
        for one in (f"target remote 127.0.0.1:{port}", f"source {PATH}", *commands, "disconnect"):
            arguments += ["-ex", one]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@needs_gdb
def test_walking_inside_a_nested_guest(gdb, qemu):
    _, roots = qemu
    output = gdb(f"pt walk 0x400010 --via {chain(roots, 'cr3', 'ept12', 'ept01')}")
    assert "0x400010 -> 0x2800010  R-XU WB" in output
    assert "EPT PDE 2 MiB" in output


@needs_gdb
def test_values_may_be_expressions(gdb, qemu):
    _, roots = qemu
    output = gdb(f"set $mine = {roots['ept01']:#x}", "pt walk (0x1000+0x234) --via ept=$mine+0")
    assert "0x1234 -> 0x1234  RWX WB" in output


@needs_gdb
def test_dumping_and_reading(gdb, qemu):
    _, roots = qemu
    output = gdb(
        f"pt dump --via {chain(roots, 'ept12', 'ept01')}",
        f"pt read 0x70000000 28 --via {chain(roots, 'cr3', 'ept12', 'ept01')}",
        f"pt read 0x70000ff0 32 --via {chain(roots, 'cr3', 'ept12', 'ept01')}",
    )
    assert "0x0000000000400000-0x000000000040ffff -> 0x000001800000      64 KiB  R-X WB" in output
    assert "L2 greets from p" in output
    assert "0x70001000: cr3: the PTE" in output


@needs_gdb
def test_decoding(gdb):
    output = gdb("pt decode 0x1234037 --as ept.pte")
    assert "MT       WB" in output


@needs_gdb
def test_the_processors_own_paging_is_the_default(gdb):
    assert "paging is off" in gdb("pt walk $rip")


@needs_gdb
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pt walk", "usage: pt walk"),
        ("pt walk 0 --frob", "not known"),
        ("pt walk 0 --via frob=1", "no paging format"),
        ("pt walk $nothing --via ept=1", "$nothing: "),
        ("pt decode 1 --as frob", "not known"),
        ("pt read 0xffffffffffffffff 16 --via ept=0x1000", "EPT PML4E"),
    ],
)
def test_mistakes_are_one_clear_line(gdb, command, message):
    assert message in gdb(command)


@needs_gdb
def test_without_a_remote_there_is_one_clear_line():
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", "-ex", f"source {PATH}", "-ex", "pt walk 0 --via ept=1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "there is no remote target" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_remote_source_reads_the_same(qemu, pt):
    port, roots = qemu
    via = chain(roots, "cr3", "ept12", "ept01")
    for _ in range(2):  # the stub is left as it was found
        status, output, _ = pt("read", f"gdb:127.0.0.1:{port}", "0x70000000", "28", "--via", via)
        assert status == 0
        assert "L2 greets from p" in output


def test_a_whole_shadow_is_checked_over_the_remote(qemu, pt_json):
    port, roots = qemu
    tables = [f"{roots[name]:#x}" for name in ("ept01", "ept12", "ept02.bad")]
    status, record = pt_json(
        "check", f"gdb:127.0.0.1:{port}", "--ept01", tables[0], "--ept12", tables[1],
        "--ept02", tables[2], "--hypervisor", "64M-72M",
    )  # fmt: skip
    assert status == 1
    assert {one["rule"] for one in record["findings"] if one["severity"] == "error"} == {
        "shadow-elsewhere", "shadow-allows-more", "shadow-extra",
    }  # fmt: skip
