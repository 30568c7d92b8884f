"""Names read from a running Linux kernel: from a tiny imitation of what it has in memory."""

import struct

import pytest

from turducken.address import MIB
from turducken.memory import PhysicalMemory
from turducken.symbols.linux import RunningKernel

IMAGE = 0xFFFF_FFFF_8000_0000
MODULES = 0xFFFF_FFFF_C000_0000
TEXT = IMAGE + 0x10_0000
TOP, UPPER, IMAGE_PAGES, MODULE_PAGES = 0x1000, 0x2000, 0x3000, 0x4000
"""Physical addresses of page tables; the module area is physical memory from 8 MiB on."""
SHIFT = 0x40_0000
"""phys_base: how far from where it is linked the kernel is in physical memory."""


class Kernel:
    """Memory with page tables, two symbols, and a module with one."""

    def __init__(self, *, two_byte_lengths=False, percpu=True, has_types=True):
        self.memory = PhysicalMemory(16 * MIB)
        self._map()
        self._put_symbols(two_byte_lengths, percpu, has_types)

    def put(self, address, data):
        """Write at a linear address of the kernel's."""
        base = MODULES - 8 * MIB if address >= MODULES else IMAGE - SHIFT
        self.memory.write(address - base, data)

    def _map(self):
        self.memory.write(SHIFT + TOP + 511 * 8, struct.pack("<Q", SHIFT + UPPER | 3))
        upper = struct.pack("<QQ", SHIFT + IMAGE_PAGES | 3, SHIFT + MODULE_PAGES | 3)
        self.memory.write(SHIFT + UPPER + 510 * 8, upper)
        self.memory.write(
            SHIFT + IMAGE_PAGES, struct.pack("<QQ", SHIFT | 0x83, SHIFT + 2 * MIB | 0x83)
        )
        self.memory.write(SHIFT + MODULE_PAGES, struct.pack("<Q", 8 * MIB | 0x83))

    def _put_symbols(self, two_byte_lengths, percpu, has_types):
        table = IMAGE + 0x20_0000
        names = {
            "Dmodules": IMAGE + 0x18_0000,
            "T_text": TEXT,
            "tdo_" + "x" * (200 if two_byte_lengths else 2): TEXT + 0x40,
            "D__start_BTF": IMAGE + 0x19_0000,
            "D__stop_BTF": IMAGE + 0x19_0000 + (len(btf()) if has_types else 0),
            "B_end": IMAGE + 0x30_0000,
        }
        tokens = [bytes((n,)) for n in range(256)]
        packed, offsets = b"", []
        for name, address in names.items():
            length = len(name)
            head = bytes((length,)) if length < 128 else bytes((length & 0x7F | 0x80, length >> 7))
            packed += head + name.encode()
            distance = address - IMAGE
            offsets.append(-1 - distance if percpu else distance)
        packed += b"\x04Apcp"
        offsets.append(0x100)
        words = b"".join(one + b"\0" for one in tokens)
        parts = {
            "kallsyms_offsets": struct.pack(f"<{len(offsets)}i", *offsets),
            "kallsyms_relative_base": struct.pack("<Q", IMAGE),
            "kallsyms_num_syms": struct.pack("<I", len(offsets)),
            "kallsyms_names": packed,
            "kallsyms_token_table": words,
            "kallsyms_token_index": struct.pack("<256H", *range(0, 512, 2)),
        }
        lines, at = [], table
        for name, content in parts.items():
            self.put(at, content)
            lines.append(f"SYMBOL({name})={at:x}\n")
            at += (len(content) + 63) & ~63
        lines.append(f"SYMBOL(init_top_pgt)={IMAGE + TOP:x}\nNUMBER(phys_base)={SHIFT}\n")
        self.note = ("OSRELEASE=6.1.0\nPAGESIZE=4096\n" + "".join(lines)).encode()
        self.put(IMAGE + 0x19_0000, btf())
        self._put_module()

    def _put_module(self, name=b"kvm"):
        head = IMAGE + 0x18_0000
        module, kallsyms, table, strings = (MODULES + n * 0x1000 for n in range(4))
        self.put(head, struct.pack("<QQ", module + 8, module + 8))
        self.put(module + 8, struct.pack("<QQ", head, head))
        self.put(module + 24, name)
        self.put(module + 0x100, struct.pack("<Q", kallsyms))
        self.put(kallsyms, struct.pack("<QI4xQ", table, 2, strings))
        symbol = struct.pack("<IBBHQQ", 1, 2, 0, 1, MODULES + 0x8000, 0x20)
        self.put(table, bytes(24) + symbol)
        self.put(strings, b"\0flush\0")

    def unload(self):
        head = IMAGE + 0x18_0000
        self.put(head, struct.pack("<QQ", head, head))

    def start(self):
        """The kernel has written its note."""
        self.memory.write(0xA0_0000, self.note)


