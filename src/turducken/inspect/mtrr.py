"""Which memory type a machine's memory should have: from its MTRRs, as users can give them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from turducken.arch.memory_types import MemoryType
from turducken.inspect.errors import InspectError
from turducken.inspect.numbers import parse_number
from turducken.inspect.source import Region

END = 1 << 52

_NAMES = {
    "uc": MemoryType.UC,
    "uncachable": MemoryType.UC,
    "uncacheable": MemoryType.UC,
    "wc": MemoryType.WC,
    "write-combining": MemoryType.WC,
    "wt": MemoryType.WT,
    "write-through": MemoryType.WT,
    "wp": MemoryType.WP,
    "write-protect": MemoryType.WP,
    "wb": MemoryType.WB,
    "write-back": MemoryType.WB,
}

_LINUX = re.compile(
    r"reg\d+: base=0x(?P<base>[0-9a-f]+) \(.*\), size=\s*(?P<size>\d+)(?P<unit>[KM])B, "
    r"count=\d+: (?P<type>[\w-]+)"
)
"""A line of Linux' /proc/mtrr."""

_E820 = re.compile(r"\[mem 0x(?P<first>[0-9a-f]+)-0x(?P<last>[0-9a-f]+)\] (?P<kind>[\w ]+)")
"""A line of the memory map that Linux prints when it starts."""


@dataclass(frozen=True, slots=True)
class TypedRegion:
    """``size`` bytes of physical memory from ``base`` on that have one memory type."""

    base: int
    size: int
    type: MemoryType

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.base + self.size


def parse_mtrr(text: str) -> list[TypedRegion]:
    """Return the types that ``text`` gives, as regions from 0 to the end of all addresses.

    ``text`` is a list ``[default=TYPE,]FIRST-END=TYPE,...``, or the path of a file with such a list
    or with what Linux shows in /proc/mtrr, where the default is UC if any range is WB and else WB.
    """
    path = Path(text)
    if "=" not in text or path.is_file():
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InspectError(f"--mtrr {path}: neither a list nor a file ({error})") from None
    found = [_linux(one) for one in _LINUX.finditer(text)]
    if found:
        is_back = any(one.type is MemoryType.WB for one in found)
        return _spread(found, MemoryType.UC if is_back else MemoryType.WB)
    return _list(text)


def _linux(match: re.Match[str]) -> TypedRegion:
    scale = {"K": 1 << 10, "M": 1 << 20}[match["unit"]]
    return TypedRegion(int(match["base"], 16), int(match["size"]) * scale, _type(match["type"]))


def _type(text: str) -> MemoryType:
    kind = _NAMES.get(text.strip().lower())
    if kind is None:
        raise InspectError(f"--mtrr: {text!r} is no memory type (UC, WC, WT, WP, WB)")
    return kind


def _list(text: str) -> list[TypedRegion]:
    default, found = MemoryType.UC, []
    for part in re.split(r"[,\n]+", text.strip()):
        where, equals, kind = part.partition("=")
        if not equals:
            raise InspectError(f"--mtrr {part!r}: write FIRST-END=TYPE or default=TYPE")
        if where.strip() == "default":
            default = _type(kind)
            continue
        first, _, end = where.partition("-")
        base = parse_number(first, "--mtrr")
        size = parse_number(end or "0", "--mtrr") - base
        if size <= 0:
            raise InspectError(f"--mtrr {part!r}: the range is empty")
        found.append(TypedRegion(base, size, _type(kind)))
    return _spread(found, default)


def _spread(ranges: Sequence[TypedRegion], default: MemoryType) -> list[TypedRegion]:
    """Return the type of every address, neighbours of one type united.

    SDM 3A, "MTRR Precedences": where ranges overlap UC wins, then WT over WB; else it is undefined,
    and here UC.
    """
    points = sorted({0, END, *(p for one in ranges for p in (one.base, min(one.end, END)))})
    result: list[TypedRegion] = []
    for low, high in pairwise(points):
        kinds = {one.type for one in ranges if one.base <= low < one.end}
        kind = kinds.pop() if len(kinds) == 1 else _of_several(kinds, default)
        if result and result[-1].type is kind:
            low = result.pop().base  # noqa: PLW2901 - the neighbour grows
        result.append(TypedRegion(low, high - low, kind))
    return result


def _of_several(kinds: set[MemoryType], default: MemoryType) -> MemoryType:
    if not kinds:
        return default
    return MemoryType.WT if kinds == {MemoryType.WT, MemoryType.WB} else MemoryType.UC


def parse_e820(path: str) -> list[Region]:
    """Return where there is RAM by the memory map in ``path``, as Linux prints it."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        raise InspectError(f"--e820 {path}: {error.strerror or error}") from None
    ram: list[Region] = []
    for match in _E820.finditer(text):
        first, last = int(match["first"], 16), int(match["last"], 16)
        kind = match["kind"].strip().lower()
        region = Region(first, last - first + 1)
        if kind.startswith(("usable", "system ram", "acpi data", "acpi nvs")):
            ram.append(region)
    if not ram:
        raise InspectError(f"--e820 {path}: no line like [mem 0x...-0x...] usable in it")
    return ram
