"""Making a guest's physical memory a file of its own, read through its tables."""

from collections.abc import Sequence
from typing import IO

from turducken.inspect.errors import InspectError
from turducken.inspect.regions import region_table
from turducken.inspect.source import Source
from turducken.inspect.writers import WRITERS, Extent
from turducken.memory import MemoryHoleError
from turducken.paging.compose import compose
from turducken.paging.ranges import RangeTable

PAGE = 4096


def extents_of(source: Source, ranges: RangeTable) -> tuple[list[Extent], int]:
    """Return what of ``ranges`` the source has, and how many bytes it has not.

    ``ranges`` lead to the source's memory (a composed chain).
    """
    if source.regions is not None:
        found = compose(ranges.without(0xFFFF_FFFF), region_table(source.regions))
        extents = [Extent(one.start, one.size, one.target) for one in found.ranges]
        return extents, found.unmapped.total
    return _probed(source, ranges)


def _probed(source: Source, ranges: RangeTable) -> tuple[list[Extent], int]:
    """Ask for every page: the source does not tell where it has memory."""
    extents: list[Extent] = []
    lost = 0
    for one in ranges.without(0xFFFF_FFFF):
        for at in range(0, one.size, PAGE):
            try:
                source.read(one.target + at, min(PAGE, one.size - at))
            except MemoryHoleError:
                lost += min(PAGE, one.size - at)
                continue
            extents.append(Extent(one.start + at, min(PAGE, one.size - at), one.target + at))
    return _joined(extents), lost


def _joined(extents: Sequence[Extent]) -> list[Extent]:
    result: list[Extent] = []
    for one in extents:
        last = result[-1] if result else None
        if last and last.address + last.size == one.address and last.place + last.size == one.place:
            result[-1] = Extent(last.address, last.size + one.size, last.place)
        else:
            result.append(one)
    return result


def export(source: Source, ranges: RangeTable, kind: str, stream: IO[bytes]) -> tuple[int, int]:
    """Write the memory that ``ranges`` lead to; return the bytes written and those missing.

    ``kind`` is a key of `turducken.inspect.writers.WRITERS`. The file has ``ranges``' input
    addresses; what the source lacks is left out (in a raw file: a hole).
    """
    writer = WRITERS.get(kind)
    if writer is None:
        raise InspectError(f"--format {kind}: not known; one of {', '.join(WRITERS)}")
    extents, lost = extents_of(source, ranges)
    if not extents:
        raise InspectError("nothing to export: none of the mapped memory is in the source")
    try:
        writer(stream, source, extents)
    except (OSError, OverflowError) as error:
        last = extents[-1].address + extents[-1].size
        raise InspectError(f"cannot write up to {last:#x}: {error}; try elf or lime") from None
    return sum(one.size for one in extents), lost
