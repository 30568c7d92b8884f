import itertools
import struct

import pytest

from turducken.address import GIB, KIB, MIB
from turducken.arch.memory_types import MemoryType
from turducken.devices.chipset import Chipset
from turducken.devices.clock import Clock
from turducken.devices.cmos import MemorySizes
from turducken.devices.mtrr import Mtrrs
from turducken.machine.firmware import (
    FirmwareOptions,
    MemoryKind,
    MemoryMap,
    MemoryRange,
    aml,
    install_firmware,
    pc_memory_map,
)
from turducken.machine.firmware.registers import set_mtrrs, set_up_chipset
from turducken.memory import PhysicalMemory


class Firmware:
    """A PC's low memory as software finds it: everything is looked up by scanning."""

    def __init__(self, processors, ram_size):
        self.memory = PhysicalMemory(16 * MIB)
        self.given = install_firmware(
            self.memory, FirmwareOptions(processors=processors, ram_size=ram_size)
        )

    def word(self, address, size=4):
        return int.from_bytes(self.memory.read(address, size), "little")

    def scan(self, signature, start, end):
        for address in range(start, end, 16):
            if self.memory.read(address, len(signature)) == signature:
                return address
        raise AssertionError(f"no {signature} at {start:#x}")

    def table(self, address):
        size = self.word(address + 4)
        content = self.memory.read(address, size)
        assert sum(content) & 0xFF == 0
        return content

    def tables(self, root, entry_size):
        content = self.table(root)
        found = {}
        for at in range(36, len(content), entry_size):
            one = self.table(int.from_bytes(content[at : at + entry_size], "little"))
            found[one[:4]] = one
        return found


@pytest.fixture(params=[1, 2, 8, 255])
def firmware(request):
    return Firmware(request.param, 8 * GIB)


@pytest.fixture
def processors(firmware):
    count = firmware.tables(firmware.word(firmware.given.rsdp_address + 16), 4)
    return sum(1 for kind, *_ in madt_entries(count[b"APIC"]) if kind == 0)


def madt_entries(table):
    at, entries = 44, []
    while at < len(table):
        entries.append(table[at : at + table[at + 1]])
        at += table[at + 1]
    return entries


@pytest.mark.parametrize("area", ["EBDA", "BIOS"])
def test_the_acpi_root_pointer_is_found_by_scanning(firmware, area):
    ebda = firmware.word(0x40E, 2) << 4
    start, end = (ebda, ebda + KIB) if area == "EBDA" else (0xE0000, MIB)
    rsdp = firmware.scan(b"RSD PTR ", start, end)
    content = firmware.memory.read(rsdp, 36)
    assert sum(content[:20]) & 0xFF == sum(content) & 0xFF == 0
    assert content == firmware.given.rsdp
    by_rsdt = firmware.tables(firmware.word(rsdp + 16), 4)
    by_xsdt = firmware.tables(firmware.word(rsdp + 24, 8), 8)
    assert by_rsdt == by_xsdt
    assert set(by_rsdt) == {b"FACP", b"APIC", b"SPCR", b"DBG2", b"HPET"}


def test_the_madt_lists_the_boot_processor_first(firmware):
    table = firmware.tables(firmware.word(firmware.given.rsdp_address + 16), 4)[b"APIC"]
    entries = madt_entries(table)
    local = [struct.unpack("<BBBBI", one) for one in entries if one[0] == 0]
    assert [one[3] for one in local] == list(range(len(local)))
    assert entries[0][0] == 0
    assert all(one[4] == 1 for one in local)
    assert struct.unpack_from("<I", table, 36) == (0xFEE0_0000,)
    io_apics = [one for one in entries if one[0] == 1]
    assert struct.unpack_from("<I", io_apics[0], 4) == (0xFEC0_0000,)
    overrides = {one[3]: struct.unpack_from("<IH", one, 4) for one in entries if one[0] == 2}
    assert overrides == {0: (2, 0), 9: (9, 0xD)}
    assert [one for one in entries if one[0] == 4] == [b"\x04\x06\xff\0\0\x01"]


