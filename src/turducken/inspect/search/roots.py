"""From pages that are plausible as top tables to a ranked list, with the evidence for each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from turducken.inspect.chain import Stage
from turducken.inspect.check import malformed_because
from turducken.inspect.search.judge import (
    FEATURES,
    LOOSE,
    PHYSICAL_BITS,
    SEARCHED,
    WRITE_ONLY,
    Judge,
    Root,
)
from turducken.inspect.search.pages import PageSpace
from turducken.memory import Memory
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.compose import within
from turducken.paging.formats import FORMATS, BoundFormat
from turducken.paging.inventory import take_inventory
from turducken.paging.ranges import Mapping, RangeTable, map_ranges
from turducken.paging.readers import Bools
from turducken.paging.survey import State

_PHYSICAL = (1 << PHYSICAL_BITS) - 1
MAX_CANDIDATES = 4096
_MAX_KINDS = 16
_STRENGTH = {name: (name == "32-bit") * 2 + (name == "PAE") for name in SEARCHED}
"""Formats with more structure first: a PAE directory also reads as a 32-bit one."""

_TYPE = np.uint32(rights.MEMORY_TYPE.mask)
_WB, _UC = np.uint32(6 << 8), np.uint32(0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plausible root, with the evidence for it."""

    root: int
    format: str
    also: tuple[str, ...]
    """Other formats that the same tables are well-formed in."""
    score: float
    tables: int
    leaves: int
    mapped: int
    malformed: int
    in_memory: float
    """The part of the mapped bytes that leads to memory which the source has."""
    attributes: int
    """How many different attributes its pages have."""
    fault: str = ""
    """What is wrong with its first malformed entry."""
    signs: tuple[str, ...] = ()
    """What tells its format from others that the same bytes could be."""
    is_near_miss: bool = False
    """It has more garbage in it than a table usually has."""

    @property
    def evidence(self) -> str:
        """Return the evidence as one line."""
        text = (
            f"{self.tables} tables, {self.leaves} pages, {self.in_memory:.0%} of them to memory, "
            f"{self.attributes} kinds of rights, {self.malformed} malformed entries"
        )
        signs = f"; {', '.join(self.signs)}" if self.signs else ""
        return text + signs + (f"; {self.fault}" if self.fault else "")


