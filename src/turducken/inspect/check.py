"""Checks of one table and of a shadow: what is wrong with it, or at least doubtful.

The rules are in `turducken.inspect.findings`. Nothing here walks entry by entry: ranges, tables and
regions are intersected as intervals, and only what is reported is looked up again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turducken.arch.memory_types import MemoryType
from turducken.inspect.chain import Stage
from turducken.inspect.findings import Report, Severity
from turducken.inspect.regions import plain, region_table
from turducken.inspect.software_bits import SoftwareBits
from turducken.inspect.source import Region
from turducken.inspect.type_rules import TypeRules
from turducken.memory import Memory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.compare import Difference, compare
from turducken.paging.compose import compose, within
from turducken.paging.inventory import Inventory, take_inventory
from turducken.paging.ranges import (
    DEFAULT_MAX_RANGES,
    Mapping,
    RangeTable,
    map_ranges,
    merge,
)
from turducken.paging.readers import Bools, Words, distinct
from turducken.paging.survey import State
from turducken.paging.walker import walk

MIN_RANGES = 1 << 16


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the memory behind a table, in the table's output space."""

    ram: RangeTable | Sequence[Region] | None = None
    """Where there is RAM; None where that is not known."""
    hypervisor: RangeTable | Sequence[Region] = ()
    """Memory that nothing under the table may reach."""
    types: Sequence[tuple[MemoryType, RangeTable | Sequence[Region]]] = ()
    """What the MTRRs make of the memory, by type; empty where that is not known."""
    devices: RangeTable | Sequence[Region] = ()
    """Memory that is known to be devices'."""
    has_sub_pages: bool = False
    """Sub-page write permissions are on."""
    is_hlat: bool = False
    """The table is that of HLAT paging."""


