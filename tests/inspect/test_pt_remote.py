"""Reading through gdb stubs: one of our own making here, QEMU's in test_pt_gdb.py."""

import pytest
from fake_stub import FakeStub

from turducken.inspect.errors import InspectError
from turducken.inspect.remote import RemoteMemory, _unescape, open_remote
from turducken.inspect.samples import nested
from turducken.memory import MemoryHoleError


@pytest.fixture
def stub_for():
    stubs = []

    def start(**kwargs):
        memory, roots = nested()
        stubs.append(FakeStub(memory, **kwargs))
        return stubs[-1], memory, roots

    yield start
    for one in stubs:
        one.close()


@pytest.mark.parametrize("no_ack", [False, True])
@pytest.mark.parametrize("packet_size", [256, 0x400, 0x4000])
def test_physical_memory_is_read_in_packets_the_stub_takes(stub_for, no_ack, packet_size):
    stub, memory, _ = stub_for(no_ack=no_ack, packet_size=packet_size)
    source = RemoteMemory("127.0.0.1", stub.port)
    assert source.read(0x400_0FF0, 0x40) == memory.read(0x400_0FF0, 0x40)
    assert source.load(0x400_0000, 8) == memory.load(0x400_0000, 8)
    source.close()
    assert stub.mode == 0
    assert "D" not in stub.asked


def test_the_machine_runs_on_if_asked(stub_for):
    stub, _, _ = stub_for()
    RemoteMemory("127.0.0.1", stub.port, resume=True).close()
    assert stub.asked[-1] == "D"


def test_a_stub_without_physical_reads_is_one_clear_error(stub_for):
    stub, memory, _ = stub_for(physical=False, no_ack=False)
    with pytest.raises(InspectError, match="linear addresses only"):
        open_remote(f"127.0.0.1:{stub.port}")
    source = open_remote(f"127.0.0.1:{stub.port},linear")
    assert source.read(0x400_0FF0, 0x40) == memory.read(0x400_0FF0, 0x40)


def test_pages_that_the_stub_refuses_are_holes(stub_for):
    stub, _, _ = stub_for(hole=range(0x5000, 0x6000))
    source = RemoteMemory("127.0.0.1", stub.port)
    assert source.load(0x5008, 8) is None
    with pytest.raises(MemoryHoleError):
        source.read(0x4FF0, 0x20)


def test_commands_work_on_a_remote(stub_for, pt, pt_json):
    stub, _, roots = stub_for()
    remote = f"gdb:127.0.0.1:{stub.port}"
    via = ",".join(f"{name}={roots[name]:#x}" for name in ("cr3", "ept12", "ept01"))
    status, output, _ = pt("read", remote, "0x70000000", "32", "--via", via)
    assert status == 0
    assert "L2 greets" in output
    _, record = pt_json("dump", remote, "--via", f"ept01={roots['ept01']:#x}")
    assert record["mapped_bytes"] == 48 << 20


def test_searching_a_remote_is_one_clear_error(stub_for, pt):
    stub, _, _ = stub_for()
    status, _, errors = pt("find", f"gdb:127.0.0.1:{stub.port}")
    assert status == 2
    assert "make a dump" in errors


@pytest.mark.parametrize(
    "name", ["gdb:127.0.0.1:1", "gdb:nonsense", "gdb:host:99999", "gdb:1,frob"]
)
def test_remotes_that_are_not_there_are_one_clear_line(pt, name):
    status, _, errors = pt("read", name, "0")
    assert status == 2
    assert errors.count("\n") == 1


def test_answers_may_be_escaped_and_run_length_encoded():
    assert _unescape(b"0* ") == b"0000"
    assert _unescape(b"}\x03a") == b"#a"
    assert _unescape(b"plain") == b"plain"
