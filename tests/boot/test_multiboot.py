import gzip
import itertools
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_builder import (
    ENTRY_CODE,
    Reader,
    RecordingMemory,
    elf,
    flat_image,
    header_1,
    header_2,
    image_1,
    image_2,
)

from turducken.address import GIB, KIB, MIB
from turducken.machine.boot import (
    BootRequest,
    ImageError,
    Module,
    boot,
    load_image,
    load_module,
    parse_image,
)
from turducken.machine.firmware import FirmwareOptions, install_firmware, pc_memory_map
from turducken.memory import PhysicalMemory

RAM = 64 * MIB


class Pc:
    def __init__(self, size=RAM, memory_type=PhysicalMemory):
        self.memory = memory_type(size)
        self.firmware = install_firmware(self.memory, FirmwareOptions(ram_size=size))
        self.reader = Reader(self.memory)

    def boot(self, data, name="kernel", *, version=None, **request):
        request.setdefault("rsdp", self.firmware.rsdp)
        image = parse_image(data, name, version)
        return boot(image, self.memory, BootRequest(self.firmware.memory_map, **request))

    def told_1(self, state):
        return self.reader.information_1(state.ebx)

    def told_2(self, state):
        return self.reader.information_2(state.ebx)


@pytest.fixture
def pc():
    return Pc()


# -- machine state ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "magic"),
    [(image_1(), 0x2BADB002), (image_2(), 0x36D76289), (flat_image(), 0x2BADB002)],
)
def test_the_state_at_the_entry(pc, data, magic):
    state = pc.boot(data)
    assert (state.eip, state.eax, state.ebp, state.cr0, state.eflags) == (MIB, magic, 0, 0x11, 2)
    assert state.memory_map.is_available(state.esp - 256, state.esp)
    assert state.esp % 16 == 0
    code, data_segment = (
        pc.reader.word(state.gdt_base + selector, 8)
        for selector in (state.code_selector, state.data_selector)
    )
    assert code == 0x00CF9B000000FFFF
    assert data_segment == 0x00CF93000000FFFF
    assert state.gdt_limit == 23


def test_nothing_lies_where_trampolines_go_or_on_something_else(pc):
    state = pc.boot(image_1(memory_size=MIB), modules=[Module("a", b"x" * 5000)])
    stack = (state.esp - 256, state.esp)
    info = (state.ebx, state.ebx + 120)
    gdt = (state.gdt_base, state.gdt_base + 24)
    placed = [*state.image_ranges, stack, info, gdt, *((m.start, m.end) for m in state.modules)]
    placed.sort()
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(placed))
    assert placed[0][0] >= 0x20000


# -- ELF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_64", [False, True])
def test_an_elf_file_is_loaded_at_its_physical_address(pc, is_64):
    data = image_1(is_64=is_64, address=2 * MIB, linear=0xC020_0000)
    state = pc.boot(data)
    assert state.eip == 2 * MIB
    assert pc.memory.read(2 * MIB + 32, 3) == ENTRY_CODE


def test_an_entry_that_is_physical_already_is_taken_as_it_is(pc):
    state = pc.boot(image_1(address=2 * MIB, linear=0xC020_0000, entry=2 * MIB + 32))
    assert state.eip == 2 * MIB + 32


def test_a_large_zero_filled_segment_costs_nothing():
    pc = Pc(8 * GIB, RecordingMemory)
    before = pc.memory.written
    state = pc.boot(image_1(memory_size=2 * GIB))
    assert pc.memory.written - before < 10_000
    assert state.image_ranges == ((MIB, MIB + 2 * GIB),)


def test_used_memory_is_zeroed(pc):
    pc.memory.write(MIB, b"\xaa" * 3 * MIB)
    pc.boot(image_1(memory_size=2 * MIB + 5), memory_is_zero=False)
    assert pc.memory.read(MIB + 64, 2 * MIB + 5 - 64) == bytes(2 * MIB + 5 - 64)
    assert pc.memory.read(3 * MIB + 5, 1) == b"\xaa"


def test_low_memory_is_zeroed_even_in_a_fresh_machine(pc):
    pc.memory.write(0x8100, b"\xaa" * 16)
    pc.boot(image_1(address=0x8000, memory_size=0x1000))
    assert pc.memory.read(0x8100, 16) == bytes(16)


def test_gzip_is_unpacked(pc):
    state = pc.boot(gzip.compress(image_1()), "kernel.gz")
    assert state.command_line == "kernel.gz"
    assert pc.memory.read(MIB + 32, 3) == ENTRY_CODE


SYMBOLS = [("start", MIB, 16, 2), ("data", MIB + 32, 4, 1), ("label", MIB + 48, 0, 0)]


