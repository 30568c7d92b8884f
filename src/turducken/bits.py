"""Layouts: every bit of a register or table entry, written once.

A `Layout` is a declaration of named bit ranges that together cover every bit of a word. The same
declaration serves access, checks, dumps and reports, and hot code takes integer masks from it at
import. A bit that is declared twice without being called an alias, or not at all, is an error when
the declaration is made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Kind(Enum):
    """What the manual says of a range of bits."""

    FIELD = "field"
    RESERVED = "reserved"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Field:
    """Bits ``high`` to ``low`` of a word, with the name the manual gives them.

    ``values`` names the meanings of the field's values where the manual lists them.
    """

    name: str
    low: int
    high: int
    kind: Kind = Kind.FIELD
    alias: bool = False
    doc: str = ""
    values: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def width(self) -> int:
        """Number of bits."""
        return self.high - self.low + 1

    @property
    def mask(self) -> int:
        """The field's bits set, in place."""
        return ((1 << self.width) - 1) << self.low

    def get(self, word: int) -> int:
        """Return the field's value in ``word``, shifted down."""
        return (word & self.mask) >> self.low

    def put(self, word: int, value: int) -> int:
        """Return ``word`` with the field set to ``value`` (cut off to its width)."""
        return (word & ~self.mask) | ((value << self.low) & self.mask)

    def describe(self, word: int) -> str:
        """Return the field's value in ``word`` as the manual would name it."""
        value = self.get(word)
        return self.values.get(value, f"{value:#x}" if self.width > 1 else str(value))


def bit(name: str, position: int, doc: str = "", *, alias: bool = False) -> Field:
    """Declare a field of one bit."""
    return Field(name, position, position, alias=alias, doc=doc)


def bits(
    name: str,
    high: int,
    low: int,
    doc: str = "",
    *,
    values: Mapping[int, str] | None = None,
    alias: bool = False,
) -> Field:
    """Declare a field of bits ``high:low``, in the manual's order."""
    named = MappingProxyType(dict(values or {}))
    return Field(name, low, high, alias=alias, doc=doc, values=named)


def reserved(high: int, low: int | None = None) -> Field:
    """Declare bits that must be zero (or, in a register, are read-only)."""
    low = high if low is None else low
    return Field(f"reserved {high}:{low}", low, high, Kind.RESERVED)


def ignored(high: int, low: int | None = None) -> Field:
    """Declare bits that the processor does not look at."""
    low = high if low is None else low
    return Field(f"ignored {high}:{low}", low, high, Kind.IGNORED)


class LayoutError(Exception):
    """A layout's declaration does not cover its word exactly once."""


class Layout:
    """A word of ``width`` bits in which every bit belongs to a field, is reserved, or is ignored.

    >>> pair = Layout("pair", 8, bits("HIGH", 7, 4), bits("LOW", 3, 0))
    >>> pair["HIGH"].get(0xA5), hex(pair.mask("LOW"))
    (10, '0xf')
    """

    def __init__(self, name: str, width: int, *fields: Field, source: str = "") -> None:
        self.name = name
        self.width = width
        self.source = source
        self.fields = tuple(sorted(fields, key=lambda one: (one.low, one.alias)))
        self._by_name = {one.name: one for one in fields}
        self._check()
        self.reserved_mask = self._mask_of_kind(Kind.RESERVED)
        self.ignored_mask = self._mask_of_kind(Kind.IGNORED)

    def _check(self) -> None:
        if len(self._by_name) != len(self.fields):
            raise LayoutError(f"{self.name}: two fields have one name")
        seen = 0
        for one in self.fields:
            if one.alias:
                continue
            if seen & one.mask:
                raise LayoutError(f"{self.name}: {one.name} overlaps an earlier field")
            seen |= one.mask
        if seen != (1 << self.width) - 1:
            missing = seen ^ ((1 << self.width) - 1)
            raise LayoutError(f"{self.name}: bits {missing:#x} are not declared once")

    def _mask_of_kind(self, kind: Kind) -> int:
        mask = 0
        for one in self.fields:
            if one.kind is kind and not one.alias:
                mask |= one.mask
        return mask

    def __getitem__(self, name: str) -> Field:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.width})"

    def mask(self, *names: str) -> int:
        """Return the union of the named fields' bits, in place."""
        mask = 0
        for name in names:
            mask |= self._by_name[name].mask
        return mask

    def make(self, **values: int) -> int:
        """Return the word in which each named field has the given value and all else is zero."""
        word = 0
        for name, value in values.items():
            word = self._by_name[name].put(word, value)
        return word

    def decode(self, word: int) -> dict[str, int]:
        """Return every named field's value in ``word``, lowest bit first (aliases included)."""
        return {one.name: one.get(word) for one in self.fields if one.kind is Kind.FIELD}

    def flags(self, word: int) -> list[str]:
        """Return the names of the one-bit fields that are set in ``word``, lowest bit first."""
        return [
            one.name
            for one in self.fields
            if one.kind is Kind.FIELD and one.width == 1 and one.get(word)
        ]
