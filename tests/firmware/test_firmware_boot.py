"""A machine that is switched on: SeaBIOS and OVMF from Debian's packages, GRUB from a CD."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from turducken.cli.entry import run
from turducken.machine.boot import ImageError
from turducken.machine.firmware.rom import find_rom, make_rom
from turducken.machine.machine import Outcome
from turducken.storage import parse_disk
from turducken.system import Mode, Stops, System, SystemOptions, find_image, shipped_images
from turducken.system.images import shipped_applications

LIMIT = 3_000_000_000


def has(name):
    try:
        find_rom(name)
    except ImageError:
        return False
    return True


needs_seabios = pytest.mark.skipif(
    not has("seabios"), reason="Debian's package seabios is not installed"
)
needs_ovmf = pytest.mark.skipif(not has("ovmf"), reason="Debian's package ovmf is not installed")
needs_grub = pytest.mark.skipif(
    shutil.which("grub-mkimage") is None
    or shutil.which("xorriso") is None
    or not Path("/usr/lib/grub/i386-pc/multiboot.mod").exists(),
    reason="Debian's packages grub-common, grub-pc-bin and xorriso are not all installed",
)


@pytest.fixture(scope="module")
def grub_cd(tmp_path_factory):
    """A CD with GRUB that starts lhv with a few tests."""
    folder = tmp_path_factory.mktemp("cd")
    grub = folder / "cd/boot/grub"
    grub.mkdir(parents=True)
    shutil.copy(shipped_images()["lhv-amd64"], folder / "cd/boot/lhv.elf")
    (grub / "grub.cfg").write_text(
        "set timeout=0\nmultiboot /boot/lhv.elf tests=ept-identity,ept-note-page\nboot\n"
    )
    modules = ("biosdisk", "iso9660", "multiboot", "normal", "configfile")
    command = ["grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub", "-o"]
    subprocess.run([*command, str(grub / "core.img"), *modules], check=True)
    made = folder / "cd.iso"
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-b", "boot/grub/core.img"]
    command += ["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-o", str(made)]
    subprocess.run([*command, str(folder / "cd")], check=True, capture_output=True)
    return made


def started(firmware, mode, until, **options):
    system = System(SystemOptions(find_rom(firmware), mode, **options))
    return system.run(Stops(re.compile(until), max_instructions=LIMIT))


@needs_seabios
@needs_grub
@pytest.mark.parametrize(("mode", "cpus"), [(Mode.BARE, 2), (Mode.NESTED, 1)])
def test_seabios_and_grub_start_lhv_from_a_cd(grub_cd, mode, cpus):
    result = started("seabios", mode, "no such line", cpus=cpus, cdroms=(str(grub_cd),))
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0), result.console[-2000:]
    assert f"# lhv: all {2 * cpus} tests passed" in result.console
    assert "SeaBIOS" in result.console


@needs_seabios
def test_nothing_to_boot_ends_in_a_reset(tmp_path):
    result = started("seabios", Mode.BARE, "no such line")
    assert "No bootable device" in result.console
    assert result.outcome is Outcome.RESET
    assert result.requested_by is not None
    assert result.exit_status == 1


@needs_seabios
@pytest.mark.parametrize("interface", ["ide", "virtio"])
def test_a_boot_sector_of_the_first_disk_runs(tmp_path, interface):
    # mov dx, 0f4h; mov eax, 42; out dx, eax; hlt
    code = bytes.fromhex("baf400 66b82a000000 66ef f4")
    disk = tmp_path / "disk.img"
    disk.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    result = started("seabios", Mode.BARE, "none", disks=[parse_disk(f"{disk}:{interface}")])
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 42)


@needs_seabios
@pytest.mark.parametrize("mode", [Mode.BARE, Mode.NESTED])
def test_the_first_disk_chain_loads_the_second(tmp_path, mode):
    # xor ax, ax; mov es, ax; mov ax, 0201h; mov cx, 1; mov dx, 81h; mov bx, 7e00h; int 13h;
    # jmp 0:7e00h
    loader = bytes.fromhex("31c0 8ec0 b80102 b90100 ba8100 bb007e cd13 ea007e0000")
    # mov dx, 0f4h; mov eax, 43; out dx, eax; hlt
    loaded = bytes.fromhex("baf400 66b82b000000 66ef f4")
    disks = []
    for name, code in (("c.img", loader), ("d.img", loaded)):
        path = tmp_path / name
        path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
        disks.append(parse_disk(str(path)))
    result = started("seabios", mode, "none", disks=disks)
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 43)
    assert (tmp_path / "c.img").read_bytes()[: len(loader)] == loader


@needs_ovmf
@pytest.mark.parametrize("mode", [Mode.BARE, pytest.param(Mode.NESTED, marks=pytest.mark.slow)])
def test_ovmf_reaches_its_shell(mode):
    result = started("ovmf", mode, "Shell>")
    assert result.outcome is Outcome.UNTIL
    assert "UEFI Interactive Shell" in result.console


@needs_ovmf
@pytest.mark.parametrize("mode", [Mode.BARE, Mode.NESTED])
def test_a_uefi_application_enters_vmx_operation_and_ends_the_run(mode):
    result = System(SystemOptions(find_image("uefi-vmx"), mode)).run(Stops(max_instructions=LIMIT))
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0)
    assert "uefi-vmx: a guest ran in VMX operation" in result.console


@needs_ovmf
def test_what_firmware_cannot_load_fails(tmp_path):
    application = bytearray(shipped_applications()["uefi-vmx"].read_bytes())
    application[0x400:] = bytes(len(application) - 0x400)
    path = tmp_path / "broken.efi"
    path.write_bytes(application)
    result = System(SystemOptions(find_image(str(path)))).run(Stops(max_instructions=LIMIT))
    assert (result.outcome, result.exit_status) == (Outcome.GUEST_EXIT, 1)


@pytest.mark.parametrize("size", [0, 100, 65536 + 512, (16 << 20) + 4096])
def test_what_cannot_be_firmware_is_refused(size):
    with pytest.raises(ImageError, match="no firmware"):
        make_rom("x", bytes(size))


def test_mistakes_are_one_line(capfd, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    rom = tmp_path / "rom"
    rom.write_bytes(b"\xf4" * 65536)
    for words in (
        ["--firmware", str(tmp_path / "missing")],
        ["--firmware", str(disk)],
        ["lhv-i386", "--firmware", str(rom)],
        ["--disk", str(tmp_path / "missing")],
        ["--disk", f"{disk}:fast"],
        ["--cdrom", str(tmp_path)],
        *([["--disk", str(disk)] * 5]),
        ["--serial", str(tmp_path / "a")] * 4,
    ):
        assert run(["run", *words]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("turducken: ")


@pytest.mark.parametrize("mode", ["bare", "nested"])
def test_firmware_of_ones_own_begins_at_the_reset_vector(tmp_path, mode):
    # At the reset vector: mov dx, 0f4h; mov eax, [cs:0ffe0h]; out dx, eax; hlt
    code = bytes.fromhex("baf400 66 2e a1e0ff 66ef f4")
    rom = bytearray(65536)
    rom[0xFFF0 : 0xFFF0 + len(code)] = code
    rom[0xFFE0:0xFFE4] = (7).to_bytes(4, "little")
    path = tmp_path / "rom"
    path.write_bytes(rom)
    record = tmp_path / "result.json"
    words = ["run", "--firmware", str(path), "--mode", mode, "--json", str(record), "--quiet"]
    assert run(words) == 1
    assert '"guest_exit_code": 7' in record.read_text()


def test_the_rom_is_not_written(tmp_path):
    # xor ax, ax; mov dword [cs:0ffe0h], 5: a write that is lost; then as above
    code = bytes.fromhex("66 2e c706e0ff05000000 baf400 66 2e a1e0ff 66ef f4")
    rom = bytearray(65536)
    rom[0xFFE0:0xFFE4] = (9).to_bytes(4, "little")
    rom[0xF000 : 0xF000 + len(code)] = code
    rom[0xFFF0:0xFFF3] = b"\xe9" + (0xF000 - 0xFFF3 & 0xFFFF).to_bytes(2, "little")
    result = System(SystemOptions(make_rom("rom", bytes(rom)))).run(Stops())
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 9)
