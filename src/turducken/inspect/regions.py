"""Regions of memory as ranges, so that tables and regions can be intersected as intervals."""

from collections.abc import Sequence

import numpy as np

from turducken.inspect.source import Region
from turducken.paging.compose import within
from turducken.paging.ranges import RangeTable, merge
from turducken.paging.readers import Words

LEGACY_VIDEO = Region(0xA_0000, 0x2_0000)
"""Never RAM on a PC, though a flat dump has bytes for it."""


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
    return plain(starts, np.array([one[1] for one in merged], dtype=np.uint64))


def plain(start: Words, size: Words) -> RangeTable:
    """Return ranges that lead to themselves."""
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
    return merge(plain(pieces.start, pieces.size))


def target_union(ranges: RangeTable) -> RangeTable:
    """Return the output addresses that ``ranges`` lead to, each once, as ranges to themselves."""
    order = np.argsort(ranges.target, kind="stable")
    start = ranges.target[order]
    last = np.maximum.accumulate(start + (ranges.size[order] - np.uint64(1)))
    if not len(start):
        return plain(start, start)
    gap = start[1:] > last[:-1]
    gap[gap] = start[1:][gap] - last[:-1][gap] > np.uint64(1)
    heads = np.concatenate((np.zeros(1, dtype=np.intp), np.flatnonzero(gap) + 1))
    ends = np.append(heads[1:], len(start)) - 1
    return plain(start[heads], last[ends] - start[heads] + np.uint64(1))
