"""Images that a real assembler and linker make."""

import shutil
import struct
import subprocess

import pytest
from image_builder import Reader

from turducken.address import MIB
from turducken.machine.boot import BootRequest, boot, load_image
from turducken.machine.firmware import pc_memory_map
from turducken.memory import PhysicalMemory

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils"),
]

SOURCE = """
        .section .header, "a"
        .balign 8
        .long 0x1badb002, 3, -(0x1badb002 + 3)
        .text
        .global start
        .type start, @function
start:  hlt
        jmp start
        .size start, . - start
        .data
value:  .long 0x12345678
        .bss
        .global room
room:   .skip 0x100000
"""

SCRIPT = """
ENTRY(start)
SECTIONS
{{
    . = {linear:#x};
    .text : AT(0x200000) {{ *(.header) *(.text) }}
    .data : {{ *(.data) }}
    .bss : {{ *(.bss) }}
}}
"""


@pytest.fixture(params=["elf_i386", "elf_x86_64"])
def emulation(request):
    return request.param


@pytest.fixture(params=[0x20_0000, 0xC020_0000])
def image(tmp_path, emulation, request):
    bits = "-m32" if emulation == "elf_i386" else "-m64"
    source, script = tmp_path / "image.S", tmp_path / "image.ld"
    source.write_text(SOURCE)
    script.write_text(SCRIPT.format(linear=request.param))
    path, linked = tmp_path / "image.elf", tmp_path / "image.o"
    subprocess.run(["gcc", bits, "-c", source, "-o", linked], check=True)
    link = ["ld", "-m", emulation, "-z", "max-page-size=4096", "-T", script, linked, "-o", path]
    subprocess.run(link, check=True)
    return path


def test_a_linked_image_boots(image):
    memory = PhysicalMemory(16 * MIB)
    state = boot(load_image(image), memory, BootRequest(pc_memory_map(16 * MIB)))
    assert memory.read(state.eip, 3) == b"\xf4\xeb\xfd"
    (start, end), *_ = sorted(state.image_ranges)
    assert start <= state.eip < end
    value = state.symbols.address_of("value")
    offset = value - state.symbols.address_of("start")
    assert memory.load(state.eip + offset, 4) == 0x12345678
    assert state.symbols.describe(state.symbols.address_of("start") + 1) == "start+0x1"
    assert max(end for _, end in state.image_ranges) - start > MIB


def test_the_image_finds_its_symbols_through_the_section_headers(image, emulation):
    memory = PhysicalMemory(16 * MIB)
    state = boot(load_image(image), memory, BootRequest(pc_memory_map(16 * MIB)))
    count, size, headers, _ = Reader(memory).information_1(state.ebx)["sections"]
    layout = struct.Struct("<10I" if emulation == "elf_i386" else "<IIQQQQIIQQ")
    assert size == layout.size
    sections = list(layout.iter_unpack(memory.read(headers, count * size)))
    symbols = next(one for one in sections if one[1] == 2)
    strings = sections[symbols[6]]
    assert b"\0start\0" in memory.read(strings[3], strings[5])
    assert symbols[3] % 8 == 0
