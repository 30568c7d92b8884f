"""Tables as other people's hypervisors lay them out, in a memory full of other things."""

import random

import numpy as np

from turducken.inspect.search.pages import PageSpace
from turducken.memory import PhysicalMemory
from turducken.paging.readers import Segment

MIB = 1 << 20
RWX, WB = 7, 6 << 3
LARGE, ACCESSED, DIRTY = 1 << 7, 1 << 8, 1 << 9


class Machine:
    """A memory and its free pages; what is not a table is noise of several kinds."""

    def __init__(self, seed=0, size=32 * MIB, *, noisy=True):
        self.dice = random.Random(seed)
        self.memory = PhysicalMemory(size)
        if noisy:
            self._make_noise(size)
        self._free = self.dice.sample(range(16, size >> 12), 3000)

    def _make_noise(self, size):
        numbers = np.random.default_rng(self.dice.randrange(1 << 30))
        words = numbers.integers(0, 1 << 63, size // 16, dtype=np.uint64)
        words[::3] >>= np.uint64(40)  # small numbers
        words[1::5] = 0
        words[2::7] = words[2::7] & np.uint64(0x1FFF_FFF0) | np.uint64(0xFFFF_8880_0000_0000)
        self.memory.write(0, words.tobytes())

    def page(self):
        """Return a page of zeros."""
        address = self._free.pop() << 12
        self.memory.write(address, bytes(4096))
        return address

    def put(self, table, index, value):
        self.memory.store(table + 8 * index, 8, value)

    @property
    def space(self):
        data = np.frombuffer(self.memory.bytes, dtype=np.uint8)
        return PageSpace([Segment(0, data)])


def tree(machine, reference, leaf, *, pages=600, empty=0, tables=None):
    """Build an EPT of 4-KiB pages: ``reference(address)`` and ``leaf(number, address)`` encode.

    Returns the root; ``tables`` collects the tables by level.
    """
    tables = {} if tables is None else tables
    root, directory_pointers, directory = (machine.page() for _ in range(3))
    machine.put(root, 0, reference(directory_pointers))
    machine.put(directory_pointers, 0, reference(directory))
    tables[0], tables[1], tables[2], tables[3] = root, directory_pointers, directory, []
    for number in range(-(-pages // 512)):
        table = machine.page()
        tables[3].append(table)
        machine.put(directory, number, reference(table))
        for index in range(512):
            page = number * 512 + index
            value = leaf(page, machine.dice.randrange(machine.memory.size >> 12) << 12)
            machine.put(table, index, value if page < pages else empty)
    return root


def kvm(machine, tables=None):
    """KVM with suppressed #VE: software bits 57, 58 and 11, MMIO as write and execute alone."""
    mmio = 0x8000_0000_0000_0006

    def leaf(number, address):
        if number % 16 == 3:
            return mmio | 0xFEB0_0000 + number * 4096 | (number & 7) << 3
        return 3 << 57 | address | 1 << 11 | WB | RWX | ACCESSED | (number % 2 * DIRTY)

    return tree(
        machine,
        lambda address: 1 << 58 | address | 1 << 11 | RWX | ACCESSED,
        leaf,
        empty=1 << 63,
        tables=tables,
    )


def xen(machine, tables=None):
    """Xen: types in bits 57:52, access in 61:58; entries to be looked at again have type 7."""

    def leaf(number, address):
        kind = (0, 1, 0, 3)[number % 4]
        return 1 << 63 | (kind | 7 << 6) << 52 | address | WB | RWX | ACCESSED | DIRTY

    return tree(
        machine,
        lambda address: 1 << 63 | 7 << 58 | address | RWX | 7 << 3,
        leaf,
        tables=tables,
    )


def virtualbox(machine, tables=None):
    """VirtualBox' kind: pages of its own number in the ignored bits, ignore-PAT."""
    return tree(
        machine,
        lambda address: address | RWX | 5 << 52,
        lambda number, address: (number % 4) << 52 | address | WB | 1 << 6 | RWX,
        tables=tables,
    )


def trustvisor(machine, tables=None):
    """TrustVisor's kind: a PAL's few pages, read and execute or read and write."""
    return tree(
        machine,
        lambda address: address | RWX,
        lambda number, address: address | WB | (5, 3)[number % 2],
        pages=40,
        tables=tables,
    )


def plain(machine, tables=None):
    """Our guest hypervisor's kind: nothing but addresses and rights."""
    return tree(
        machine,
        lambda address: address | RWX,
        lambda number, address: address | WB | RWX,
        tables=tables,
    )


KINDS = {
    "kvm": kvm,
    "xen": xen,
    "virtualbox": virtualbox,
    "trustvisor": trustvisor,
    "plain": plain,
}

MISTAKES = {
    "reserved bit in the root": (0, 1 << 5, 0),
    "page bit in the root": (0, 1 << 7, 0),
    "address beyond the processor's": (1, 1 << 50, 0),
    "reserved bits in a directory": (2, 3 << 3, 0),
    "write without read in a reference": (1, 0, 1),
    "memory type 2 in a page": (3, 0, 5 << 3 | 0),
    "memory type 7 in a page": (3, 7 << 3, 0),
    "write without read in a page": (3, 0, 1),
}
"""What is set and what is cleared in one entry of a level (0 is the root)."""


def make_mistake(machine, tables, name):
    """Spoil the first entry of a level; for pages, some in a row."""
    level, set_bits, clear_bits = MISTAKES[name]
    table = tables[3][0] if level == 3 else tables[level]
    for index in range(4 if level == 3 else 1):
        value = machine.memory.load(table + 8 * index, 8)
        if name.startswith("memory type 2"):
            value = value & ~(7 << 3) | 2 << 3
        machine.put(table, index, value & ~clear_bits | set_bits)
