"""The tables of the notes' examples, and a nested system, as small snapshots.

``python -m turducken.inspect.samples DIRECTORY`` writes them; the package ships the result in
``turducken/paging/samples``, and a test compares.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from turducken.address import PAGE_SIZE
from turducken.arch.memory_types import MemoryType
from turducken.inspect.moved import MovedMemory
from turducken.inspect.writers import write_snapshot
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.encode import eptp
from turducken.paging.formats import EPT, PAGING_4LEVEL, Features
from turducken.paging.table import BumpAllocator, PageTable

SAMPLES_DIRECTORY = Path(__file__).parent.parent / "paging" / "samples"

Sample = tuple[PhysicalMemory, dict[str, int]]
_MIB = 1 << 20
_GREETING = b"L2 greets from page 1234000\n"


def _store(memory: PhysicalMemory, words: dict[int, int]) -> None:
    for address, value in words.items():
        memory.store(address, 8, value)


def lhv_before_fix() -> Sample:
    """LHV's EPT as first seen in the debugger: the page 1234000 is mapped uncached."""
    memory = PhysicalMemory(256 * _MIB)
    _store(
        memory,
        {
            0x8BB4000: 0x8BBC007,
            0x8BBC000: 0x8BBD007,
            0x8BBD048: 0x8BBE007,
            0x8BBE1A0: 0x1234007,
        },
    )
    memory.write(0x1234000, _GREETING)
    return memory, {"ept12": 0x8BB401E}


def lhv_fixed() -> Sample:
    """The same after the fix: write-back."""
    memory, roots = lhv_before_fix()
    memory.store(0x8BBE1A0, 8, 0x1234037)
    return memory, roots


def trustvisor() -> Sample:
    """TrustVisor's EPT before a PAL runs (EPTP 1467401e) and while one does (1030e01e)."""
    memory = PhysicalMemory(512 * _MIB)
    _store(
        memory,
        {
            0x14674000: 0x1467C007,
            0x1467C000: 0x14684007,
            0x14684000: 0x146A4007,
            0x14684008: 0x146A5007,
        },
    )
    _store(memory, {0x146A4000 + 8 * page: page << 12 | 0x37 for page in range(1024)})
    _store(
        memory,
        {
            0x1030E000: 0x1030F007,
            0x1030F000: 0x10310007,
            0x10310250: 0x10313007,
            0x10313850: 0x950A035,
            0x10313930: 0x9526033,
            0x10313948: 0x9529033,
        },
    )
    return memory, {"ept.main": 0x1467401E, "ept.pal": 0x1030E01E}


def nested() -> Sample:
    """Three levels: L0 at 64 MiB, L1 under EPT01, L2 under EPT12, and a shadow with four faults.

    ``ept02`` is right; ``ept02.bad`` leads elsewhere, allows more, maps more, and is uncached, once
    each. ``cr3`` is L2's own table.
    """
    memory = PhysicalMemory(128 * _MIB)
    fmt, wb = EPT.bind(Features()), rights.make_attributes()
    ept01 = PageTable.create(fmt, memory, BumpAllocator(64 * _MIB, 65 * _MIB))
    # L1 has 48 MiB: its first 16 MiB lie where they seem to lie, the rest is moved up by 16 MiB.
    ept01.map(0, 0, 16 * _MIB, wb)
    ept01.map(16 * _MIB, 32 * _MIB, 32 * _MIB, wb)
    ept01.map(0xB8000, 0xB8000, 0x8000, rights.make_attributes("RW", MemoryType.UC))
    ept12_tables = BumpAllocator(8 * _MIB, 9 * _MIB)
    ept12 = PageTable.create(fmt, memory, ept12_tables)
    ept12.map(0, 16 * _MIB, 4 * _MIB, wb)
    ept12.map(4 * _MIB, 24 * _MIB, 64 << 10, rights.make_attributes("RX"))
    ept12.map(0x1234000 + 16 * _MIB, 0x1234000, 0x1000, rights.make_attributes("RW"))
    ept02 = PageTable.create(fmt, memory, BumpAllocator(66 * _MIB, 67 * _MIB))
    ept02.map(0, 32 * _MIB, 4 * _MIB, wb)
    ept02.map(4 * _MIB, 40 * _MIB, 64 << 10, rights.make_attributes("RX"))
    ept02.map(0x1234000 + 16 * _MIB, 0x2234000, 0x1000, rights.make_attributes("RW"))
    bad = PageTable.create(fmt, memory, BumpAllocator(68 * _MIB, 69 * _MIB))
    bad.copy(ept02, 0, 64 * _MIB)
    bad.map(0x5000, 0x1_0000, 0x1000, wb)
    bad.change(4 * _MIB, 0x1000, rights.make_attributes("RWX"), rights.RWX)
    bad.map(8 * _MIB, 48 * _MIB, 0x2000, wb)
    bad.change(0x20_0000, 0x1000, rights.make_attributes("RWX", MemoryType.UC), _TYPE)
    cr3 = _guest_table(memory)
    memory.write(0x2234000, _GREETING)
    return memory, {
        "cr3": cr3,
        "ept12": eptp(ept12.root),
        "ept01": eptp(ept01.root),
        "ept02": eptp(ept02.root),
        "ept02.bad": eptp(bad.root),
    }


_TYPE = rights.MEMORY_TYPE.mask


def _guest_table(memory: PhysicalMemory) -> int:
    """Write L2's own tables: at L2-physical 1 MiB, so 33 MiB here. Return its CR3."""
    offset = 32 * _MIB

    pages = BumpAllocator(_MIB, 2 * _MIB)
    table = PageTable.create(PAGING_4LEVEL.bind(Features()), MovedMemory(memory, -offset), pages)
    kernel = rights.make_attributes("RWX", user=False)
    table.map(0xFFFF_8000_0000_0000, 0, 4 * _MIB, kernel)
    table.map(0x40_0000, 4 * _MIB, 64 << 10, rights.make_attributes("RX"))
    table.map(0x7000_0000, 0x1234000 + 16 * _MIB, 0x1000, rights.make_attributes("RW"))
    return table.root


SAMPLES: dict[str, Callable[[], Sample]] = {
    "lhv-before-fix.core": lhv_before_fix,
    "lhv-fixed.core": lhv_fixed,
    "trustvisor.core": trustvisor,
    "nested.core": nested,
}


def used_pages(memory: PhysicalMemory, roots: dict[str, int]) -> list[tuple[int, int]]:
    """Return regions that cover every page with something in it, and every root."""
    pages = np.frombuffer(memory.bytes, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)
    used = {int(page) * PAGE_SIZE for page in np.flatnonzero(pages.any(axis=1))}
    used |= {value & ~(PAGE_SIZE - 1) for value in roots.values()}
    regions: list[tuple[int, int]] = []
    for base in sorted(used):
        if regions and sum(regions[-1]) == base:
            regions[-1] = (regions[-1][0], regions[-1][1] + PAGE_SIZE)
        else:
            regions.append((base, PAGE_SIZE))
    return regions


def write_samples(directory: Path) -> None:
    """Write every sample into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in SAMPLES.items():
        memory, roots = make()
        regions = used_pages(memory, roots)
        ram = [(0, memory.size)]
        with open(directory / name, "wb") as stream:
            write_snapshot(stream, memory, regions, roots=roots, maxphyaddr=46, ram=ram)


if __name__ == "__main__":
    write_samples(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES_DIRECTORY)
