"""Paging-structure caches of a view: entries above the leaf, with what they came from."""

from turducken.check.changes import Source
from turducken.check.records import Traced
from turducken.mmu.tlb import Space, StructureKey
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import ALL_ONES, Start, Walk

_KEYS: dict[str, list[StructureKey]] = {}


def _keys(fmt: BoundFormat) -> list[StructureKey]:
    """Return the paging-structure caches of a format, top down."""
    keys = _KEYS.get(fmt.name)
    if keys is None:
        shifts = [level.shift for level in fmt.levels]
        keys = [StructureKey(fmt.name, one, shifts[one - 1]) for one in range(1, len(shifts))]
        _KEYS[fmt.name] = keys
    return keys


def cached_start(space: Space, fmt: BoundFormat, address: int) -> Start | None:
    """Return the deepest paging-structure-cache entry for ``address``."""
    if not space.structures:
        return None
    for key in reversed(_keys(fmt)):
        start = space.structures.get(key, {}).get(address >> key.shift)
        if start is not None:
            return start
    return None


def sources_through(
    own: list[Source], found: Walk, others: tuple[Source, ...]
) -> list[tuple[Source, ...]]:
    """Return, for each step of a walk, the entries read so far."""
    before = len(own) - len(found.steps)
    return [(*others, *own[: before + number + 1]) for number in range(len(found.steps))]


def remember_structures(
    space: Space,
    fmt: BoundFormat,
    found: Walk,
    start: Start | None,
    address: int,
    sources: list[tuple[Source, ...]],
) -> list[tuple[StructureKey, Start]]:
    """Cache every entry that a walk read above the leaf; return them."""
    cached: list[tuple[StructureKey, Start]] = []
    all_of, any_of = (ALL_ONES, 0) if start is None else (start.all_of, start.any_of)
    keys = _keys(fmt)
    for number, step in enumerate(found.steps[:-1]):
        level = fmt.levels[step.level]
        all_of &= step.entry | level.neutral
        any_of |= step.entry
        below = Traced(step.level + 1, step.entry & level.table_address, all_of, any_of)
        below.sources = sources[number]
        space.add_structure(keys[step.level], address, below)
        cached.append((keys[step.level], below))
    return cached
