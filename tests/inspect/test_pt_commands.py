"""The commands as people and scripts use them."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

import pytest

from turducken.inspect.containers import open_file
from turducken.inspect.decode import all_kinds, decode
from turducken.inspect.errors import InspectError
from turducken.inspect.opening import Reading
from turducken.inspect.through import ChainMap
from turducken.paging.compare import compare

IMAGES = Path(__file__).parents[2] / "docs" / "images"
THREE = ("--ept01", "ept01", "--ept12", "ept12", "--ept02", "ept02.bad")


def test_dump_as_ranges_and_as_a_tree(pt, pt_json, samples):
    trustvisor = samples / "trustvisor.core"
    _, output, _ = pt("dump", trustvisor, "--via", "ept.main")
    assert "4 MiB" in output
    assert "0x146a4000" not in output
    _, output, _ = pt("dump", trustvisor, "--via", "ept.main", "--tree")
    assert "EPT PTE at 0x146a4000  0x37  R W X MT=WB  -> 0x0  ... 512 entries" in output
    _, record = pt_json("dump", trustvisor, "--via", "ept.main", "--tree", "--limit", "5")
    assert [one["level"] for one in record["entries"]] == [
        "EPT PML4E", "EPT PDPTE", "EPT PDE", "EPT PTE", "EPT PTE",
    ]  # fmt: skip


def test_dump_tells_dirty_pages_apart_if_asked(pt_json, tmp_path, samples):
    path = tmp_path / "dump"
    data = bytearray((samples / "trustvisor.core").read_bytes())
    place = data.index((0x2037).to_bytes(8, "little"))
    data[place + 1] |= 0x03
    path.write_bytes(data)
    for flags, count in (((), 1), (("--flags",), 3)):
        _, record = pt_json("dump", path, "--via", "ept.main", *flags)
        assert record["range_count"] == count


def test_a_composed_table_is_a_real_table(pt_json, samples, tmp_path):
    nested, out = samples / "nested.core", tmp_path / "ept02.raw"
    status, record = pt_json(
        "compose", nested, "--via", "ept12,ept01", "--table", out, "--at", "0x7000000"
    )
    assert status == 0
    source = open_file(str(out), base=0x700_0000)
    made = ChainMap(source, Reading().chain(f"ept={record['eptp']}", source)).composed().ranges
    original = open_file(str(nested))
    wanted = ChainMap(original, Reading().chain("ept12,ept01", original)).composed().ranges
    assert not len(compare(made, wanted))


def test_equal_tables_have_no_differences(pt, samples):
    nested = samples / "nested.core"
    status, output, _ = pt("diff", nested, "--via", "ept12,ept01", "--with", "ept02")
    assert status == 0
    assert "no differences" in output


def test_read_reports_holes_and_writes_files(pt, pt_json, samples, tmp_path):
    nested = samples / "nested.core"
    status, record = pt_json("read", nested, "0x70000ff0", "32", "--via", "cr3,ept12,ept01")
    assert status == 1
    assert (record["length"], record["hole"]) == (16, "0x70001000")
    assert "not present" in record["reason"]
    out = tmp_path / "bytes"
    assert pt("read", nested, "0x2234000", "9", "--output", out)[0] == 0
    assert out.read_bytes() == b"L2 greets"


def test_everything_can_be_decoded(pt):
    for kind in all_kinds():
        value = 0x80000087
        decode(value, kind)
        with suppress(InspectError):  # where that is too wide
            decode(0x8000000000001087, kind)
        decode(0, kind)
    status, output, _ = pt("decode", "0x87", "--as", "eptp")
    assert status == 0
    assert "bits" in output


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("exit-reason", 0x80000021, "VM-entry failure: invalid guest state"),
        ("exit-reason", 48, "EPT violation"),
        ("qualification.48", 0x181, "LINEAR_VALID 1"),
        ("qualification.ept-violation", 0x181, "FINAL 1"),
        ("qualification.control-register-access", 0x304, "NUMBER 0x4"),
        ("qualification.30", 0x3F80008, "PORT 0x3f8"),
        ("qualification.debug-exception", 1 << 14, "BS 1"),
        ("information.vmwrite", 1 << 10, "IS_REGISTER 1"),
        ("interruption.exit", 0x80000B0E, "#PF"),
        ("interruption.idt-vectoring", 0x80000020, "external interrupt 32"),
        ("interruption.entry", 0x80000403, "INT 0x3"),
        ("interruption.exit", 0x306, "not valid: there is no event"),
        ("access-rights", 0xA09B, "code, execute/read, accessed"),
        ("access-rights", 0xC092, "data, read/write, not accessed (VM entry refuses it)"),
        ("access-rights", 0x8B, "TSS (32-bit or 64-bit), busy"),
        ("access-rights", 0x10000, "unusable: the other bits do not count"),
        ("interruptibility", 8, "NMI 1"),
        ("pending-debug", 1 << 14, "BS 1"),
        ("controls.pin", 0x16, "EXTERNAL_INTERRUPT_EXITING 0"),
        ("controls.pin", 0, "default1 bits that are 0: 1, 2, 4"),
        ("controls.secondary", 1 << 31, "bits without a name that are 1: 31"),
        ("instruction-error", 7, "VM entry with invalid control field(s)"),
        ("vmcs-encoding", 0x6C16, "Host RIP"),
        ("vmcs-encoding", 0x7FFE, "no field that we know"),
        ("msr.vmx-pinbased-ctls", 0x3F00000016, "VIRTUAL_NMIS 0 or 1"),
        ("msr.vmx-pinbased-ctls", 0x1600000016, "VIRTUAL_NMIS must be 0"),
        ("msr.vmx-entry-ctls", 0xFFFF_000011FF, "LOAD_DEBUG_CONTROLS must be 1"),
        ("ept.pte", 0x1234037, "well-formed"),
        ("ept.pte", 0x1234032, "misconfigured: writable but not readable"),
        ("ept.pte", 0x1234034, "without execute-only translations"),
        ("ept.pte", 0x1234017, "misconfigured: memory type 2 is reserved"),
        ("ept.pte", 0x1234037 | 1 << 61, "SPP 1"),
        ("ept.pte", 0x1234030, "not present"),
        ("ept.pde", 0x10B7, "misconfigured: reserved bits are set: 12"),
        ("ept.pml4e", 0x1087, "misconfigured: reserved bits are set: 7"),
        ("pte", 0x1867, "RESTART 1"),
        ("eptp", 0x101E, "VM entry accepts it"),
        ("eptp", 0x1007, "the page-walk length is neither"),
    ],
)
def test_what_is_told_of_a_value(kind, value, told):
    found = decode(value, kind)
    lines = [f"{one.name} {one.text}" for one in found.fields] + list(found.notes)
    assert any(told in line for line in lines), lines


def test_misconfigured_depends_on_the_processors_addresses(pt_json):
    value = hex(0x37 | 1 << 45)
    for bits, begin in (("52", "well-formed"), ("40", "misconfigured: reserved bits are set: 45")):
        _, record = pt_json("decode", value, "--as", "ept.pte", "--maxphyaddr", bits)
        assert record["notes"][0].startswith(begin)


def test_decode_tells_reserved_bits_and_forms():
    assert decode(0x40001087, "ept.pde").reserved == 1 << 12
    assert decode(0x1087, "ept.pde").layout == "EPT PDE 2 MiB"
    assert decode(0x1007, "ept.pde").layout == "EPT PDE"


@pytest.mark.parametrize("arguments", [("0x123456789", "--as", "32.pte"), ("1", "--as", "frob")])
def test_what_cannot_be_decoded_is_one_clear_line(pt, arguments):
    status, _, errors = pt("decode", *arguments)
    assert status == 2
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("pt-shadow.svg", THREE), ("pt-chain.svg", ("--via", "cr3,ept12,ept01"))],
)
def test_pictures_are_those_in_the_documentation(pt, samples, tmp_path, name, arguments):
    out = tmp_path / name
    assert pt("render", samples / "nested.core", out, *arguments)[0] == 0
    ET.parse(out)
    assert out.read_text() == (IMAGES / name).read_text()


def test_the_three_tables_share_their_scales_and_faults_are_outlined(pt, samples, tmp_path):
    out = tmp_path / "three.svg"
    pt("render", samples / "nested.core", out, *THREE)
    text = out.read_text()
    assert text.count('class="ribbon bad"') == 4
    assert "EPT01(EPT12(x)) is 0x2005000" in text
    bars = {}
    for line in text.splitlines():
        if 'class="space"' in line:
            name = line.split(">")[1].split("<")[0]
        elif 'class="bar"' in line:
            bars.setdefault(name, set()).add(line.split('height="')[1].split('"')[0])
    assert all(len(heights) == 1 for heights in bars.values())


def test_a_page_of_html_needs_nothing_else(pt, samples, tmp_path):
    out = tmp_path / "page.html"
    pt("render", samples / "nested.core", out, *THREE)
    text = out.read_text()
    assert "<svg" in text
    assert "shadow-elsewhere" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_table_of_many_ranges_is_still_a_picture(tmp_path, pt):
    from turducken.inspect.writers import write_snapshot
    from turducken.memory import PhysicalMemory
    from turducken.paging import rights
    from turducken.paging.formats import EPT, Features
    from turducken.paging.table import BumpAllocator, PageTable

    memory = PhysicalMemory(8 << 20)
    table = PageTable.create(EPT.bind(Features()), memory, BumpAllocator(0, 8 << 20))
    for page in range(0, 4000, 2):
        table.map(page << 12, (5000 - page) << 12, 4096, rights.make_attributes())
    with open(tmp_path / "dump", "wb") as stream:
        write_snapshot(stream, memory, [(0, 8 << 20)], roots={"ept": table.root})
    status, _, _ = pt("render", tmp_path / "dump", tmp_path / "out.svg", "--via", "ept")
    assert status == 0
    text = (tmp_path / "out.svg").read_text()
    assert "1940 smaller ranges are not drawn" in text
    assert len(text) < 200_000


def test_it_runs_on_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "turducken.cli.pt", "decode", "0x37", "--as", "ept.pte",
         "--json", "-"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert '"WB"' in done.stdout


def test_what_gdb_needs_does_without_numpy():
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import turducken.inspect.chain, turducken.inspect.text, turducken.inspect.decode\n"
        "import turducken.paging.scan, turducken.paging.rights"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
