"""Addresses by function and source line, from what a real compiler writes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from turducken.machine.boot import ImageError, load_image
from turducken.symbols import Frame, Names, read_symbols
from turducken.system import find_image

SOURCE = """\
__attribute__((section(".header"), used))
static const unsigned header[3] = { 0x1badb002, 0, -0x1badb002u };
int stored;
void second(void)
{
    stored = 1;
}
void start(void)
{
    second();
    for (;;)
        ;
}
"""
SCRIPT = "ENTRY(start) SECTIONS{ . = 0x100000; .text : { *(.header) *(.text) } .bss : { *(.bss) }}"


@pytest.mark.toolchain
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils")
@pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5", "-g0"])
def test_function_and_line(tmp_path: Path, dwarf: str) -> None:
    (tmp_path / "guest.c").write_text(SOURCE)
    (tmp_path / "guest.ld").write_text(SCRIPT)
    flags = ["-m64", "-ffreestanding", "-fno-pic", "-O0", "-fcf-protection=none", dwarf]
    link = ["-nostdlib", "-static", "-no-pie", "-Wl,-T,guest.ld", "-Wl,--build-id=none", "-Wl,-n"]
    command = ["gcc", *flags, *link, "guest.c", "-o", "guest.elf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = load_image(tmp_path / "guest.elf")
    names = Names(image)
    address = image.symbols.address_of("second")
    assert address is not None
    if dwarf == "-g0":
        assert names.describe(address) == "second"
        return
    assert names.describe(address) == "second, guest.c:5"
    assert names.describe(address + 4) == "second+0x4, guest.c:6"
    assert names.describe(0x10) is None
    (tmp_path / "more.elf").write_bytes((tmp_path / "guest.elf").read_bytes())
    moved = Names(find_image("lhv-amd64"), [read_symbols(f"{tmp_path}/more.elf@7000000")])
    assert moved.describe(address - 0x10_0000 + 0x700_0004) == "second+0x4, guest.c:6"


def test_an_image_without_lines() -> None:
    names = Names(find_image("lhv-amd64"))
    assert names.describe(0) is None


MAP = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000040 t start_kernel
ffffffff82000000 D jiffies
"""


def test_a_kernels_map(tmp_path: Path) -> None:
    (tmp_path / "System.map").write_text(MAP)
    image = find_image("lhv-amd64")
    names = Names(image, [read_symbols(f"{tmp_path}/System.map")])
    assert names.describe(0xFFFF_FFFF_8100_0044) == "start_kernel+0x4"
    elsewhere = Names(image, [read_symbols(f"{tmp_path}/System.map@ffffffffa0000000")])
    assert elsewhere.describe(0xFFFF_FFFF_A000_0044) == "start_kernel+0x4"


@pytest.mark.parametrize(
    ("content", "address", "words"),
    [(b"nothing", "", "no symbols"), (MAP.encode(), "@zz", "no hexadecimal address")],
)
def test_unusable_symbol_files(tmp_path: Path, content: bytes, address: str, words: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ImageError, match=words):
        read_symbols(f"{tmp_path}/file{address}")


@pytest.mark.toolchain
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils")
def test_callers_by_call_frame_information(tmp_path: Path) -> None:
    (tmp_path / "guest.c").write_text(SOURCE)
    (tmp_path / "guest.ld").write_text(SCRIPT)
    flags = ["-m64", "-ffreestanding", "-fno-pic", "-O0", "-g", "-fno-asynchronous-unwind-tables"]
    link = ["-nostdlib", "-static", "-no-pie", "-Wl,-T,guest.ld", "-Wl,--build-id=none", "-Wl,-n"]
    command = ["gcc", *flags, "-fcf-protection=none", *link, "guest.c", "-o", "guest.elf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = load_image(tmp_path / "guest.elf")
    second, start = (image.symbols.address_of(name) for name in ("second", "start"))
    assert second is not None
    assert start is not None
    words = {0x8000: start + 9, 0x7FF8: 0x9000}
    names = Names(image)
    # At the first instruction the return address is on top, behind the push one word above.
    for pc, sp in ((second, 0x8000), (second + 1, 0x7FF8)):
        above = names.caller(Frame(pc, sp, 0x9000), words.get, is_innermost=True)
        assert above == Frame(start + 9, 0x8008, 0x9000)
    assert names.caller(Frame(0x10, 0x8000, 0), words.get, is_innermost=True) is None
