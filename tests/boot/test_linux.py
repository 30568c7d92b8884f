import gzip
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_builder import Reader, elf, image_1
from kernel_builder import LINUX_CODE, bzimage, pvh_image, pvh_note, vmlinux

from turducken.address import GIB, MIB
from turducken.machine.boot import BootRequest, ImageError, Module, boot, parse_image
from turducken.machine.firmware import FirmwareOptions, install_firmware
from turducken.memory import PhysicalMemory
from turducken.system import Mode, Outcome, Stops, System, SystemOptions

RAM = 64 * MIB


class Pc:
    def __init__(self, size=RAM):
        self.memory = PhysicalMemory(size)
        self.firmware = install_firmware(self.memory, FirmwareOptions(ram_size=size))
        self.reader = Reader(self.memory)

    def boot(self, data, name="kernel", **request):
        request.setdefault("rsdp_address", self.firmware.rsdp_address)
        return boot(
            parse_image(data, name), self.memory, BootRequest(self.firmware.memory_map, **request)
        )

    def word(self, address, size=4):
        return self.reader.word(address, size)

    def e820(self, parameters):
        count = self.memory.read(parameters + 0x1E8, 1)[0]
        at = parameters + 0x2D0
        return [struct.unpack("<QQI", self.memory.read(at + 20 * n, 20)) for n in range(count)]


@pytest.fixture
def pc():
    return Pc()


# -- they run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    "data",
    [bzimage(), gzip.compress(bzimage()), pvh_image(), pvh_image(is_64=False), vmlinux()],
    ids=["bzImage", "gzip", "PVH 64", "PVH 32", "vmlinux"],
)
def test_a_kernel_starts_and_finds_its_command_line(data, mode):
    options = SystemOptions(parse_image(data, "kernel"), mode=mode, text="quiet a=b")
    result = System(options).run(Stops(max_instructions=100_000))
    assert (result.outcome, result.code, result.console) == (Outcome.GUEST_EXIT, 0, "quiet a=b")


def test_a_vmlinux_starts_with_the_selectors_of_the_64_bit_protocol():
    # mov eax, cs; cmp eax, 10h; jne wrong; mov eax, ds; cmp eax, 18h; jne wrong;
    # mov rax, rsi; shr rax, 32; out f4h, al; wrong: mov al, 1; out f4h, al
    code = bytes.fromhex("8cc8 83f810 7510 8cd8 83f818 7509 4889f0 48c1e820 e6f4 b001 e6f4")
    options = SystemOptions(parse_image(vmlinux(code), "kernel"))
    result = System(options).run(Stops(max_instructions=100_000))
    assert (result.outcome, result.code) == (Outcome.GUEST_EXIT, 0)


# -- bzImage ---------------------------------------------------------------------------------------


def test_the_state_of_the_32_bit_protocol(pc):
    state = pc.boot(bzimage(), text="x")
    assert (state.code_selector, state.data_selector) == (0x10, 0x18)
    assert (state.ebx, state.ebp, state.cr0, state.eflags) == (0, 0, 0x11, 2)
    assert state.gdt_limit == 31
    assert pc.word(state.gdt_base + 0x10, 8) == 0x00CF9B000000FFFF
    assert pc.word(state.gdt_base + 0x18, 8) == 0x00CF93000000FFFF
    assert state.eip == 16 * MIB
    assert pc.memory.read(state.eip, len(LINUX_CODE)) == LINUX_CODE


def test_the_boot_parameters(pc):
    state = pc.boot(bzimage(), text="root=/dev/ram0", initrd=b"abc")
    page = state.esi
    assert page % 4096 == 0
    assert pc.reader.string(pc.word(page + 0x228)) == "root=/dev/ram0"
    assert pc.memory.read(page + 0x210, 1)[0] == 0xFF
    assert pc.word(page + 0x70, 8) == pc.firmware.rsdp_address
    assert pc.memory.read(page + 0x202, 4) == b"HdrS"
    start, size = pc.word(page + 0x218), pc.word(page + 0x21C)
    assert pc.memory.read(start, size) == b"abc"
    assert start % 4096 == 0
    assert start + 4096 == RAM
    told = [(one.start, one.size, one.kind) for one in pc.firmware.memory_map]
    assert pc.e820(page) == told


def test_no_initrd_is_told_as_none(pc):
    page = pc.boot(bzimage()).esi
    assert (pc.word(page + 0x218), pc.word(page + 0x21C)) == (0, 0)