def find_roots(
    memory: Memory,
    space: PageSpace,
    formats: Sequence[str] = SEARCHED,
    *,
    near_misses: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> list[Candidate]:
    """Return the plausible roots in ``space``, the likeliest first.

    ``memory`` has the same addresses as ``space``. Tables below another root are not listed. With
    ``near_misses`` pages with more garbage are listed too, behind all others.
    """
    found = _ranked(memory, space, Judge(space, formats, on_progress=on_progress).roots())
    if near_misses:
        known = {one.root for one in found}
        more = _ranked(memory, space, Judge(space, formats, tolerance=LOOSE).roots())
        found += [replace(one, is_near_miss=True) for one in more if one.root not in known]
    return found


def _ranked(memory: Memory, space: PageSpace, roots: Sequence[Root]) -> list[Candidate]:
    backed = space.as_ranges()
    roots = roots[:MAX_CANDIDATES]
    limits = _Limits.for_each_of(len(roots))
    judged = [_weigh(memory, one, space, backed, limits) for one in roots]
    best = sorted(filter(_is_sound, judged), key=lambda one: (_STRENGTH[one.format], -one.score))
    result: dict[int, Candidate] = {}
    inner: set[int] = set()
    for one in best:
        if one.root in result:
            first = result[one.root]
            if _STRENGTH[one.format] == _STRENGTH[first.format] and one.malformed == 0:
                result[one.root] = _with_also(first, one.format)
            continue
        if one.root in inner:
            continue
        fmt = FORMATS[one.format].bind(FEATURES)
        tables = take_inventory(fmt, memory, one.root, max_tables=1 << 16)
        for level in tables.tables[1:]:
            inner.update(level.tolist())
        result[one.root] = one
    return sorted(result.values(), key=lambda one: -one.score)


def _is_sound(one: Candidate) -> bool:
    """Ask more of the format whose entries hardly reserve any bit."""
    return one.leaves > 0 and (
        one.format != "32-bit" or (one.in_memory >= 0.5 and one.attributes <= _MAX_KINDS)
    )


def _with_also(one: Candidate, name: str) -> Candidate:
    return replace(one, also=(*one.also, name)) if name not in one.also else one


@dataclass(frozen=True, slots=True)
class _Limits:
    """How much of a table is looked at to weigh it: many candidates are mostly garbage."""

    max_tables: int
    max_ranges: int

    @classmethod
    def for_each_of(cls, count: int) -> "_Limits":
        """Share out what all candidates together may cost."""
        share = max(1, count)
        return cls(
            max(1 << 8, min(1 << 14, (1 << 16) // share)),
            max(1 << 11, min(1 << 17, (1 << 20) // share)),
        )


def _weigh(
    memory: Memory, root: Root, space: PageSpace, backed: RangeTable, limits: _Limits
) -> Candidate:
    fmt = FORMATS[root.format].bind(FEATURES)
    tables, ranges = limits.max_tables, limits.max_ranges
    strict = map_ranges(fmt, memory, root.address, max_tables=tables, max_ranges=ranges)
    faulty, marks = _malformed(strict, space)
    malformed, devices = (int(strict.problems.count[one].sum()) for one in (faulty, marks))
    mapping = strict
    if malformed and 2 * int(strict.ranges.leaves.sum()) < root.leaves:
        # What its faults hide belongs to the table, too.
        kind = lenient(fmt)
        mapping = map_ranges(kind, memory, root.address, max_tables=tables, max_ranges=ranges)
    found = mapping.ranges
    leaves = max(int(found.leaves.sum()), root.leaves)
    inside = within(found, backed).total if len(found) else 0
    share = inside / found.total if found.total else 0.0
    kinds = len(np.unique(found.attributes)) if len(found) else 0
    score = 2 * math.log2(1 + mapping.tables_read) + math.log2(1 + leaves)
    score += 4 * share - 2 * malformed / (1 + leaves) - math.log2(1 + kinds)
    score -= math.log2(1 + root.faults)
    signs = [(f"{devices} devices marked by write without read", 1.0)] if devices else []
    signs += _signs(fmt, memory, root.address, found, backed)
    score += sum(weight for _, weight in signs)
    return Candidate(
        root.address,
        root.format,
        (),
        round(score, 2),
        mapping.tables_read,
        leaves,
        strict.ranges.total,
        malformed,
        round(share, 4),
        kinds,
        _first_fault(fmt, strict, faulty, root.address),
        tuple(text for text, _ in signs if text),
    )


def lenient(fmt: BoundFormat) -> BoundFormat:
    """Return a format that refuses nothing, and whose addresses are those that memory has."""
    levels = tuple(
        replace(
            level,
            table_reserved=0,
            leaf_reserved=0,
            table_address=level.table_address & _PHYSICAL,
            leaf_address=level.leaf_address & _PHYSICAL,
        )
        for level in fmt.levels
    )
    plan = tuple((number, level.step) for number, level in enumerate(levels))
    return replace(fmt, levels=levels, plan=plan, bad_permissions=0, bad_types=0)


def _malformed(mapping: Mapping, space: PageSpace) -> tuple[Bools, Bools]:
    """Tell which problems are faulty entries, and which are devices marked on purpose.

    Hypervisors let accesses to devices come to an EPT misconfiguration, by write without read and
    an address that is no memory.
    """
    problems = mapping.problems
    malformed: Bools = problems.state == State.MALFORMED
    marks = malformed & np.isin(problems.entry & np.uint64(7), WRITE_ONLY) & mapping.fmt.is_ept
    marks &= space.number_of(problems.entry & np.uint64(_PHYSICAL & ~0xFFF)) < 0
    return malformed & ~marks, marks


def _first_fault(fmt: BoundFormat, mapping: Mapping, faulty: Bools, root: int) -> str:
    problems = mapping.problems
    for index in np.flatnonzero(faulty)[:1].tolist():
        level, entry = int(problems.level[index]), int(problems.entry[index])
        why = malformed_because(Stage("", fmt, root), level, entry)
        where = int(problems.entry_address[index])
        return f"{fmt.levels[level].name} {entry:#x} at {where:#x}: {why}"
    return ""


def _signs(
    fmt: BoundFormat, memory: Memory, root: int, ranges: RangeTable, backed: RangeTable
) -> list[tuple[str, float]]:
    """Tell apart formats that the same bytes are well-formed in, by what their owners do.

    An EPT's leaf of type WB has bits 5:3 = 110, which in ordinary paging would be uncached memory
    that was accessed; ordinary tables that a processor has walked have bit 5 set in references,
    which an EPT reserves; kernels use the upper half of a root, guests have no such memory.
    """
    if not len(ranges) or fmt.entry_size != 8 or fmt.name == "PAE":
        return []
    signs: list[tuple[str, float]] = []
    weight = ranges.leaves.astype(np.float64)
    total = weight.sum()
    kind = ranges.attributes & _TYPE
    cached = float((weight * (kind == _WB)).sum() / total)
    entries = [memory.load((root & fmt.root_mask) + 8 * index, 8) or 0 for index in range(512)]
    references = [one for one in entries if one & fmt.present]
    upper = any(one & fmt.present for one in entries[256:])
    if fmt.is_ept:
        signs.append(("leaves are WB by bits 5:3" if cached > 0.5 else "", 3.0 * cached + 0.5))
        if upper:
            signs.append(("though it maps the upper half of 256 TiB", -4.0))
        return signs
    inside = within(ranges, backed)
    uncached = inside.size[(inside.attributes & _TYPE) != _WB].sum(dtype=np.uint64)
    share = float(uncached) / max(1.0, float(inside.total))
    if share > 0.5:
        signs.append(("though most RAM in it is uncached", -3.0 * share))
    else:
        signs.append(("", 3.0 * cached))
    if any(one & e.PTE.mask("A") for one in references):
        signs.append(("references are marked accessed", 1.5))
    if upper:
        signs.append(("it has a kernel's half", 1.5))
    return signs
