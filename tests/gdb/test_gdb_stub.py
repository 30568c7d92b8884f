"""The stub by its packets, and with the real gdb."""

import random
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from stub_client import Client, Run, options

from turducken.gdb.stub.packets import MAX_PACKET, Reader, escape, frame, unescape
from turducken.gdb.stub.registers import NARROW, WIDE
from turducken.gdb.stub.server import Address, GdbError
from turducken.inspect.chain import walk_chain
from turducken.system import Mode, Outcome, System

needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="needs gdb")
IMAGES = Path(__file__).parents[2] / "src/turducken/images"
ENTRY = 0x10_000C


@pytest.fixture
def stopped():
    """Return a run that stands at its first instruction, and a client."""
    runs = []

    def begin(**changes):
        run = Run(**changes)
        client = run.connect()
        assert client.ask(b"?").startswith(b"T")
        runs.append((run, client))
        return run, client

    yield begin
    for run, client in runs:
        if run.result is None:
            client.send(b"k")
            run.join()


# Packets.


@pytest.mark.parametrize("data", [b"", b"plain", b"#$}*", bytes(range(256))])
def test_binary_data_survives_a_packet(data):
    assert unescape(escape(data)) == data
    reader = Reader()
    reader.feed(frame(escape(data)))
    assert reader.next() == (escape(data), b"+")


def test_garbage_between_packets_is_passed_over():
    reader = Reader()
    reader.feed(b"+-\x00garbage\x03" + frame(b"g") + b"$bad#00" + b"$cut" + frame(b"m0,4"))
    assert reader.next() == (b"g", b"+")
    assert reader.is_interrupted
    assert reader.next() == (b"m0,4", b"-+")
    assert reader.next() == (None, b"")


def test_an_endless_packet_is_given_up():
    reader = Reader()
    reader.feed(b"$" + b"a" * (2 * MAX_PACKET) + frame(b"g"))
    assert reader.next()[0] == b"g"


@pytest.mark.parametrize("text", ["", "frob", "1:2:x", "99999", "unix:"])
def test_addresses_that_are_none(text):
    with pytest.raises(GdbError):
        Address.parse(text)


def test_only_this_computer_unless_told():
    assert Address.parse("1234") == Address("127.0.0.1", 1234)
    assert Address.parse("0.0.0.0:1") == Address("0.0.0.0", 1)
    assert Address.parse("[::1]:5") == Address("::1", 5)


# Registers and memory.


