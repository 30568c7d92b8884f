import pytest

from turducken.arch.memory_types import MemoryType
from turducken.inspect.chain import Stage
from turducken.inspect.check import Checker, Surroundings, check_shadow
from turducken.inspect.findings import RULES, Report
from turducken.inspect.source import Region
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.encode import eptp
from turducken.paging.formats import EPT, PAGING_4LEVEL, Features
from turducken.paging.table import BumpAllocator, PageTable

WB = rights.make_attributes()
UC = rights.make_attributes(memory_type=MemoryType.UC)
RAM = [Region(0, 64 << 20)]


def new(fmt=EPT, memory=None, first=32 << 20):
    memory = memory or PhysicalMemory(64 << 20)
    return PageTable.create(fmt.bind(Features()), memory, BumpAllocator(first, first + (4 << 20)))


def findings(table, root=None, ram=RAM, hypervisor=()):
    report = Report()
    stage = Stage("table", table.fmt, table.root if root is None else root)
    Checker(stage, table.memory, Surroundings(ram, hypervisor), report).run()
    return report.findings


def rules(table, **kwargs):
    return {one.rule.name for one in findings(table, **kwargs)}


def leaf_address(table, address):
    return table.walk(address).steps[-1].address


def healthy():
    table = new()
    table.map(0, 0, 16 << 20, WB)
    return table


def test_a_healthy_ept_has_nothing_but_notes():
    assert rules(healthy()) == {"writable-executable"}
    assert rules(healthy(), root=eptp(healthy().root)) == {"writable-executable"}


def misconfigured(table):
    where = leaf_address(table, 0)
    table.memory.store(where, 8, table.memory.load(where, 8) & ~1)


def reserved_bits(table):
    where = leaf_address(table, 0)
    table.memory.store(where, 8, table.memory.load(where, 8) | 1 << 50)


def missing_table(table):
    table.memory.store(table.walk(0).steps[1].address + 8, 8, 0x1_0000_0007)


def loop(table):
    table.memory.store(table.root + 8, 8, table.root | 7)


def shared(table):
    where = table.walk(0).steps[1].address
    table.memory.store(where + 8, 8, table.memory.load(where, 8))


def own_tables(table):
    table.map(20 << 20, table.root, 0x1000, WB)


def own_tables_readable(table):
    table.map(20 << 20, table.root, 0x1000, rights.make_attributes("R"))


def uncached(table):
    table.change(0x1000, 0x1000, UC, rights.MEMORY_TYPE.mask)


def write_through(table):
    table.change(
        0x1000, 0x1000, rights.make_attributes(memory_type=MemoryType.WT), rights.MEMORY_TYPE.mask
    )


def beyond_ram(table):
    table.map(20 << 20, 100 << 20, 0x1000, WB)


def alias(table):
    table.map(20 << 20, 0x5000, 0x1000, UC)


def tail(table):
    table.map(1 << 30, 0, 1 << 30, WB)


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (misconfigured, "misconfigured"),
        (reserved_bits, "misconfigured"),
        (missing_table, "table-missing"),
        (loop, "loop"),
        (shared, "shared-subtree"),
        (own_tables, "tables-writable"),
        (own_tables_readable, "tables-readable"),
        (uncached, "uc-over-ram"),
        (write_through, "type-doubtful"),
        (beyond_ram, "cached-outside-ram"),
        (alias, "alias-types"),
        (tail, "large-page-tail"),
    ],
)
def test_each_planted_fault_is_found(plant, rule):
    table = healthy()
    plant(table)
    assert rule in rules(table)


def test_findings_name_range_and_entry():
    table = healthy()
    uncached(table)
    (one,) = [one for one in findings(table) if one.rule.name == "uc-over-ram"]
    assert (one.start, one.size) == (0x1000, 0x1000)
    assert one.entry_address == leaf_address(table, 0x1000)


def test_the_hypervisors_memory_must_not_be_mapped():
    table = healthy()
    own = [Region(0x10_0000, 0x3000)]
    (one,) = [
        one for one in findings(table, hypervisor=own) if one.rule.name == "hypervisor-memory"
    ]
    assert (one.start, one.size) == (0x10_0000, 0x3000)


@pytest.mark.parametrize(
    ("bits", "rule"),
    [
        (0x1, "eptp-invalid"),
        (0x1E | 0x800, "eptp-invalid"),
        (0x16, "eptp-invalid"),
        (0x18, "eptp-uncached"),
    ],
)
def test_the_eptp_is_checked(bits, rule):
    table = healthy()
    assert rule in rules(table, root=table.root | bits)