def test_the_initrd_stays_where_the_kernel_can_reach_it():
    pc = Pc(2 * GIB)
    page = pc.boot(bzimage(initrd_max=0x37FF_FFFF), initrd=bytes(5000)).esi
    assert pc.word(page + 0x218) + 8192 == 0x3800_0000


def test_a_relocatable_kernel_goes_elsewhere_where_its_place_is_taken():
    pc = Pc(16 * MIB)
    state = pc.boot(bzimage(preferred=16 * MIB))
    assert state.eip == 2 * MIB


def test_a_kernel_of_the_first_protocols_goes_to_1_mib(pc):
    state = pc.boot(bzimage(version=0x0202, relocatable=0))
    assert state.eip == MIB


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (bzimage()[:0x300], {}, "cut off in its setup header"),
        (bzimage(code=b""), {}, "before its protected-mode code"),
        (bzimage(payload=(0, 1000)), {}, "payload ends at byte 3560, the file at"),
        (bzimage(boot_flag=0), {}, "boot flag is 0x0000"),
        (bzimage(version=0x0201), {}, r"boot protocol 2\.01"),
        (bzimage(loadflags=0), {}, "a bzImage is needed"),
        (bzimage(preferred=GIB, relocatable=0), {}, "but memory ends at"),
        (bzimage(init_size=GIB), {}, "but memory ends at"),
        (bzimage(cmdline_size=3), {"text": "abcd"}, "has 4 bytes, the kernel takes 3"),
        (bzimage(), {"initrd": bytes(64 * MIB)}, r"initrd \(67108864 bytes\) does not fit"),
        (bzimage(), {"modules": [Module("m", b"")]}, "takes an initrd, not modules"),
        (pvh_image(note=pvh_note(1 << 40, size=8)), {}, "PVH entry point 0x10000000000 is above"),
        (pvh_image(address=GIB), {}, "but memory ends at"),
    ],
)
def test_what_cannot_be_booted_is_told_in_one_line(pc, data, options, message):
    with pytest.raises(ImageError, match=message) as caught:
        pc.boot(data, **options)
    assert "\n" not in str(caught.value)


def test_a_multiboot_image_takes_no_initrd(pc):
    with pytest.raises(ImageError, match="takes modules, not an initrd"):
        pc.boot(image_1(), initrd=b"x")


@given(st.binary(max_size=2000), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_garbage_is_an_image_or_refused(noise, size):
    data = bytearray(bzimage())
    data[0x1F1 : 0x1F1 + len(noise)] = noise
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x201:0x206] = bytes((size,)) + b"HdrS"
    with suppress(ImageError):
        Pc().boot(bytes(data), text="x", initrd=b"y")


# -- PVH -------------------------------------------------------------------------------------------


def test_the_start_information(pc):
    state = pc.boot(
        pvh_image(), text="com1", initrd=b"first", modules=[Module("m", b"second", "its text")]
    )
    info = state.ebx
    magic, version, flags, count = struct.unpack("<IIII", pc.memory.read(info, 16))
    listed, line, rsdp, ranges = struct.unpack("<QQQQ", pc.memory.read(info + 16, 32))
    assert (magic, version, flags, count) == (0x336EC578, 1, 0, 2)
    assert pc.reader.string(line) == "com1"
    assert rsdp == pc.firmware.rsdp_address
    modules = [struct.unpack("<QQQQ", pc.memory.read(listed + 32 * n, 32)) for n in range(2)]
    assert [pc.memory.read(start, size) for start, size, _, _ in modules] == [b"first", b"second"]
    assert modules[0][2] == 0
    assert pc.reader.string(modules[1][2]) == "its text"
    told = list(pc.firmware.memory_map)
    assert pc.word(info + 48) == len(told)
    for number, one in enumerate(told):
        entry = struct.unpack("<QQII", pc.memory.read(ranges + 24 * number, 24))
        assert entry == (one.start, one.size, one.kind, 0)


@pytest.mark.parametrize(
    "note", [pvh_note(MIB, owner=b"Other\0"), pvh_note(MIB, kind=17), pvh_note(MIB)[:-2]]
)
def test_another_note_is_no_entry(note):
    with pytest.raises(ImageError, match="no Multiboot"):
        parse_image(pvh_image(note=note), "image")


def test_a_64_bit_elf_file_that_is_no_kernel_is_told_so():
    with pytest.raises(ImageError, match="an ELF file with no Multiboot or Multiboot2 header"):
        parse_image(elf(b"\x90" * 16, is_64=True), "program")
