"""Short texts for people, shared by tables, trees, pictures and gdb. Needs no NumPy."""

from collections.abc import Iterator

from turducken.inspect.chain import ChainWalk, StageWalk
from turducken.inspect.decode import flags_of
from turducken.paging import rights
from turducken.paging.walker import Stop

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size_text(size: int) -> str:
    """Return a size in the largest unit that keeps it whole, or with one decimal.

    >>> size_text(8 << 30), size_text(6144), size_text((1 << 30) + 4096)
    ('8 GiB', '6 KiB', '1048580 KiB')
    """
    for scale, unit in _UNITS:
        if size >= scale and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"


def leaf_sizes(shifts: int) -> str:
    """Return the leaf sizes in a mask of shifts, such as ``4K+2M``."""
    names = {12: "4K", 21: "2M", 22: "4M", 30: "1G"}
    return "+".join(name for shift, name in names.items() if shifts >> shift & 1)


def step_lines(one: StageWalk) -> Iterator[tuple[str, str, str, str]]:
    """Yield (level, where the entry lies, its value, its fields) for every entry of a walk."""
    levels = one.stage.fmt.levels
    last = len(one.walk.steps) - 1
    for number, (step, place) in enumerate(zip(one.walk.steps, one.places, strict=True)):
        where = f"{step.address:#x}"
        if place is not None and place != step.address:
            where += f" = {place:#x}"
        if number == last and one.walk.stop is Stop.NO_MEMORY:
            yield levels[step.level].name, where, "?", "no memory"
            continue
        layout = one.stage.fmt.entry_layout(step.level, step.entry)
        yield layout.name, where, f"{step.entry:#x}", flags_of(step.entry, layout)


def outcome(way: ChainWalk) -> str:
    """Return where a walk leads and what may be done there, or why it stops."""
    if way.output is None:
        return f"stops: {way.reason}"
    return f"{way.output:#x}  {rights.describe(way.attributes)}"


def walk_lines(way: ChainWalk) -> Iterator[str]:
    """Yield a whole walk as plain lines (for gdb and logs)."""
    for one in way.stages:
        yield (
            f"{one.stage.name} ({one.stage.fmt.name}, root {one.stage.table_address:#x}): "
            f"{one.address:#x}"
        )
        for level, where, value, flags in step_lines(one):
            yield f"  {level:<12} at {where:<24} {value:<20} {flags}"
        if one.walk.stop is Stop.PAGE:
            text = (
                f"{one.walk.output(one.address):#x} in a page of {size_text(1 << one.walk.shift)}"
            )
            yield f"  -> {text}, {rights.describe(one.attributes)}"
    yield f"{way.address:#x} -> {outcome(way)}"


def hexdump(address: int, data: bytes) -> Iterator[str]:
    """Yield ``data`` as lines of 16 bytes, aligned like memory."""
    at = 0
    while at < len(data):
        lead = (address + at) % 16
        part = data[at : at + 16 - lead]
        cells = ["  "] * lead + [f"{byte:02x}" for byte in part]
        cells += ["  "] * (16 - len(cells))
        shown = " " * lead + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        line = " ".join(cells[:8]) + "  " + " ".join(cells[8:])
        yield f"{address + at - lead:#014x}  {line}  {shown}"
        at += len(part)