@pytest.mark.parametrize("wide", [True, False])
def test_the_description_fits_the_registers(stopped, wide):
    _, client = stopped(wide=wide)
    assert b"qXfer:features:read+" in client.ask(b"qSupported:multiprocess+;xmlRegisters=i386")
    xml, at = b"", 0
    while True:
        part = client.ask(b"qXfer:features:read:target.xml:%x,400" % at)
        xml, at = xml + unescape(part[1:]), at + 0x400
        if part[:1] == b"l":
            break
    target = ET.fromstring(xml.decode())
    sizes = [int(one.get("bitsize")) // 8 for one in target.iter("reg")]
    assert sum(sizes) == len(client.registers())
    known = (WIDE if wide else NARROW).registers
    assert [one.get("name") for one in target.iter("reg")] == [one.name for one in known]
    for number, one in enumerate(known):
        value = client.ask(b"p%x" % number)
        assert len(value) == one.bits // 4


def test_registers_and_memory_are_read_and_written(stopped):
    run, client = stopped()
    assert client.rip() == ENTRY
    assert client.ask(b"P0=" + b"efbeadde00000000") == b"OK"
    assert run.system.machine.processors[0].state.gpr[0] == 0xDEADBEEF
    xmm0 = next(n for n, one in enumerate(WIDE.registers) if one.name == "xmm0")
    assert client.ask(b"P%x=%s" % (xmm0, b"0123456789abcdef" * 2)) == b"OK"
    assert client.ask(b"p%x" % xmm0) == b"0123456789abcdef" * 2
    assert client.ask(b"M200000,4:01020304") == b"OK"
    assert client.write_binary(0x20_0004, b"}#$*") == b"OK"
    assert client.ask(b"m200000,8") == b"01020304" + b"}#$*".hex().encode()
    assert client.ask(b"mfffffff0000,8") == b"E14"
    assert client.ask(b"Mfffffff0000,1:00") == b"E14"
    for nonsense in (b"m", b"mzz,1", b"M0,5:00", b"p999", b"P0=00", b"Hg77", b"T0", b"vCont;q"):
        assert client.ask(nonsense) in (b"E01", b""), nonsense
    assert client.ask(b"qUnknown") == b""
    assert client.ask(b"_") == b""


def test_reading_changes_nothing_a_guest_can_see(stopped):
    """Tables are read without accessed flags, devices not at all."""
    run, client = stopped()
    before = bytes(run.system.machine.memory.bytes)
    for address in (0, 0x10_0000, 0xFEE0_0000, 0xFFFF_FFFF_0000_0000):
        client.ask(b"m%x,100" % address)
    client.monitor("walk 0x100000")
    assert bytes(run.system.machine.memory.bytes) == before


# Running.


def test_a_step_is_one_instruction(stopped):
    run, client = stopped()
    executed = []
    for _ in range(5):
        assert client.ask(b"vCont;s:1").startswith(b"T05")
        executed.append((client.rip(), run.system.machine.instructions))
    assert [count for _, count in executed] == [1, 2, 3, 4, 5]
    assert len({rip for rip, _ in executed}) > 1


def test_a_range_is_stepped_over(stopped):
    _, client = stopped()
    assert client.ask(b"vCont;r100000,%x:1" % (ENTRY + 8)).startswith(b"T05")
    assert client.rip() >= ENTRY + 8


@pytest.mark.parametrize("mode", list(Mode))
def test_a_breakpoint_strikes_at_its_level_only(stopped, mode):
    run, client = stopped(mode=mode)
    exited = run.symbol("vm_exited")
    guest = next(one.address for one in run.system.options.image.symbols if one.name == "vm_exited")
    assert client.ask(b"Z0,%x,1" % exited) == b"OK"
    assert client.ask(b"c") == b"T05thread:1;swbreak:;"
    assert client.rip() == exited
    assert "L1 64-bit active" in client.monitor("where")
    assert client.ask(b"z0,%x,1" % exited) == b"OK"
    assert "looking at L2, L1 runs" in client.monitor("level L2")
    assert client.ask(b"Z0,%x,1" % guest) == b"OK"
    assert client.ask(b"c").startswith(b"W00"), "L2 never comes there"
    assert run.join().outcome is Outcome.GUEST_EXIT


def entry_of_the_noted_page(stopped, mode):
    """Return where the EPT entry lies, in L1's memory, that leads to the table for the page."""
    run, client = stopped(mode=mode)
    client.ask(b"Z0,%x,1" % run.symbol("vm_exited"))
    client.ask(b"c")
    levels = run.server.levels
    (ept, *outer) = levels.physical_stages(0, "L2")
    way = walk_chain(run.system.machine.memory, [ept, *outer], 0x1234000)
    return way.stages[0].walk.steps[2].address


@pytest.mark.parametrize("mode", list(Mode))
def test_who_writes_an_ept_entry(stopped, mode):
    entry = entry_of_the_noted_page(stopped, mode)
    run, client = stopped(mode=mode)
    client.ask(b"Z0,%x,1" % run.symbol("ept_map"))
    assert b"swbreak" in client.ask(b"c")
    client.ask(b"z0,%x,1" % run.symbol("ept_map"))
    memory = run.system.machine.memory
    assert client.ask(b"Z2,%x,8" % entry) == b"OK"
    assert client.ask(b"c") == b"T05thread:1;watch:%x;" % entry
    assert memory.load(entry, 8) & 7 == 7
    assert "ept" in str(run.system.names.describe(client.rip()))


def test_processors_are_threads(stopped):
    _, client = stopped(cpus=2, text="tests=ept-note-page")
    assert client.ask(b"qfThreadInfo") == b"m1,2"
    assert client.ask(b"qsThreadInfo") == b"l"
    assert client.ask(b"T2") == b"OK"
    assert client.ask(b"T3") == b"E01"
    assert client.ask(b"Hg2") == b"OK"
    assert client.rip() == 0xFFF0
    threads = ET.fromstring(unescape(client.ask(b"qXfer:threads:read::0,1000")[1:]).decode())
    assert [one.get("core") for one in threads] == ["0", "1"]


def test_a_run_is_stopped_where_it_is():
    run = Run(waits=False, text="tests=ept-note-page soak=1000000")
    client = run.connect()
    assert client.receive().startswith(b"T02")
    client.send(b"c")
    client.socket.sendall(b"\x03")
    assert client.receive().startswith(b"T02")
    client.send(b"k")
    assert run.join().outcome is Outcome.INTERRUPTED


def test_a_client_leaves_and_another_comes(stopped):
    run, client = stopped()
    client.ask(b"Z0,%x,1" % run.symbol("vm_exited"))
    client.socket.close()
    again = Client(run.server.port)
    assert again.ask(b"?").startswith(b"T")
    assert again.rip() == ENTRY
    again.send(b"D")
    assert again.receive() == b"OK"
    assert run.join().outcome is Outcome.GUEST_EXIT, "its breakpoint is gone, and so is it"


@pytest.mark.parametrize("seed", range(3))
def test_garbage_never_ends_the_run(stopped, seed):
    dice = random.Random(seed)
    run, client = stopped()
    words = (
        b"g",
        b"G",
        b"m",
        b"M",
        b"X",
        b"Z0",
        b"z",
        b"qXfer:",
        b"H",
        b"p",
        b"P",
        b"vCont;",
        b"Q",
    )
    for _ in range(200):
        body = dice.choice(words) + bytes(
            dice.choices(b"0123456789abcdef,;:=zrZ\xff}", k=dice.randrange(12))
        )
        if body[:1] in b"csCSkD" or body.startswith(b"vCont;"):
            continue
        client.socket.sendall(b"junk" + frame(body) + b"$half")
        client.receive()
    assert client.ask(b"?").startswith(b"T")
    client.socket.sendall(frame(b"k"))
    assert run.join().outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("mode", list(Mode))
def test_a_debugger_that_only_looks_changes_nothing(mode):
    alone = System(options(mode=mode)).run()
    run = Run(mode=mode)
    client = run.connect()
    client.ask(b"?")
    client.monitor("where")
    assert client.ask(b"c") == b"W00"
    watched = run.join()
    assert watched.console == alone.console
    assert [one.instructions for one in watched.cpus] == [one.instructions for one in alone.cpus]
    assert watched.exits == alone.exits
    assert watched.guest_nanoseconds == alone.guest_nanoseconds


def test_monitor_commands_explain_themselves(stopped):
    run, client = stopped()
    text = client.monitor("help")
    for name in ("level", "where", "vmcs", "walk", "exits", "time", "diagnoses"):
        assert name in text
        assert client.monitor(name)
    assert "not a command" in client.monitor("frob")
    assert "not a level" in client.monitor("level L7")
    assert "not an address" in client.monitor("walk x")
    client.ask(b"Z0,%x,1" % run.symbol("vm_exited"))
    client.ask(b"c")
    assert f"{run.symbol('vm_exited'):#x}" in client.monitor("vmcs host rip")
    assert "ept" in client.monitor("level L2") + client.monitor("walk 0x1234000")
    assert "VMLAUNCH" in client.monitor("exits") or "to L1" in client.monitor("exits")


# The real gdb.

SESSION = """\
set pagination off
set confirm off
set architecture i386:x86-64
target remote 127.0.0.1:{port}
printf "entry %#lx\\n", $rip
break vm_exited
continue
monitor where
printf "cr0 %#lx\\n", $cr0
delete
stepi
hbreak vm_run
continue
bt 2
info threads
detach
"""


@needs_gdb
@pytest.mark.parametrize("mode", list(Mode))
def test_a_session_of_the_real_gdb(tmp_path, mode):
    run = Run(mode=mode, text="tests=ept-note-page,ept-identity")
    script = tmp_path / "session"
    script.write_text(SESSION.format(port=run.server.port))
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", "-x", str(script), str(IMAGES / "lhv-amd64.elf")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr  # what monitor prints comes on the latter
    assert f"entry {ENTRY:#x}" in said, said
    assert "Breakpoint 1" in said
    assert "cpu 0: L1 64-bit active" in said
    assert "cr0 0x8" in said
    assert "Breakpoint 2" in said
    assert '"cpu0 L1 active"' in said
    assert run.join().outcome is Outcome.GUEST_EXIT
