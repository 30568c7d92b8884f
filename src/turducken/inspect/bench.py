"""How long bulk work takes, as ratios to one NumPy pass over the same table bytes.

`measure` is what ``turducken bench`` calls. The subject is an EPT that maps 8 GiB with 4 KiB
leaves: two million entries, 16 MiB of tables, once in one piece and once with every page somewhere
else.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from turducken.inspect.chain import Stage
from turducken.inspect.check import Checker, Surroundings
from turducken.inspect.findings import Report
from turducken.inspect.source import Region
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.compose import compose
from turducken.paging.formats import EPT, BoundFormat, Features
from turducken.paging.inventory import take_inventory
from turducken.paging.ranges import RangeTable, map_ranges
from turducken.paging.readers import Words
from turducken.paging.table import BumpAllocator, PageTable

MIB, GIB = 1 << 20, 1 << 30
MAPPED = 8 * GIB
LEAVES = MAPPED >> 12


@dataclass(frozen=True, slots=True)
class Subject:
    """A table to measure: its memory, its root, and the words of its leaf tables."""

    fmt: BoundFormat
    memory: PhysicalMemory
    root: int
    leaf_words: Words
    """A copy of all leaf entries, in input order."""


def make_subject(*, scattered: bool) -> Subject:
    """Build the EPT: the identity, or (``scattered``) a random permutation of the pages."""
    memory = PhysicalMemory(32 * MIB)
    fmt = EPT.bind(Features())
    leaf_pages = BumpAllocator(8 * MIB, 32 * MIB)
    table = PageTable.create(fmt, memory, leaf_pages)
    table.map(0, 0, MAPPED, rights.make_attributes(), max_shift=12)
    tables = np.frombuffer(memory.bytes, dtype=np.uint64).reshape(-1, 512)
    leaves = (take_inventory(fmt, memory, table.root).tables[-1] >> np.uint64(12)).astype(np.intp)
    if scattered:
        pages = np.random.default_rng(1).permutation(LEAVES).astype(np.uint64)
        words = pages << np.uint64(12) | tables[leaves[0], 0] & np.uint64(0xFFF)
        tables[leaves] = words.reshape(-1, 512)
    return Subject(fmt, memory, table.root, tables[leaves].reshape(-1))


def _best(work: Callable[[], object], seconds: float = 0.4) -> float:
    """Return the shortest processor time of ``work`` in seconds, tried for a while."""
    best, end = float("inf"), time.process_time() + seconds
    while time.process_time() < end or best == float("inf"):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def dump(subject: Subject) -> RangeTable:
    """Return the merged ranges, as ``pt dump`` does."""
    return map_ranges(subject.fmt, subject.memory, subject.root).ranges


def check(subject: Subject) -> Report:
    """Apply every rule of ``pt check`` for one table."""
    report = Report()
    stage = Stage("ept", subject.fmt, subject.root)
    around = Surroundings([Region(0, MAPPED)], [Region(MAPPED, GIB)])
    Checker(stage, subject.memory, around, report).run()
    return report


def compose_twice(subject: Subject) -> int:
    """Read the table twice and compose it with itself, as ``pt compose`` does with two tables."""
    return len(compose(dump(subject), dump(subject)).ranges)


def measure() -> dict[str, float]:
    """Return named results: seconds, and ratios to one pass (``words & mask``) over the leaves.

    Compose reads two tables, so its pass is over both.
    """
    results: dict[str, float] = {}
    for name in ("contiguous", "scattered"):
        subject = make_subject(scattered=name == "scattered")
        one_pass = _best(lambda words=subject.leaf_words: words & np.uint64(7))  # type: ignore[misc]
        results[f"pt.{name}.pass_seconds"] = one_pass
        for what, work, tables in (
            ("dump", dump, 1),
            ("check", check, 1),
            ("compose", compose_twice, 2),
        ):
            seconds = _best(lambda work=work, subject=subject: work(subject))  # type: ignore[misc]
            results[f"pt.{name}.{what}_seconds"] = seconds
            results[f"pt.{name}.{what}_passes"] = seconds / (tables * one_pass)
    return results


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:<32} {value:.6f}")