@pytest.mark.parametrize("is_64", [False, True])
def test_symbols(pc, is_64):
    symbols = pc.boot(image_1(is_64=is_64, symbols=SYMBOLS)).symbols
    assert symbols.address_of("data") == MIB + 32
    assert symbols.describe(MIB + 15) == "start+0xf"
    assert symbols.describe(MIB + 16) is None
    assert symbols.describe(MIB + 100) == "label+0x34"
    assert symbols.describe(MIB) == "start"
    assert symbols.at(0) is None
    assert symbols.get("nothing") is None
    assert [one.name for one in symbols] == ["start", "data", "label"]
    assert "start" in symbols
    assert len(symbols) == 3


# -- Multiboot 1 -----------------------------------------------------------------------------------


def test_information_1(pc):
    state = pc.boot(
        image_1(),
        "lhv",
        text="cpus=2 quiet",
        modules=[Module("first", b"one", "a b"), Module("second", b"2" * 5000)],
    )
    told = pc.told_1(state)
    assert told["command_line"] == "lhv cpus=2 quiet"
    assert told["loader"] == "Turducken"
    assert told["memory"] == (639, 63 * 1024)
    assert told["device"] == b"\xff\xff\xff\x80"
    assert [text for *_, text in told["modules"]] == ["first a b", "second"]
    for (start, end, _), content in zip(told["modules"], (b"one", b"2" * 5000), strict=True):
        assert start % 4096 == 0
        assert pc.memory.read(start, end - start) == content
    expected = [(one.start, one.end, one.kind) for one in pc.firmware.memory_map]
    assert told["map"] == expected
    assert "screen" not in told


def test_without_modules_their_count_is_zero(pc):
    assert pc.told_1(pc.boot(image_1()))["modules"] == []


@pytest.mark.parametrize("is_64", [False, True])
def test_section_headers_lead_to_the_symbols(pc, is_64):
    state = pc.boot(image_1(is_64=is_64, symbols=SYMBOLS))
    count, size, headers, names = pc.told_1(state)["sections"]
    assert (count, size, names) == (3, 64 if is_64 else 40, 2)
    address_at, width = (16, 8) if is_64 else (12, 4)
    strings = pc.reader.word(headers + 2 * size + address_at, width)
    assert pc.memory.read(strings, 7) == b"\0start\0"
    assert pc.reader.word(headers + size + address_at, width) != 0


def test_a_wish_for_video_gets_the_text_screen(pc):
    told = pc.told_1(pc.boot(elf(header_1(0x7) + ENTRY_CODE)))
    assert told["screen"] == (0xB8000, 160, 80, 25, 16, 2)


def test_address_fields(pc):
    data = flat_image(load=3 * MIB, bss_end=3 * MIB + 0x3000, entry=3 * MIB + 5)
    state = pc.boot(data)
    assert state.eip == 3 * MIB + 5
    assert state.image_ranges == ((3 * MIB, 3 * MIB + 0x3000),)
    assert pc.memory.read(3 * MIB, len(data)) == data


def test_address_fields_may_leave_out_the_start_and_the_end_of_the_file(pc):
    load, skipped = MIB, b"skip" * 4
    header = header_1(0x10000, (load, load, load + 36, 0, load + 32))
    pc.boot(skipped + header + ENTRY_CODE + b"rest")
    assert pc.memory.read(load, 32) == header
    assert pc.memory.read(load + 36, 4) == bytes(4)


def test_address_fields_win_over_the_elf_file(pc):
    fields = (0x30_0060, 0x30_0000, 0, 0, 0x30_0010)
    state = pc.boot(elf(bytes(0) + header_1(0x10000, fields) + ENTRY_CODE))
    assert state.eip == 0x30_0010


# -- Multiboot 2 -----------------------------------------------------------------------------------


def test_information_2(pc):
    state = pc.boot(
        image_2(symbols=SYMBOLS),
        "hv",
        text="x",
        modules=[Module("m", b"12345", "t"), Module("n", b"")],
    )
    tags = pc.told_2(state)
    assert tags[1] == [b"hv x\0"]
    assert tags[2] == [b"Turducken\0"]
    modules = [(*struct.unpack_from("<II", one), one[8:]) for one in tags[3]]
    assert [text for *_, text in modules] == [b"m t\0", b"n\0"]
    start, end, _ = modules[0]
    assert pc.memory.read(start, end - start) == b"12345"
    assert tags[4] == [struct.pack("<II", 639, 63 * 1024)]
    assert tags[5] == [struct.pack("<III", 0x80, 0xFFFF_FFFF, 0xFFFF_FFFF)]
    size, version = struct.unpack_from("<II", tags[6][0])
    assert (size, version) == (24, 0)
    ranges = [
        (base, base + length, kind)
        for base, length, kind, _ in struct.iter_unpack("<QQII", tags[6][0][8:])
    ]
    assert ranges == [(one.start, one.end, one.kind) for one in pc.firmware.memory_map]
    assert struct.unpack_from("<III", tags[9][0]) == (3, 40, 2)
    assert tags[14] == [pc.firmware.rsdp[:20]]
    assert tags[15] == [pc.firmware.rsdp]
    assert tags[21] == [struct.pack("<I", MIB)]
    assert 8 not in tags