def test_the_fadt_leads_to_dsdt_facs_and_registers(firmware):
    table = firmware.tables(firmware.word(firmware.given.rsdp_address + 16), 4)[b"FACP"]
    facs, dsdt = struct.unpack_from("<II", table, 36)
    assert struct.unpack_from("<QQ", table, 132) == (facs, dsdt)
    assert facs % 64 == 0
    assert firmware.memory.read(facs, 8) == b"FACS" + struct.pack("<I", 64)
    assert firmware.table(dsdt)[:4] == b"DSDT"
    assert struct.unpack_from("<I", table, 76) == (0x608,)
    assert struct.unpack_from("<BBBBQ", table, 208) == (1, 32, 0, 0, 0x608)


def test_the_mp_table_is_found_by_scanning(firmware, processors):
    pointer = firmware.scan(b"_MP_", 0xF0000, MIB)
    assert sum(firmware.memory.read(pointer, 16)) & 0xFF == 0
    table = firmware.word(pointer + 4)
    length, count = firmware.word(table + 4, 2), firmware.word(table + 34, 2)
    content = firmware.memory.read(table, length)
    assert content[:4] == b"PCMP"
    assert sum(content) & 0xFF == 0
    kinds, at = [], 44
    while at < length:
        kinds.append(content[at])
        at += 20 if content[at] == 0 else 8
    assert len(kinds) == count
    assert kinds.count(0) == processors
    assert content[44 + 1] == 0
    assert content[44 + 3] == 3


def test_bios_data(firmware):
    assert firmware.word(0x400, 2) == 0x3F8
    assert firmware.word(0x413, 2) == 639
    assert firmware.word(0x40E, 2) == 0x9FC0


def test_every_vector_leads_to_code_that_returns(firmware):
    for vector in range(256):
        offset, segment = firmware.word(4 * vector, 2), firmware.word(4 * vector + 2, 2)
        code = firmware.memory.read((segment << 4) + offset, 24)
        assert 0xCF in code or code[0] in (0xE9, 0xEB)  # the services are farther away
    assert firmware.memory.read(0xFFFF0, 1) == b"\xea"


@pytest.mark.parametrize(("count", "size"), [(0, GIB), (256, GIB), (1, MIB)])
def test_machines_that_no_pc_is(count, size):
    with pytest.raises(ValueError, match=r"PC"):
        install_firmware(PhysicalMemory(MIB), FirmwareOptions(processors=count, ram_size=size))


@pytest.mark.parametrize("length", [0, 1, 62, 63, 64, 4000, 5000, 70000])
def test_aml_package_lengths_count_themselves(length):
    prefix = aml.package_length(bytes(length))
    follow = prefix[0] >> 6
    assert len(prefix) == 1 + follow
    value = prefix[0] & 0x3F
    if follow:
        value = prefix[0] & 0x0F | int.from_bytes(prefix[1:], "little") << 4
    assert value == length + len(prefix)


# -- memory map ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "upper", "top"),
    [(64 * MIB, 63 * 1024, 64 * MIB), (3 * GIB, 3 * MIB - KIB, 3 * GIB),
     (300 * GIB, 3 * MIB - KIB, 301 * GIB)],
)  # fmt: skip
def test_the_map_of_a_pc(size, upper, top):
    memory_map = pc_memory_map(size)
    assert (memory_map.lower_kib, memory_map.upper_kib) == (639, upper)
    assert max(one.end for one in memory_map.available) == top
    ranges = memory_map.ranges
    assert all(one.end <= two.start for one, two in itertools.pairwise(ranges))
    assert memory_map.is_available(MIB, min(size, 3 * GIB))
    assert not memory_map.is_available(0x9F000, MIB)


def test_reserved_ranges_are_cut_out():
    memory_map = pc_memory_map(64 * MIB).without([range(32 * MIB, 40 * MIB), range(0x1000)])
    assert [(one.start, one.end) for one in memory_map.available] == [
        (0x1000, 0x9FC00), (MIB, 32 * MIB), (40 * MIB, 64 * MIB),
    ]  # fmt: skip
    assert MemoryRange(32 * MIB, 40 * MIB, MemoryKind.RESERVED) in memory_map.ranges
    assert memory_map.upper_kib == 31 * 1024
    assert memory_map.lower_kib == 0


