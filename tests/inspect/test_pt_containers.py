"""Every container of memory: read rightly, refused by name, never taken for what it is not."""

import contextlib
import shutil
import struct
import subprocess

import pytest
from container_builders import (
    CONTAINERS,
    LOW,
    MEMORY,
    PACKERS,
    PAGE,
    avml,
    core,
    flattened,
    kdump,
    libvirt,
    lime,
    migration,
    qemu_cpu,
    virtualbox_cpu,
    vmware_state,
    xen,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turducken.inspect.containers import open_file
from turducken.inspect.containers.packed import is_packed
from turducken.inspect.errors import InspectError
from turducken.memory import MemoryHoleError


def assert_has(source, pages=MEMORY):
    for address, page in pages.items():
        assert source.read(address, PAGE) == page, hex(address)
        assert source.load(address + 8, 8) == int.from_bytes(page[8:16], "little")
    assert source.load(0x3000, 8) is None
    with pytest.raises(MemoryHoleError):
        source.read(0x2FFF, 2)


@pytest.fixture
def written(tmp_path):
    def write(data, name="dump"):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container_has_its_pages_and_its_holes(written, name):
    source = open_file(written(CONTAINERS[name]()))
    assert_has(source)
    assert not source.warnings


@pytest.mark.parametrize("packer", PACKERS)
def test_each_compressed_file_is_what_is_in_it(written, packer):
    source = open_file(written(PACKERS[packer](lime())))
    assert source.kind == "LiME dump"
    assert_has(source)
    twice = open_file(written(PACKERS[packer](PACKERS["gz"](xen()))))
    assert_has(twice)


def test_a_dump_compressed_too_often_is_refused(written):
    data = lime()
    for _ in range(6):
        data = PACKERS["gz"](data)
    with pytest.raises(InspectError, match="again and again"):
        open_file(written(data))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_damaged_compressed_file_says_so(written, packer):
    data = PACKERS[packer](lime())
    path = written(data[: len(data) * 2 // 3])
    with contextlib.suppress(InspectError):
        # What could be unpacked may be a dump's beginning.
        assert any("damaged" in one for one in open_file(path).warnings)
        return
    with pytest.raises(InspectError, match=r"damaged|empty"):
        open_file(path)


@pytest.mark.parametrize(
    ("note", "cr3", "paging"),
    [
        (qemu_cpu(), 0x7000, "4-level"),
        (qemu_cpu(cr4=0x1020), 0x7000, "5-level"),
        (qemu_cpu(long_mode=False), 0x7000, "PAE"),
        (qemu_cpu(long_mode=False, cr4=0), 0x7000, "32-bit"),
        (qemu_cpu(cr0=1), 0x7000, None),
        (virtualbox_cpu(), 0x9000, "4-level"),
        (virtualbox_cpu(efer=0), 0x9000, "PAE"),
    ],
)
def test_notes_tell_of_the_processors(written, note, cr3, paging):
    source = open_file(written(core(note + note)))
    assert source.roots == {"cr3": cr3, "cpu0.cr3": cr3, "cpu1.cr3": cr3}
    assert source.paging == paging
    assert_has(source)


def test_a_kdump_file_has_notes_too(written):
    source = open_file(written(flattened(kdump(cpu=qemu_cpu()))))
    assert source.roots["cr3"] == 0x7000


def test_chains_need_no_typing_where_the_source_knows(written, pt_json):
    _, record = pt_json("walk", written(core(qemu_cpu(cr3=0x2000))), "0x0", "--via", "cr3")
    assert record["stages"][0]["root"] == "0x2000"
    assert record["stages"][0]["format"] == "4-level"


def test_vmware_memory_is_found_beside_its_state(written, tmp_path):
    written(b"".join(MEMORY.values()), "vm.vmem")
    state = written(vmware_state(), "vm.vmss")
    for path in (state, str(tmp_path / "vm.vmem")):
        source = open_file(path)
        assert_has(source)
        assert source.roots["cr3"] == 0x3000
        assert source.paging == "4-level"


def test_a_state_without_its_memory_names_the_file(written):
    with pytest.raises(InspectError, match=r"vm\.vmem is missing"):
        open_file(written(vmware_state(), "vm.vmss"))


def test_a_large_vmem_without_a_state_says_what_is_assumed(written, tmp_path):
    path = tmp_path / "big.vmem"
    with open(path, "wb") as stream:
        stream.truncate((3 << 30) + PAGE)
        stream.seek(3 << 30)
        stream.write(b"high")
    source = open_file(str(path))
    assert source.read(4 << 30, 4) == b"high"
    assert source.load(3 << 30, 8) is None
    assert any("is assumed" in one for one in source.warnings)


@pytest.mark.parametrize(
    "wrap", [bytes, libvirt, lambda data: libvirt(PACKERS["xz"](data), packed=3)]
)
def test_a_migration_stream_has_the_machines_memory(written, wrap):
    source = open_file(written(wrap(migration())))
    for address, page in LOW.items():
        assert source.read(address, PAGE) == page
    assert source.read(0x3000, PAGE) == bytes(PAGE)
    assert "pc-i440fx-7.2" in source.kind


@pytest.mark.parametrize(
    ("machine", "hole"), [(b"pc-i440fx-7.2", 0xC000_0000), (b"pc-q35-7.2", 0x8000_0000)]
)
def test_a_large_machine_has_its_hole_below_four_gib(written, machine, hole):
    source = open_file(written(migration(machine, size=4 << 30)))
    assert [tuple(one) for one in source.regions] == [(0, hole), (4 << 30, (4 << 30) - hole)]


def test_a_cut_stream_says_so(written):
    data = migration()
    source = open_file(written(data[: len(data) - 3 * PAGE]))
    assert any("cut short" in one for one in source.warnings)


REFUSED = {
    b"hibr": "hibernation",
    b"HPAK": "HPAK",
    b"\x7fVirtualBox SavedState V2.0": "dumpvmcore",
    b"\xcf\xfa\xed\xfe": "Mach-O",
    b"\x01\x00\x00\x00\x00\x00\x00\x00HyperV": "vm2dmp",
    b"PAGEDU64": "Windows crash dump",
    b"QFI\xfb": "disk image",
    b"KDMV": "disk image",
    b"PK\x03\x04": "ZIP",
    b"EVF\x09\r\n\xff": "EnCase",
    b"just some text in a file, of more than sixty-four characters, as a log": "text file",
}


@pytest.mark.parametrize("magic", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(written, magic):
    filling = b" and more" * 500 if magic.startswith(b"just") else bytes(9000)
    with pytest.raises(InspectError, match=REFUSED[magic]):
        open_file(written(magic + filling))


def test_kdump_with_lzo_names_the_converter(written):
    with pytest.raises(InspectError, match="makedumpfile -E"):
        open_file(written(kdump("lzo")))


def test_an_unknown_file_is_never_taken_for_ram_in_silence(written, pt, tmp_path):
    source = open_file(written(bytes(8192)))
    assert "nothing in it says so" in source.warnings[0]
    assert "no number of pages" in open_file(written(bytes(8191))).warnings[0]
    bios = bytearray(1 << 20)
    bios[0xF_6A10:0xF_6A18] = b"RSD PTR "
    bios[0xF_FFF0] = 0xEA
    assert "ACPI's root pointer and a reset vector" in open_file(written(bios)).warnings[0]
    path = written(bytes(8192))
    assert "read as raw memory" in pt("read", path, "0", "8")[2]
    assert not pt("read", f"raw:{path}", "0", "8")[2]


def test_raw_pieces_with_offsets_and_sizes(written):
    path = written(bytes(range(256)) * 64)
    source = open_file(f"raw:{path},offset=0x10,size=4K,at=1M,{path},offset=0x20,at=2M")
    assert [tuple(one) for one in source.regions] == [(1 << 20, 4096), (2 << 20, 16384 - 32)]
    assert source.read(1 << 20, 2) == b"\x10\x11"
    assert source.read(2 << 20, 2) == b"\x20\x21"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{0},size=8K,at=0,{0},at=4K", "overlap"),
        ("{0},offset=1M", "behind the file's end"),
        ("offset=1,{0}", "before any file"),
        ("{0},size=0", "no bytes"),
        ("{0},at=frob", "not a number"),
        ("", "no file"),
    ],
)
def test_raw_pieces_that_make_no_sense(written, text, message):
    with pytest.raises(InspectError, match=message):
        open_file("raw:" + text.format(written(bytes(16384))))


@pytest.mark.parametrize("name", [*CONTAINERS, "migration", "libvirt"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_containers_are_one_line_or_an_answer(pt, tmp_path, name, data):
    makers = {**CONTAINERS, "migration": migration, "libvirt": lambda: libvirt(migration())}
    changed = bytearray(makers[name]())
    end = data.draw(st.sampled_from((64, 600, 5000, len(changed))))
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, min(end, len(changed)) - 1))
        changed[at] = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 4)))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(1, len(changed))) :]
    path = tmp_path / "dump"
    path.write_bytes(changed)
    status, _, errors = pt("read", path, "0", "16")
    assert status in (0, 1, 2)
    assert status != 2 or errors.strip().count("\n") == 0


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64")
def test_what_the_real_qemu_writes(tmp_path):
    """One machine, dumped in every way that QEMU knows: the same memory each time."""
    mark = tmp_path / "mark"
    mark.write_bytes(b"a page that is looked for " * 100)
    kinds = {"elf": "", "zlib": "-z ", "snappy": "-s "}
    commands = [f"dump-guest-memory {flag}{tmp_path}/{name}" for name, flag in kinds.items()]
    commands += [f'migrate "exec:cat > {tmp_path}/stream"', "quit"]
    subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-S", "-display", "none",
            "-nodefaults", "-monitor", "stdio",
            "-device", f"loader,file={mark},addr=0x300000,force-raw=on",
        ],
        input="\n".join(commands).encode() + b"\n", check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    for name in (*kinds, "stream"):
        if not (tmp_path / name).exists():
            continue  # this QEMU was built without it
        source = open_file(str(tmp_path / name))
        assert source.read(0x30_0000, 2600) == mark.read_bytes(), name
        if name != "stream":  # which has the BIOS as a block of its own
            assert source.read(0xFFFF0, 1) == b"\xea", name
        else:
            assert source.read(0xFFFF_FFF0, 1) == b"\xea"
    assert (tmp_path / "elf").exists()
    assert (tmp_path / "stream").exists()
    assert "cr3" in open_file(str(tmp_path / "elf")).roots


def test_helpers_of_these_tests_agree_with_the_recognisers():
    assert all(is_packed(pack(b"x")) for pack in PACKERS.values())
    assert struct.unpack("<I", avml()[:4]) == (0x4C4D5641,)