def test_the_entry_address_tag(pc):
    state = pc.boot(image_2((3, 0, struct.pack("<I", MIB + 7))))
    assert state.eip == MIB + 7


def test_the_address_tag(pc):
    header = header_2(
        (2, 0, struct.pack("<IIII", 5 * MIB, 5 * MIB, 0, 5 * MIB + 0x1000)),
        (3, 0, struct.pack("<I", 5 * MIB + 64)),
    )
    state = pc.boot(header + ENTRY_CODE)
    assert state.eip == 5 * MIB + 64
    assert state.image_ranges == ((5 * MIB, 5 * MIB + 0x1000),)
    assert pc.memory.read(5 * MIB, len(header)) == header


def test_the_address_tag_from_the_start_of_the_file(pc):
    header = header_2(
        (2, 0, struct.pack("<IIII", 5 * MIB + 16, 0xFFFF_FFFF, 0, 0)),
        (3, 0, struct.pack("<I", 5 * MIB)),
    )
    state = pc.boot(b"\x90" * 16 + header)
    assert state.image_ranges[0][0] == 5 * MIB
    assert pc.memory.read(5 * MIB, 1) == b"\x90"


def test_a_framebuffer_tag_gets_the_text_screen(pc):
    tags = pc.told_2(pc.boot(image_2((5, 0, struct.pack("<III", 0, 0, 0)))))
    assert struct.unpack("<QIIIBBH", tags[8][0]) == (0xB8000, 160, 80, 25, 16, 2, 0)


RELOCATABLE = (10, 0, struct.pack("<IIII", 0, 0xFFFF_FFFF, 2 * MIB, 1))


def test_a_relocatable_image_stays_where_it_is_linked_if_it_can(pc):
    assert pc.boot(image_2(RELOCATABLE)).eip == MIB


def test_a_relocatable_image_moves_out_of_a_reserved_range(pc):
    state = pc.boot(image_2(RELOCATABLE, memory_size=MIB), reserve=[range(MIB, 3 * MIB)])
    assert state.eip == 4 * MIB
    assert pc.told_2(state)[21] == [struct.pack("<I", 4 * MIB)]


def test_a_relocatable_image_may_prefer_high_addresses(pc):
    tag = (10, 0, struct.pack("<IIII", 0, 32 * MIB - 1, MIB, 2))
    state = pc.boot(image_2(tag, memory_size=MIB), reserve=[range(MIB, 3 * MIB)])
    assert state.eip == 31 * MIB


@pytest.mark.parametrize(
    ("version", "magic"), [(None, 0x2BADB002), (1, 0x2BADB002), (2, 0x36D76289)]
)
def test_an_image_with_both_headers(pc, version, magic):
    data = elf(header_2() + header_1() + ENTRY_CODE)
    assert pc.boot(data, version=version).eax == magic


# -- memory that is kept from the image ------------------------------------------------------------


def test_reserved_ranges_are_neither_told_nor_used(pc):
    kept = [range(MIB + 64 * KIB, 20 * MIB), range(48 * MIB, 64 * MIB)]
    state = pc.boot(image_1(), modules=[Module("m", b"x" * 100_000)], reserve=kept)
    told = pc.told_1(state)
    available = [(start, end) for start, end, kind in told["map"] if kind == 1]
    assert available == [(0, 0x9FC00), (MIB, MIB + 64 * KIB), (20 * MIB, 48 * MIB)]
    assert told["memory"][1] == 64
    assert told["modules"][0][0] == 20 * MIB


def test_memory_above_4_gib_is_told():
    pc = Pc(6 * GIB)
    state = pc.boot(image_1())
    assert (4 * GIB, 7 * GIB, 1) in pc.told_1(state)["map"]


def test_information_that_does_not_fit_low_memory_goes_above_the_image(pc):
    state = pc.boot(image_1(), text="x" * 600_000)
    assert state.ebx > MIB
    assert len(state.command_line) > 600_000
    image = pc.boot(image_1(address=0x10000, memory_size=0x8F000))
    assert image.esp > MIB