class Checker:
    """Applies the rules to one stage; findings go to ``report``."""

    def __init__(self, stage: Stage, memory: Memory, around: Surroundings, report: Report) -> None:
        self.stage = stage
        self.memory = memory
        self.around = around
        self.report = report
        self.inventory: Inventory = take_inventory(stage.fmt, memory, stage.root)
        # Tables that are used again and again need not be gone through each time.
        entries = self.inventory.count * (stage.fmt.levels[-1].index_mask + 1)
        self.mapping: Mapping = map_ranges(
            stage.fmt,
            memory,
            stage.root,
            pat=stage.pat,
            max_ranges=max(MIN_RANGES, min(DEFAULT_MAX_RANGES, 2 * entries)),
        )
        self.ram = None if around.ram is None else region_table(around.ram)

    def run(self) -> None:
        """Apply every rule for a single table."""
        self.check_register()
        self.check_entries()
        self.check_structure()
        self.check_tables_reachable(self.inventory.all_tables, "the table's own")
        self.check_hypervisor()
        self.check_executable()
        self.check_nothing()
        TypeRules(self).run()
        if self.around.has_sub_pages:
            SoftwareBits(self).check_sub_pages()
        if self.around.is_hlat:
            SoftwareBits(self).check_restarts()
        if self.mapping.truncated or self.inventory.truncated:
            self.add("truncated", "a limit was reached; what lies beyond was not checked")

    def add(self, rule: str, message: str, **where: int | Severity | None) -> None:
        """Report a finding about this stage."""
        self.report.add(rule, self.stage.name, message, **where)  # type: ignore[arg-type]

    def check_register(self) -> None:
        """Apply the rules for the EPTP. A bare address (no flags at all) is taken for just that."""
        root = self.stage.root
        if not self.stage.fmt.is_ept or not root & 0xFFF:
            return
        wrong = []
        if e.EPTP["MT"].get(root) not in (MemoryType.UC, MemoryType.WB):
            wrong.append(f"memory type {e.EPTP['MT'].get(root)}")
        if e.EPTP["WALK"].get(root) != len(self.stage.fmt.levels) - 1:
            wrong.append(f"walk length {e.EPTP['WALK'].get(root) + 1}")
        beyond = root >> self.stage.fmt.features.maxphyaddr
        if root & e.EPTP.reserved_mask or beyond:
            wrong.append("reserved bits")
        if wrong:
            self.add("eptp-invalid", f"EPTP {root:#x}: {', '.join(wrong)}")
        elif e.EPTP["MT"].get(root) == MemoryType.UC:
            self.add("eptp-uncached", f"EPTP {root:#x} has memory type UC for the EPT itself")

    def check_entries(self) -> None:
        """Report malformed entries and references to nowhere."""
        problems = self.mapping.problems
        for index in range(len(problems)):
            malformed = problems.state[index] == State.MALFORMED
            rule = "table-missing"
            if malformed:
                rule = "misconfigured" if self.stage.fmt.is_ept else "reserved-bits"
            if not self.report.has_room(rule, self.stage.name):
                self.report.count_more(rule, self.stage.name, 1)
                continue
            self._problem(rule, index)

    def _problem(self, rule: str, index: int) -> None:
        problems = self.mapping.problems
        entry = int(problems.entry[index])
        level = self.stage.fmt.levels[int(problems.level[index])]
        count = int(problems.count[index])
        more = f" and {count - 1} more like it" if count > 1 else ""
        if rule == "table-missing":
            message = f"the table at {entry:#x} is not in memory"
        else:
            why = malformed_because(self.stage, int(problems.level[index]), entry)
            message = f"{level.name} {entry:#x}{more}: {why}"
        self.add(
            rule,
            message,
            start=self.mapping.problem_address(index),
            size=self.mapping.problem_size(index),
            entry_address=int(problems.entry_address[index]),
        )

    def check_structure(self) -> None:
        """Report tables that are reachable from themselves, and tables used twice."""
        looping = set()
        for loop in self.inventory.loops:
            looping.add(loop.table)
            self.add(
                "loop",
                f"the entry leads back to the table at {loop.table:#x} that it lies below",
                entry_address=loop.entry_address,
            )
        for one in self.inventory.shared:
            if one.table in looping:
                continue
            level = self.stage.fmt.levels[one.level].name
            self.add(
                "shared-subtree",
                f"{one.count} entries reference the table of {level}s at {one.table:#x}",
                entry_address=one.entry_address,
            )

    def check_tables_reachable(self, tables: Words, whose: str) -> None:
        """Report ranges that lead to any of ``tables``."""
        if not len(tables):
            return
        pages = distinct(tables & ~np.uint64(0xFFF))
        reached = within(self.mapping.ranges, plain(pages, pages * 0 + np.uint64(4096)))
        for rule, letter, mask, others in (
            ("tables-writable", "written", rights.W, 0),
            ("tables-readable", "read", rights.R, rights.W),
        ):
            part = merge(reached.take(_which(reached, mask, others)))
            text = f"{whose} pages at {{target:#x}} can be {letter}"
            if self.stage.fmt.is_ept:
                self.add_ranges(rule, part, text)
                continue
            # A kernel reaches its own tables; its programs must not.
            self.add_ranges(rule, part.where(rights.U), text)
            self.add_ranges(rule, part.where(rights.U, 0), text, Severity.NOTE)

    def check_hypervisor(self) -> None:
        """Report ranges that lead into the hypervisor's own memory."""
        if not len(self.around.hypervisor):
            return
        reached = within(self.mapping.ranges, region_table(self.around.hypervisor))
        self.add_ranges("hypervisor-memory", merge(reached), "{rights} of {target:#x}")

    def check_nothing(self) -> None:
        """Report an EPT under which no access succeeds."""
        if self.stage.fmt.is_ept and not len(self.mapping.ranges):
            self.add("maps-nothing", f"the EPT at {self.stage.table_address:#x} maps no page")

    def check_executable(self) -> None:
        """Report ranges that are writable and executable: usual for an EPT, so only noted there."""
        both = self.mapping.ranges.without(rights.MEMORY_TYPE.mask | rights.IPAT | rights.G)
        part = both.where(rights.W | rights.X)
        if not self.stage.fmt.is_ept:
            self.add_ranges("writable-executable", part, "{rights} at {target:#x}")
        elif len(part):
            text = f"{part.total:#x} bytes in {len(part)} ranges can be written and executed"
            self.add("writable-executable", text, severity=Severity.NOTE)

    def add_ranges(
        self, rule: str, ranges: RangeTable, message: str, severity: Severity | None = None
    ) -> None:
        """Report each range under ``rule``; ``message`` may use target, rights and type."""
        kept = ranges.take(slice(0, self.report.limit))
        for one in kept:
            text = message.format(
                target=one.target,
                rights=rights.rights_text(one.attributes),
                type=rights.type_text(one.attributes),
            )
            self.add(
                rule,
                text,
                start=one.start,
                size=one.size,
                entry_address=self.entry_address(one.start),
                severity=severity,
            )
        self.report.count_more(rule, self.stage.name, len(ranges) - len(kept))

    def entry_address(self, start: int) -> int:
        """Return where the last entry lies that a walk of ``start`` reads."""
        found = walk(self.stage.fmt, self.memory, self.stage.root, start)
        return found.steps[-1].address