def btf():
    """Type information about `struct module` and `struct mod_kallsyms`."""
    strings = b"\0"
    types = struct.pack("<IIII", 0, 1 << 24, 4, 32)  # an integer

    def text(name):
        nonlocal strings
        strings += name + b"\0"
        return len(strings) - len(name) - 1

    for name, members in (
        (b"module", ((b"state", 0), (b"list", 8), (b"name", 24), (b"kallsyms", 0x100))),
        (b"mod_kallsyms", ((b"symtab", 0), (b"num_symtab", 8), (b"strtab", 16))),
    ):
        types += struct.pack("<III", text(name), 4 << 24 | len(members), 0x200)
        for member, offset in members:
            types += struct.pack("<III", text(member), 1, offset * 8)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + (
        types + strings
    )


@pytest.mark.parametrize("percpu", [True, False])
def test_functions_of_the_kernel_and_of_its_modules_have_names(percpu):
    kernel = Kernel(percpu=percpu)
    kernel.start()
    names = RunningKernel(kernel.memory)
    assert names.describe(TEXT) == "_text"
    assert names.describe(TEXT + 0x44) == "do_xx+0x4"
    assert names.describe(MODULES + 0x8004) == "flush+0x4 [kvm]"
    assert names.describe(MODULES + 0x8020) is None
    assert names.describe(0x40_0000) is None
    assert names.describe(IMAGE + 0x40_0000) is None


def test_long_names_have_lengths_of_two_bytes():
    kernel = Kernel(two_byte_lengths=True)
    kernel.start()
    assert RunningKernel(kernel.memory).describe(TEXT + 0x40) == "do_" + "x" * 200


def test_names_come_when_the_kernel_has_left_its_note():
    kernel = Kernel()
    names = RunningKernel(kernel.memory)
    assert names.describe(TEXT) is None
    kernel.start()
    assert names.describe(TEXT) == "_text"


def test_modules_come_and_go():
    kernel = Kernel()
    kernel.start()
    names = RunningKernel(kernel.memory)
    assert names.describe(MODULES + 0x8000) == "flush [kvm]"
    kernel.unload()
    assert names.describe(MODULES + 0x8000) is None


def test_without_type_information_the_kernel_has_names_still():
    kernel = Kernel(has_types=False)
    kernel.start()
    names = RunningKernel(kernel.memory)
    assert names.describe(TEXT) == "_text"
    assert names.describe(MODULES + 0x8000) is None


@pytest.mark.parametrize("at", range(0, 0x2000, 0x167))
def test_what_is_no_table_gives_no_names_and_no_failure(at):
    kernel = Kernel()
    kernel.start()
    kernel.put(IMAGE + 0x20_0000 + at, b"\xff" * 0x90)
    kernel.put(MODULES + at, b"\xff" * 0x40)
    names = RunningKernel(kernel.memory)
    names.describe(TEXT)
    names.describe(MODULES + 0x8000)
