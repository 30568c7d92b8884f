"""Chains of translations: from an address of the innermost guest to the source's memory.

A chain is written inner to outer, as ``cr3=...,ept12=...,ept01=...``: each stage's tables and
outputs are addresses of the next stage's input, and the last one's are the source's.

This module and all it imports do without NumPy, so that it also runs inside gdb.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from turducken.address import PAGE_OFFSET_MASK, PAGE_SIZE
from turducken.arch.memory_types import PAT_RESET
from turducken.inspect.errors import InspectError
from turducken.memory import Memory, MemoryHoleError
from turducken.paging import rights
from turducken.paging.formats import EPT, FORMATS, BoundFormat, Features, ept_format
from turducken.paging.walker import Stop, Walk, walk

FORMAT_NAMES = {
    "ept": "EPT",
    "ept-5": "EPT 5-level",
    "ept5": "EPT 5-level",
    "4-level": "4-level",
    "4level": "4-level",
    "5-level": "5-level",
    "5level": "5-level",
    "pae": "PAE",
    "32-bit": "32-bit",
    "32bit": "32-bit",
}
"""The names of formats as users may write them."""


ANY_PROCESSOR = Features(maxphyaddr=52)
"""What tools assume where nothing is known: as few reserved bits as possible."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One translation: ``root`` is the register's value (CR3 or EPTP), ``name`` the user's."""

    name: str
    fmt: BoundFormat
    root: int
    pat: int = PAT_RESET

    @property
    def table_address(self) -> int:
        """Where the top table lies, in the stage's output space."""
        return self.root & self.fmt.root_mask


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """What a chain's text does not say: the processor's features, and how CR3 is to be read."""

    features: Features = ANY_PROCESSOR
    paging: str = "4-level"
    pat: int = PAT_RESET


def parse_chain(
    text: str, options: ChainOptions, known: dict[str, int] | None = None
) -> list[Stage]:
    """Return the stages that ``text`` names: ``NAME[:FORMAT][=VALUE],...``, inner to outer.

    The format is taken from the name where it is not given: ``ept...`` is an EPT, ``cr3`` is read
    as ``options.paging`` says, and a format's own name is itself. A value may be left out if
    ``known`` (the source) has one of that name.
    """
    if not text.strip():
        return []
    return [_stage(part.strip(), options, known or {}) for part in text.split(",")]


def _stage(text: str, options: ChainOptions, known: dict[str, int]) -> Stage:
    head, equals, value = text.partition("=")
    name, _, form = head.strip().partition(":")
    kind = _format_name(name, form, options)
    if equals:
        return _with_root(name, kind, _number(value, name), options)
    if name not in known:
        there = f"; the source knows {', '.join(sorted(known))}" if known else ""
        raise InspectError(f"--via: {name} has no value (write {name}=ADDRESS){there}")
    return _with_root(name, kind, known[name], options)


def _with_root(name: str, kind: str, root: int, options: ChainOptions) -> Stage:
    fmt = ept_format(root) if kind == EPT.name else FORMATS[kind]
    return Stage(name, fmt.bind(options.features), root, options.pat)


def _format_name(name: str, form: str, options: ChainOptions) -> str:
    wanted = (form or name).lower()
    if not form:
        parts = wanted.split(".")  # a source may know "cpu0.ept01"
        if any(part.startswith("ept") for part in parts):
            wanted = "ept"
        elif any(part.startswith("cr3") for part in parts):
            wanted = options.paging.lower()
    if wanted not in FORMAT_NAMES:
        names = "ept, ept-5, 4-level, 5-level, pae, 32-bit"
        raise InspectError(
            f"--via: {wanted!r} is no paging format ({names}); write NAME:FORMAT=VALUE"
        )
    return FORMAT_NAMES[wanted]


def _number(text: str, name: str) -> int:
    try:
        number = int(text.strip().replace("_", ""), 0)
    except ValueError:
        raise InspectError(f"--via: the value of {name}, {text!r}, is not a number") from None
    if not 0 <= number < 1 << 64:
        raise InspectError(f"--via: the value of {name}, {text!r}, does not fit in 64 bits")
    return number


# Walking.


@dataclass(frozen=True, slots=True)
class StageWalk:
    """A walk of one stage for ``address``, and where each of its entries lies in the source."""

    stage: Stage
    address: int
    walk: Walk
    places: tuple[int | None, ...]
    """The source's address of each entry read; None where an outer stage does not map it."""
    blocked: "ChainWalk | None" = None
    """With `Stop.NO_MEMORY`: the outer stages' walk for the entry that could not be read."""

    @property
    def attributes(self) -> int:
        """The stage's own attributes for the page."""
        return rights.attributes_of(self.stage.fmt, self.walk, self.stage.pat)