def _which(ranges: RangeTable, mask: int, others: int) -> Bools:
    """Return which ranges have the right ``mask`` and none of ``others``."""
    wanted: Bools = ranges.attributes & np.uint32(mask | others) == np.uint32(mask)
    return wanted


def malformed_because(stage: Stage, number: int, entry: int) -> str:
    """Say what makes ``entry``, of level ``number``, one that the processor refuses."""
    fmt, level = stage.fmt, stage.fmt.levels[number]
    is_leaf = bool(entry & level.leaf_mask)
    reasons = []
    if fmt.bad_permissions >> (entry & 7) & 1:
        reasons.append(
            {2: "writable but not readable", 6: "writable but not readable"}.get(
                entry & 7, "executable but not readable, which this processor does not offer"
            )
        )
    bits = entry & (level.leaf_reserved if is_leaf else level.table_reserved)
    if bits:
        places = ", ".join(str(bit) for bit in range(64) if bits >> bit & 1)
        reasons.append(f"reserved bit{'s' if bits & bits - 1 else ''} {places} set")
    if is_leaf and fmt.bad_types >> (entry >> 3 & 7) & 1:
        reasons.append(f"memory type {entry >> 3 & 7} is reserved")
    return "; ".join(reasons) or "well-formed"


# The machine.


def check_against(mine: RangeTable, machines: RangeTable, name: str, checker: "Checker") -> None:
    """Report where a table leads elsewhere, or allows other things, than the machine's own does."""
    for one in compare(mine, machines):
        here, there = (
            "nothing" if target is None else f"{target:#x} {rights.describe(word or 0)}"
            for target, word in ((one.target_a, one.attributes_a), (one.target_b, one.attributes_b))
        )
        checker.add(
            "machine-differs",
            f"leads to {here}; the machine's {name} to {there}",
            start=one.start,
            size=one.size,
        )


# The shadow.

SHADOW_ATTRIBUTES = rights.RWX | rights.MEMORY_TYPE.mask | rights.IPAT


def check_shadow(shadow: RangeTable, ept12: RangeTable, ept01: RangeTable, report: Report) -> None:
    """Compare EPT02 with EPT01(EPT12(x)): places where it allows more, or leads elsewhere.

    A shadow may lack mappings and permissions (it is filled on demand); that is only noted.
    """
    found = compare(compose(ept12, ept01).ranges, shadow, mask=SHADOW_ATTRIBUTES)
    may, does = found.a.attributes, found.b.attributes
    both = found.a.there & found.b.there
    kinds = np.uint32(rights.MEMORY_TYPE.mask | rights.IPAT)
    every = np.uint32(rights.RWX)
    checks = (
        ("shadow-extra", found.b.there & ~found.a.there, _extra),
        ("shadow-elsewhere", both & (found.a.target != found.b.target), _elsewhere),
        ("shadow-allows-more", both & (does & ~may & every != 0), _allows_more),
        ("shadow-type", both & ((may ^ does) & kinds != 0), _other_type),
    )
    for rule, where, describe in checks:
        indices = np.flatnonzero(where)
        for index in indices[: report.limit].tolist():
            one = found.at(index)
            start = shadow.find(one.start)
            entry = start.entry_address if start and start.start == one.start else None
            text = describe(one)
            report.add(rule, "ept02", text, start=one.start, size=one.size, entry_address=entry)
        report.count_more(rule, "ept02", max(0, len(indices) - report.limit))
    lacking = found.a.there & (~found.b.there | (may & ~does & every != 0))
    if lacking.any():
        less = int(found.size[lacking].sum())
        text = f"{less:#x} bytes are not mapped, or with fewer permissions than they may have"
        report.add("shadow-partial", "ept02", text)


def _extra(one: Difference) -> str:
    return f"leads to {one.target_b:#x}; EPT12 and EPT01 map nothing here"


def _elsewhere(one: Difference) -> str:
    return f"leads to {one.target_b:#x}, but EPT01(EPT12(x)) is {one.target_a:#x}"


def _allows_more(one: Difference) -> str:
    may, does = one.attributes_a or 0, one.attributes_b or 0
    return f"{rights.rights_text(does)}, but EPT12 and EPT01 give {rights.rights_text(may)}"


def _other_type(one: Difference) -> str:
    may, does = one.attributes_a or 0, one.attributes_b or 0
    return f"{rights.type_text(does)}, but EPT12 under EPT01 is {rights.type_text(may)}"
