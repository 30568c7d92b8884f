"""The descriptor of a PAL, as `Function.REGISTER` gets it: taken apart and checked.

Everything here is about the numbers themselves. Whose memory it is, is decided in `registration`.
"""

from dataclasses import dataclass
from itertools import pairwise

from turducken.address import PAGE_SIZE
from turducken.apps.trustvisor import abi
from turducken.apps.trustvisor.abi import ParameterKind, SectionKind, Status

_BUFFERS = (ParameterKind.IN, ParameterKind.OUT, ParameterKind.IN_OUT)
_EXECUTABLE = (SectionKind.CODE, SectionKind.SHARED_CODE)
ALIGNMENT = 16
"""Of buffers in the section of parameters."""


@dataclass(frozen=True, slots=True)
class Section:
    """``pages`` pages of a PAL from ``address`` (linear) on."""

    kind: SectionKind
    pages: int
    address: int

    @property
    def range(self) -> range:
        """The linear addresses."""
        return range(self.address, self.address + self.pages * PAGE_SIZE)

    @property
    def is_executable(self) -> bool:
        """The PAL may execute it, and not write it."""
        return self.kind in _EXECUTABLE


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the entry point; ``size`` in bytes, of a buffer."""

    kind: ParameterKind
    size: int

    @property
    def is_buffer(self) -> bool:
        """A pointer, whose bytes are copied."""
        return self.kind in _BUFFERS

    @property
    def room(self) -> int:
        """Bytes it takes in the section of parameters."""
        return -(-self.size // ALIGNMENT) * ALIGNMENT if self.is_buffer else 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A PAL as its owner describes it."""

    entry: int
    parameters: tuple[Parameter, ...]
    sections: tuple[Section, ...]

    def section(self, kind: SectionKind) -> Section | None:
        """Return the section of a kind of which there is one at most."""
        return next((one for one in self.sections if one.kind is kind), None)


def parse_descriptor(data: bytes, *, is_64bit: bool) -> Descriptor | Status:
    """Return the descriptor in ``data`` (`abi.DESCRIPTOR_SIZE` bytes), or what is wrong with it."""
    version, sections, entry, parameters, zero = abi.DESCRIPTOR_HEAD.unpack_from(data)
    if version != abi.VERSION or zero or not 1 <= sections <= abi.MOST_SECTIONS:
        return Status.BAD_DESCRIPTOR
    if parameters > abi.MOST_PARAMETERS:
        return Status.BAD_PARAMETERS
    at = abi.DESCRIPTOR_HEAD.size
    raw_parameters = [
        abi.PARAMETER.unpack_from(data, at + n * abi.PARAMETER.size) for n in range(parameters)
    ]
    at += abi.MOST_PARAMETERS * abi.PARAMETER.size
    raw_sections = [
        abi.SECTION.unpack_from(data, at + n * abi.SECTION.size) for n in range(sections)
    ]
    if not all(_is_parameter(*one) for one in raw_parameters):
        return Status.BAD_PARAMETERS
    limit = 1 << (64 if is_64bit else 32)
    if not all(_is_section(kind, pages, start, limit) for kind, pages, start in raw_sections):
        return Status.BAD_SECTION
    found = Descriptor(
        entry,
        tuple(Parameter(ParameterKind(kind), size) for kind, size in raw_parameters),
        tuple(Section(SectionKind(kind), pages, start) for kind, pages, start in raw_sections),
    )
    return _check(found) or found


def _is_parameter(kind: int, size: int) -> bool:
    if kind == ParameterKind.INTEGER:
        return size == 0
    return kind in tuple(_BUFFERS) and 0 < size <= abi.MOST_BUFFER


def _is_section(kind: int, pages: int, address: int, limit: int) -> bool:
    return (
        kind in tuple(SectionKind)
        and 1 <= pages <= abi.MOST_PAGES
        and not address % PAGE_SIZE
        and address > abi.RETURN_ADDRESS
        and address + pages * PAGE_SIZE <= limit
    )


def _check(descriptor: Descriptor) -> Status | None:
    """Check what concerns more than one section."""
    sections = descriptor.sections
    if sum(one.pages for one in sections) > abi.MOST_PAGES:
        return Status.NO_ROOM
    ordered = sorted(sections, key=lambda one: one.address)
    for lower, upper in pairwise(ordered):
        if lower.range.stop > upper.address:
            return Status.OVERLAP
    kinds = [one.kind for one in sections]
    if kinds.count(SectionKind.STACK) != 1 or kinds.count(SectionKind.PARAMETERS) > 1:
        return Status.BAD_SECTION
    code = [one for one in sections if one.kind is SectionKind.CODE]
    if not any(descriptor.entry in one.range for one in code):
        return Status.BAD_ENTRY
    return _check_room(descriptor)


def _check_room(descriptor: Descriptor) -> Status | None:
    """The buffers must fit into the section of parameters."""
    needed = sum(one.room for one in descriptor.parameters)
    section = descriptor.section(SectionKind.PARAMETERS)
    room = section.pages * PAGE_SIZE if section is not None else 0
    return Status.BAD_PARAMETERS if needed > room else None