def test_maps_compare_by_their_ranges():
    assert pc_memory_map(GIB) == pc_memory_map(GIB) != MemoryMap([])


# -- registers -------------------------------------------------------------------------------------


def test_memory_types_as_a_bios_leaves_them():
    mtrrs = Mtrrs(maxphyaddr=40)
    set_mtrrs(mtrrs, maxphyaddr=40)
    assert list(mtrrs.ranges()) == [
        (0, 0xA0000, MemoryType.WB),
        (0xA0000, 0xC0000, MemoryType.UC),
        (0xC0000, MIB, MemoryType.WP),
        (MIB, 3 * GIB, MemoryType.WB),
        (3 * GIB, 4 * GIB, MemoryType.UC),
        (4 * GIB, 1 << 40, MemoryType.WB),
    ]


class QuietProcessor:
    def raise_init(self): ...
    def raise_sipi(self, vector): ...
    def raise_nmi(self): ...
    def interrupt_changed(self): ...


def test_the_timer_reaches_the_boot_processor_in_virtual_wire_mode():
    memory, clock = PhysicalMemory(16 * MIB), Clock()
    chipset = Chipset(memory, MemorySizes(16 * MIB), clock, [QuietProcessor(), QuietProcessor()])
    set_up_chipset(chipset, io_apic_id=2)
    assert chipset.apics[0].pending_vector() is None
    clock.advance(56_000_000)
    assert [apic.pending_vector() for apic in chipset.apics] == [0x08, None]
    assert chipset.ports.read(0x4D1, 1) == 0x02
    assert chipset.vga.text() == ""


def test_serial_port_tables_lead_to_com1(firmware):
    tables = firmware.tables(firmware.word(firmware.given.rsdp_address + 16), 4)
    spcr, dbg2 = tables[b"SPCR"], tables[b"DBG2"]
    assert len(spcr) == 80
    assert struct.unpack_from("<BxxxBBBBQ", spcr, 36) == (0, 1, 8, 0, 0, 0x3F8)
    at = struct.unpack_from("<I", dbg2, 36)[0]
    assert struct.unpack_from("<H", dbg2, at + 1)[0] == len(dbg2) - at
    assert struct.unpack_from("<HH", dbg2, at + 12) == (0x8000, 0)
    registers = at + struct.unpack_from("<H", dbg2, at + 18)[0]
    assert struct.unpack_from("<BBBBQ", dbg2, registers) == (1, 8, 0, 0, 0x3F8)
    name = at + struct.unpack_from("<H", dbg2, at + 6)[0]
    assert dbg2[name:] == b"\\_SB_.COM1\0"


def test_the_hpet_table_says_what_the_hpet_says(firmware):
    table = firmware.tables(firmware.word(firmware.given.rsdp_address + 16), 4)[b"HPET"]
    assert struct.unpack_from("<IBBBBQ", table, 36) == (0x8086_A201, 0, 64, 0, 0, 0xFED0_0000)


def test_smbios_structures_describe_processors_and_memory(firmware, processors):
    entry = firmware.scan(b"_SM_", 0xF0000, MIB)
    content = firmware.memory.read(entry, 31)
    assert sum(content) & 0xFF == sum(content[16:]) & 0xFF == 0
    size, address, count = struct.unpack_from("<HIH", content, 22)
    table = firmware.memory.read(address, size)
    found, at = {}, 0
    for _ in range(count):
        kind, length = table[at], table[at + 1]
        found.setdefault(kind, []).append(table[at : at + length])
        at = table.index(b"\0\0", at + length) + 2
    assert at == size
    assert len(found[4]) == processors
    lengths = {kind: len(ones[0]) for kind, ones in found.items()}
    assert lengths == {0: 24, 1: 27, 4: 42, 16: 23, 17: 40, 19: 31, 32: 11, 127: 4}
    ranges = [struct.unpack_from("<II", one, 4) for one in found[19]]
    assert ranges == [(0, 3 * MIB - 1), (4 * MIB, 9 * MIB - 1)]  # in KiB: 8 GiB of RAM
    assert struct.unpack_from("<H", found[17][0], 12) == (8192,)
