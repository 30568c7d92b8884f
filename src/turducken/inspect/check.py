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
from turducken.inspect.source import Region
from turducken.memory import Memory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.compare import Difference, compare
from turducken.paging.compose import compose, outside, within
from turducken.paging.inventory import Inventory, take_inventory
from turducken.paging.ranges import (
    DEFAULT_MAX_RANGES,
    Mapping,
    Range,
    RangeTable,
    map_ranges,
    merge,
)
from turducken.paging.readers import Bools, Words, distinct
from turducken.paging.survey import State
from turducken.paging.walker import Stop, walk

LEGACY_VIDEO = Region(0xA_0000, 0x2_0000)
"""Never RAM on a PC, though a flat dump has bytes for it."""


MIN_RANGES = 1 << 16


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the memory behind a table, in the table's output space."""

    ram: RangeTable | Sequence[Region] | None = None
    """Where there is RAM; None where that is not known."""
    hypervisor: RangeTable | Sequence[Region] = ()
    """Memory that nothing under the table may reach."""


def region_table(regions: RangeTable | Sequence[Region]) -> RangeTable:
    """Return regions as ranges that lead to themselves, ascending and united."""
    if isinstance(regions, RangeTable):
        return regions
    merged: list[list[int]] = []
    for base, size in sorted(one for one in regions if one.size > 0):
        if merged and base <= merged[-1][0] + merged[-1][1]:
            end = max(merged[-1][0] + merged[-1][1], base + size)
            merged[-1][1] = end - merged[-1][0]
        else:
            merged.append([base, size])
    starts = np.array([one[0] for one in merged], dtype=np.uint64)
    return _plain(starts, np.array([one[1] for one in merged], dtype=np.uint64))


def _plain(start: Words, size: Words) -> RangeTable:
    zero = np.zeros(len(start), dtype=np.uint64)
    return RangeTable(start, size, start, zero.astype(np.uint32), zero, zero, zero)


def without_video(regions: Sequence[Region]) -> list[Region]:
    """Return ``regions`` without the legacy video window."""
    result = []
    for one in regions:
        low = Region(one.base, max(0, min(one.end, LEGACY_VIDEO.base) - one.base))
        base = max(one.base, LEGACY_VIDEO.end)
        high = Region(base, max(0, one.end - base))
        result += [part for part in (low, high) if part.size > 0]
    return result