# -- bad input -------------------------------------------------------------------------------------


def broken_gzip():
    packed = bytearray(gzip.compress(image_1() + b"x" * 1000))
    packed[-6] ^= 0xFF
    return bytes(packed)


def bad(name, data, message, **options):
    return pytest.param(data, message, options, id=name)


@pytest.mark.parametrize(
    ("data", "message", "options"),
    [
        bad("empty", b"", "empty file"),
        bad("no header", elf(ENTRY_CODE), "an ELF file with no Multiboot or Multiboot2 header"),
        bad("text", b"#!/bin/sh\n", "has no Multiboot"),
        bad("wrong version", image_1(), "no Multiboot2 header", version=2),
        bad("cut segment", image_1()[:-1], "cut off: segment 0 ends at byte 131, the file at 130"),
        bad("cut gzip", gzip.compress(image_1())[:-20], "gzip file is cut off"),
        bad("broken gzip", broken_gzip(), "not a sound gzip file"),
        bad("too large", image_1(memory_size=GIB), "memory ends at 0x4000000"),
        bad("kept", image_1(), "kept from it", reserve=[range(MIB, 2 * MIB)]),
        bad("device hole", image_1(address=0xA0000), "not available RAM"),
        bad("no room", image_1(address=0xFFFF_0000), "memory ends"),
        bad("beyond all", image_1(is_64=True, address=1 << 60), "above 4 GiB"),
        bad("huge", image_1(is_64=True, memory_size=(1 << 64) - 1), "memory ends"),
        bad("high entry", image_1(is_64=True, linear=1 << 40, entry=1 << 39), "above 4 GiB"),
        bad("arm", image_1(machine=40), "not for x86"),
        bad("object", image_1(kind=1), "not an executable"),
        bad("unknown flag", elf(header_1(0x8) + ENTRY_CODE), "unknown requirements 0x8"),
        bad("no elf, no addresses", header_1(), "neither an ELF file nor"),
        bad("contradiction", header_1(0x10000, (MIB, 2 * MIB, 0, 0, MIB)), "contradict"),
        bad("before the file", header_1(0x10000, (MIB, 0, 0, 0, MIB)), "contradict"),
        bad("cut fields", header_1(0x10000), "header is cut off"),
        bad("promises", header_1(0x10000, (MIB, MIB, 2 * MIB, 0, MIB)), "promises 1048576 bytes"),
        bad("ends first", header_1(0x10000, (MIB, MIB, MIB - 1, 0, MIB)), "end before they begin"),
        bad("mips", elf(header_2(architecture=4)), "not for i386"),
        bad("unknown tag", image_2((77, 0, b"")), "unknown tag 77"),
        bad("no entry", header_2((2, 0, struct.pack("<IIII", MIB, MIB, 0, 0))), "no entry"),
        bad(
            "module", image_1(), "module m .* does not fit", modules=[Module("m", bytes(63 * MIB))]
        ),
    ],
)
def test_bad_images_are_refused_in_one_line(pc, data, message, options):
    with pytest.raises(ImageError, match=message) as caught:
        pc.boot(data, "image", **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_optional_tag_is_ignored(pc):
    assert pc.boot(image_2((77, 1, b"abc"))).eip == MIB


def test_files(tmp_path):
    path = tmp_path / "kernel.elf"
    path.write_bytes(image_1())
    assert load_image(path).name == "kernel.elf"
    with pytest.raises(ImageError, match="No such file"):
        load_image(tmp_path / "nothing")
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError):
        load_image("a\0b")
    assert load_module(path, "text").string == "kernel.elf text"
    path.write_bytes(gzip.compress(b"unpacked"))
    assert load_module(path).data == b"unpacked"
    path.write_bytes(gzip.compress(b"unpacked")[:-4])
    with pytest.raises(ImageError, match="cut off"):
        load_module(path)
    with pytest.raises(ImageError, match="No such file"):
        load_module(tmp_path / "nothing")


SEEDS = [image_1(symbols=SYMBOLS), image_1(is_64=True, symbols=SYMBOLS), image_2(RELOCATABLE),
         flat_image(), gzip.compress(image_1())]  # fmt: skip
PLACES = st.integers(0, 400)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=8)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 500)),
)
def test_damaged_images_are_refused_or_boot(seed, changes, cut):
    data = bytearray(seed)
    for place, content in changes:
        data[place : place + len(content)] = content
    memory = PhysicalMemory(4 * MIB)
    with suppress(ImageError):
        image = parse_image(bytes(data[:cut]), "damaged")
        state = boot(image, memory, BootRequest(pc_memory_map(4 * MIB)))
        assert state.ebx % 8 == 0
