"""Addresses by function and source line, from what a real compiler writes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from turducken.check.symbols import Names
from turducken.machine.boot import load_image
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
    assert names.line(address + 4) == "guest.c:6"
    assert names.line(0x10) is None


def test_an_image_without_lines() -> None:
    names = Names(find_image("lhv-amd64"))
    assert names.line(0x10_0000) is None
    assert names.describe(0) is None