@dataclass(frozen=True, slots=True)
class ChainWalk:
    """The way of ``address`` through a chain: stages in order, up to where it stops."""

    address: int
    stages: tuple[StageWalk, ...]
    output: int | None
    """Where the address leads in the source's memory; None if it stops before."""
    attributes: int
    shift: int
    """The smallest page on the way: up to its end, neighbours lead to neighbours."""

    @property
    def stopped(self) -> StageWalk | None:
        """The stage in which the walk ended without a page, if one did."""
        last = self.stages[-1] if self.stages else None
        return last if last is not None and last.walk.stop is not Stop.PAGE else None

    @property
    def reason(self) -> str:
        """Why the walk stopped, as one sentence without a full stop."""
        last = self.stopped
        if last is None:
            return "reaches a page"
        return f"{last.stage.name}: {_why(last)}"


def _why(one: StageWalk) -> str:
    walked = one.walk
    step = walked.steps[-1]
    level = one.stage.fmt.levels[step.level].name
    if walked.stop is Stop.NOT_PRESENT:
        return f"the {level} at {step.address:#x} is not present ({step.entry:#x})"
    if walked.stop is Stop.MALFORMED:
        what = "misconfigured" if one.stage.fmt.is_ept else "has reserved bits set"
        verb = "is " if one.stage.fmt.is_ept else ""
        return f"the {level} at {step.address:#x} {verb}{what} ({step.entry:#x})"
    if one.blocked is not None:
        return f"the {level} at {step.address:#x} cannot be read: {one.blocked.reason}"
    return f"the {level} at {step.address:#x} cannot be read: the source has no memory there"


class Through:
    """Memory as it is seen through a chain: the innermost stage's input space. See `Memory`."""

    def __init__(self, memory: Memory, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.source = memory
        self._tables = below(memory, self.stages[1:])
        self._pages: dict[int, int | None] = {}

    def translate(self, address: int) -> int | None:
        """Return where ``address`` leads in the source's memory, or None."""
        page = address & ~PAGE_OFFSET_MASK
        if page not in self._pages:
            if len(self._pages) > 1 << 16:
                self._pages.clear()
            self._pages[page] = walk_chain(self.source, self.stages, page).output
        base = self._pages[page]
        return None if base is None else base | address & PAGE_OFFSET_MASK

    def load(self, address: int, size: int) -> int | None:
        """Return the little-endian word at ``address``, or None where nothing is mapped."""
        place = self.translate(address)
        return None if place is None else self.source.load(place, size)

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes; raise `MemoryHoleError` where nothing is mapped."""
        parts = []
        while length > 0:
            count = min(length, PAGE_SIZE - (address & PAGE_OFFSET_MASK))
            place = self.translate(address)
            if place is None:
                raise MemoryHoleError(address)
            try:
                parts.append(self.source.read(place, count))
            except MemoryHoleError as hole:
                raise MemoryHoleError(address + hole.address - place) from None
            address += count
            length -= count
        return b"".join(parts)

    def store(self, address: int, size: int, value: int) -> None:
        """Refuse: tools only read through translations."""
        raise InspectError("memory behind translations is read-only here")

    def write(self, address: int, data: bytes) -> None:
        """Refuse: tools only read through translations."""
        raise InspectError("memory behind translations is read-only here")


def below(memory: Memory, stages: Sequence[Stage]) -> Memory:
    """Return the memory at the input of ``stages``: the source itself if there are none."""
    return Through(memory, stages) if stages else memory


def walk_chain(memory: Memory, stages: Sequence[Stage], address: int) -> ChainWalk:
    """Walk ``address`` through all ``stages`` and tell every entry on the way."""
    done: list[StageWalk] = []
    at, shift = address, 63
    for number in range(len(stages)):
        one = _walk_stage(memory, stages[number:], at)
        done.append(one)
        shift = min(shift, one.walk.shift)
        if one.walk.stop is not Stop.PAGE:
            return ChainWalk(address, tuple(done), None, 0, shift)
        at = one.walk.output(at)
    return ChainWalk(address, tuple(done), at, _attributes(done), shift)


def _walk_stage(memory: Memory, stages: Sequence[Stage], address: int) -> StageWalk:
    stage, outer = stages[0], stages[1:]
    tables = below(memory, outer)
    walked = walk(stage.fmt, tables, stage.root, address)
    if isinstance(tables, Through):
        places = tuple(tables.translate(step.address) for step in walked.steps)
    else:
        places = tuple(step.address for step in walked.steps)
    blocked = None
    if walked.stop is Stop.NO_MEMORY and outer:
        way = walk_chain(memory, outer, walked.steps[-1].address)
        blocked = way if way.output is None else None
    return StageWalk(stage, address, walked, places, blocked)


def _attributes(stages: Sequence[StageWalk]) -> int:
    """Combine the stages' attributes, the outermost ones first, as under a shadow table."""
    word = None
    for one in reversed(stages):
        word = one.attributes if word is None else rights.combine(one.attributes, word)
    return word if word is not None else rights.make_attributes()


def is_canonical_for(stage: Stage, address: int) -> bool:
    """Tell whether ``address`` is in the stage's input space."""
    bits = stage.fmt.address_bits
    if stage.fmt.is_ept or bits < 48:
        return address >> bits == 0
    return address >> bits - 1 in (0, (1 << 65 - bits) - 1)