def test_guest_tables_have_their_own_words_for_it():
    table = new(PAGING_4LEVEL)
    table.map(0, 0, 4 << 20, rights.make_attributes("RX"))
    assert rules(table) == set()
    where = leaf_address(table, 0)
    table.memory.store(where, 8, table.memory.load(where, 8) | 1 << 50)
    table.map(8 << 20, 0, 0x1000, WB)
    assert {"reserved-bits", "writable-executable"} <= rules(table)


def test_a_kernel_that_maps_its_own_tables_is_only_noted():
    table = new(PAGING_4LEVEL)
    table.map(0, table.root, 0x1000, rights.make_attributes("RW", user=False))
    (one,) = findings(table)
    assert (one.rule.name, one.severity.value) == ("tables-writable", "note")
    table.map(0, table.root, 0x1000, rights.make_attributes("RW", user=True))
    (one,) = findings(table)
    assert (one.rule.name, one.severity.value) == ("tables-writable", "error")


# The shadow.


def three():
    memory = PhysicalMemory(64 << 20)
    tables = [new(memory=memory, first=first << 20) for first in (32, 40, 48)]
    ept01, ept12, ept02 = tables
    ept01.map(0, 8 << 20, 16 << 20, WB)
    ept12.map(0, 1 << 20, 0x10_0000, WB)
    ept12.map(4 << 20, 4 << 20, 0x4000, rights.make_attributes("RX"))
    ept02.map(0, 9 << 20, 0x10_0000, WB)
    ept02.map(4 << 20, 12 << 20, 0x4000, rights.make_attributes("RX"))
    return ept01, ept12, ept02


def shadow_rules(ept01, ept12, ept02):
    report = Report()
    check_shadow(ept02.mapping().ranges, ept12.mapping().ranges, ept01.mapping().ranges, report)
    return {one.rule.name for one in report.findings}


def test_a_faithful_shadow_has_no_findings():
    assert shadow_rules(*three()) == set()


def test_a_shadow_may_lag_behind():
    ept01, ept12, ept02 = three()
    ept02.unmap(0, 0x3000)
    ept02.change(0x5000, 0x1000, rights.make_attributes("R"), rights.RWX)
    assert shadow_rules(ept01, ept12, ept02) == {"shadow-partial"}


def test_removing_from_ept01_leaves_the_shadow_with_too_much():
    ept01, ept12, ept02 = three()
    ept01.unmap(1 << 20, 0x1000)
    assert shadow_rules(ept01, ept12, ept02) == {"shadow-extra"}


def test_removing_a_right_from_ept12_leaves_the_shadow_with_too_much():
    ept01, ept12, ept02 = three()
    ept12.change(0, 0x1000, rights.make_attributes("R"), rights.RWX)
    assert shadow_rules(ept01, ept12, ept02) == {"shadow-allows-more"}


def test_moving_a_page_leaves_the_shadow_elsewhere():
    ept01, ept12, ept02 = three()
    ept12.map(0x2000, 5 << 20, 0x1000, WB)
    assert shadow_rules(ept01, ept12, ept02) == {"shadow-elsewhere"}


def test_a_shadow_that_turns_wb_into_uc_is_found():
    ept01, ept12, ept02 = three()
    ept02.change(0, 0x1000, UC, rights.MEMORY_TYPE.mask)
    assert shadow_rules(ept01, ept12, ept02) == {"shadow-type"}


def test_every_rule_has_a_source():
    assert all(one.summary and one.source for one in RULES.values())


def test_bits_that_only_a_control_gives_a_meaning(tmp_path, pt_json):
    memory = PhysicalMemory(8 << 20)
    fmt = EPT.bind(Features())
    ept = PageTable.create(fmt, memory, BumpAllocator(1 << 20, 2 << 20))
    ept.map(0, 0, 0x4000, rights.make_attributes("RX"), max_shift=12)
    entry = ept.walk(0x1000).steps[-1].address
    memory.store(entry, 8, memory.load(entry, 8) | 1 << 61)
    tables = PageTable.create(
        PAGING_4LEVEL.bind(Features()), memory, BumpAllocator(2 << 20, 3 << 20)
    )
    tables.map(0, 0, 0x4000, rights.make_attributes("RW"), max_shift=12)
    restart = tables.walk(0x2000).steps[-1].address
    memory.store(restart, 8, memory.load(restart, 8) | 1 << 11)
    path = tmp_path / "dump"
    path.write_bytes(memory.bytes)

    def places(via, *options):
        _, record = pt_json("check", f"raw:{path}", "--via", via, *options)
        return {one["rule"]: one["entry_address"] for one in record["findings"]}

    via = f"ept={ept.root | 0x1E:#x}"
    assert "sub-page-writes" not in places(via)
    assert places(via, "--spp")["sub-page-writes"] == hex(entry)
    via = f"cr3={tables.root:#x}"
    assert "hlat-restart" not in places(via)
    assert places(via, "--hlat")["hlat-restart"] == hex(restart)