def inputs_of(ranges: RangeTable, regions: RangeTable | Sequence[Region]) -> RangeTable:
    """Return the input addresses of ``ranges`` that lead into ``regions``, as regions."""
    pieces = within(ranges, region_table(regions))
    return merge(_plain(pieces.start, pieces.size))


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
        self._ram = None if around.ram is None else region_table(around.ram)

    def run(self) -> None:
        """Apply every rule for a single table."""
        self.check_register()
        self.check_entries()
        self.check_structure()
        self.check_tables_reachable(self.inventory.all_tables, "the table's own")
        self.check_hypervisor()
        self.check_types()
        self.check_aliases()
        self.check_executable()
        self.check_tails()
        if self.mapping.truncated or self.inventory.truncated:
            self._add("truncated", "a limit was reached; what lies beyond was not checked")

    def _add(self, rule: str, message: str, **where: int | Severity | None) -> None:
        self.report.add(rule, self.stage.name, message, **where)  # type: ignore[arg-type]

    def check_register(self) -> None:
        """Apply the rules for the EPTP. A bare address (no flags at all) is taken for just that."""
        root = self.stage.root
        if not self.stage.fmt.is_ept or not root & 0xFFF:
            return
        wrong = []
        if e.EPTP["MT"].get(root) not in (MemoryType.UC, MemoryType.WB):
            wrong.append(f"memory type {e.EPTP['MT'].get(root)}")
        if e.EPTP["WALK"].get(root) != 3:
            wrong.append(f"walk length {e.EPTP['WALK'].get(root) + 1}")
        beyond = root >> self.stage.fmt.features.maxphyaddr
        if root & e.EPTP.reserved_mask or beyond:
            wrong.append("reserved bits")
        if wrong:
            self._add("eptp-invalid", f"EPTP {root:#x}: {', '.join(wrong)}")
        elif e.EPTP["MT"].get(root) == MemoryType.UC:
            self._add("eptp-uncached", f"EPTP {root:#x} has memory type UC for the EPT itself")

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
        self._add(
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
            self._add(
                "loop",
                f"the entry leads back to the table at {loop.table:#x} that it lies below",
                entry_address=loop.entry_address,
            )
        for one in self.inventory.shared:
            if one.table in looping:
                continue
            level = self.stage.fmt.levels[one.level].name
            self._add(
                "shared-subtree",
                f"{one.count} entries reference the table of {level}s at {one.table:#x}",
                entry_address=one.entry_address,
            )

    def check_tables_reachable(self, tables: Words, whose: str) -> None:
        """Report ranges that lead to any of ``tables``."""
        if not len(tables):
            return
        pages = distinct(tables & ~np.uint64(0xFFF))
        reached = within(self.mapping.ranges, _plain(pages, pages * 0 + np.uint64(4096)))
        for rule, letter, mask, others in (
            ("tables-writable", "written", rights.W, 0),
            ("tables-readable", "read", rights.R, rights.W),
        ):
            part = merge(reached.take(_which(reached, mask, others)))
            text = f"{whose} pages at {{target:#x}} can be {letter}"
            if self.stage.fmt.is_ept:
                self._ranges(rule, part, text)
                continue
            # A kernel reaches its own tables; its programs must not.
            self._ranges(rule, part.where(rights.U), text)
            self._ranges(rule, part.where(rights.U, 0), text, Severity.NOTE)

    def check_hypervisor(self) -> None:
        """Report ranges that lead into the hypervisor's own memory."""
        if not len(self.around.hypervisor):
            return
        reached = within(self.mapping.ranges, region_table(self.around.hypervisor))
        self._ranges("hypervisor-memory", merge(reached), "{rights} of {target:#x}")

    def check_types(self) -> None:
        """Compare memory types with where there is RAM."""
        if self._ram is None:
            return
        ranges = self.mapping.ranges
        kind = ranges.attributes >> np.uint32(8) & np.uint32(7)
        uncached = (kind == MemoryType.UC) | (kind == MemoryType.UC_MINUS)
        doubtful = ~uncached & (kind != MemoryType.WB)
        over_ram = within(ranges.take(uncached), self._ram)
        self._ranges("uc-over-ram", merge(over_ram), "{type} over RAM at {target:#x}")
        over_ram = within(ranges.take(doubtful), self._ram)
        self._ranges("type-doubtful", merge(over_ram), "{type} over RAM at {target:#x}")
        beyond = outside(ranges.take(kind == MemoryType.WB), self._ram)
        self._ranges("cached-outside-ram", beyond, "{type} at {target:#x}, where there is no RAM")

    def check_aliases(self) -> None:
        """Report memory that is mapped with more than one memory type."""
        ranges = self.mapping.ranges
        kind = ranges.attributes >> np.uint32(8) & np.uint32(7)
        present = np.flatnonzero(np.bincount(kind)).tolist()
        if len(present) < 2:
            return
        targets = {one: _target_union(ranges.take(kind == one)) for one in present}
        for position, one in enumerate(present):
            for other in present[position + 1 :]:
                both = within(targets[one], targets[other])
                for overlap in both:
                    if not self.report.has_room("alias-types", self.stage.name):
                        break
                    self._alias(overlap.target, overlap.size, (one, other))

    def _alias(self, target: int, size: int, kinds: tuple[int, int]) -> None:
        starts = [self._input_of(target, kind) for kind in kinds]
        names = [MemoryType(kind).name for kind in kinds]
        self._add(
            "alias-types",
            f"{target:#x} + {size:#x} is {names[0]} at input {starts[0]:#x} and {names[1]} at "
            f"input {starts[1]:#x}",
            start=starts[0],
            size=size,
            entry_address=self._entry_address(starts[0]),
        )

    def _input_of(self, target: int, kind: int) -> int:
        ranges = self.mapping.ranges
        kinds = ranges.attributes >> np.uint32(8) & np.uint32(7)
        hit = (ranges.target <= np.uint64(target)) & (kinds == kind)
        hit &= np.uint64(target) - ranges.target < ranges.size
        index = int(np.flatnonzero(hit)[0])
        return int(ranges.start[index]) + target - int(ranges.target[index])

    def check_executable(self) -> None:
        """Report ranges that are writable and executable: usual for an EPT, so only noted there."""
        both = self.mapping.ranges.without(rights.MEMORY_TYPE.mask | rights.IPAT | rights.G)
        part = both.where(rights.W | rights.X)
        if not self.stage.fmt.is_ept:
            self._ranges("writable-executable", part, "{rights} at {target:#x}")
        elif len(part):
            text = f"{part.total:#x} bytes in {len(part)} ranges can be written and executed"
            self._add("writable-executable", text, severity=Severity.NOTE)

    def check_tails(self) -> None:
        """Report large pages of which one end is RAM and the other is not."""
        if self._ram is None or not len(self._ram):
            return
        edges = distinct(np.concatenate((self._ram.start, self._ram.last + np.uint64(1))))
        ranges = self.mapping.ranges
        large = ranges.take(ranges.shifts >= np.uint64(1 << 13))
        first = np.searchsorted(edges, large.target, side="right")
        last = np.searchsorted(edges, large.target + (large.size - np.uint64(1)), side="right")
        for index in np.flatnonzero(last > first).tolist():
            (one,) = large.take(slice(index, index + 1))
            for edge in edges[first[index] : last[index]].tolist():
                if not self.report.has_room("large-page-tail", self.stage.name):
                    return
                self._tail_at(one, edge)

    def _tail_at(self, one: Range, edge: int) -> None:
        """Report the page of a range that contains ``edge``, if it begins before it."""
        address = one.start + edge - one.target
        found = walk(self.stage.fmt, self.memory, self.stage.root, address)
        if found.stop is Stop.PAGE and found.shift > 12 and found.page < edge:
            self._add(
                "large-page-tail",
                f"the page of {1 << found.shift:#x} bytes at {found.page:#x} crosses the "
                f"edge of RAM at {edge:#x}",
                start=address - (edge - found.page),
                size=1 << found.shift,
                entry_address=found.steps[-1].address,
            )

    def _ranges(
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
            self._add(
                rule,
                text,
                start=one.start,
                size=one.size,
                entry_address=self._entry_address(one.start),
                severity=severity,
            )
        self.report.count_more(rule, self.stage.name, len(ranges) - len(kept))

    def _entry_address(self, start: int) -> int:
        found = walk(self.stage.fmt, self.memory, self.stage.root, start)
        return found.steps[-1].address


def _which(ranges: RangeTable, mask: int, others: int) -> Bools:
    """Return which ranges have the right ``mask`` and none of ``others``."""
    wanted: Bools = ranges.attributes & np.uint32(mask | others) == np.uint32(mask)
    return wanted


def _target_union(ranges: RangeTable) -> RangeTable:
    """Return the output addresses that ``ranges`` lead to, each once, as ranges to themselves."""
    order = np.argsort(ranges.target, kind="stable")
    start = ranges.target[order]
    last = np.maximum.accumulate(start + (ranges.size[order] - np.uint64(1)))
    if not len(start):
        return _plain(start, start)
    gap = start[1:] > last[:-1]
    gap[gap] = start[1:][gap] - last[:-1][gap] > np.uint64(1)
    heads = np.concatenate((np.zeros(1, dtype=np.intp), np.flatnonzero(gap) + 1))
    ends = np.append(heads[1:], len(start)) - 1
    return _plain(start[heads], last[ends] - start[heads] + np.uint64(1))


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
