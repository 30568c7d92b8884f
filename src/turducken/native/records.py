"""The types of native functions: integers, records of memory with named fields, addresses.

A record is declared as a class whose annotations are its fields, one after the other as C lays them
out. The same declaration serves Python, through ctypes, and compiled code, through offsets:

    class Block(Record):
        key: U64
        count: I64

    class Table(Record):
        left: I64
        owner: Ref[Owner]                           # the address of a record
        stop: Annotated[Callable[[int], int], STOP]  # the address of a function
        blocks: Annotated[Sequence[Block], 256]      # records, one behind the other
        words: Annotated[Words, 16]                  # words of 64 bits
"""

import ctypes
import inspect
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, get_args, get_origin

U8 = Annotated[int, ctypes.c_uint8]
U16 = Annotated[int, ctypes.c_uint16]
U32 = Annotated[int, ctypes.c_uint32]
U64 = Annotated[int, ctypes.c_uint64]
I64 = Annotated[int, ctypes.c_int64]
Words = MutableSequence[int]
"""Words of 64 bits; in an annotation, with their number."""

_REFERENCE = "reference"
_T = TypeVar("_T")
Ref = Annotated[_T, _REFERENCE]
"""Eight bytes that hold the address of a record."""


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a record: where it is, and of what kind.

    ``scalar`` is the ctypes integer of a number, and of each element of an array of numbers;
    ``record`` the class that it holds, refers to or is an array of; ``function`` the ctypes type of
    the function whose address it holds.
    """

    offset: int
    scalar: type | None = None
    record: "type[Record] | None" = None
    function: Any = None
    is_reference: bool = False
    count: int | None = None


if TYPE_CHECKING:
    from ctypes import Structure as _Structure
else:

    class _Maker(type(ctypes.Structure)):
        """Lays out each record when its class has been made."""

        def __init__(cls, *parts: Any) -> None:
            super().__init__(*parts)
            if hasattr(cls, "lay_out"):
                cls.lay_out()

    class _Structure(ctypes.Structure, metaclass=_Maker):
        pass


class Record(_Structure):
    """Memory with named fields. ``address`` is where it is in this process."""

    members: ClassVar[dict[str, Member]] = {}

    @classmethod
    def lay_out(cls) -> None:
        """Make fields of the class's annotations."""
        kinds = inspect.get_annotations(cls)
        if "address" in kinds:
            raise TypeError(f"{cls.__name__}: every record has an address already")
        parts = {name: _part(kind) for name, kind in kinds.items() if name != "members"}
        slots = {name: f"_{name}" if part.is_reference else name for name, part in parts.items()}
        cls._fields_ = [(slots[name], _storage(part)) for name, part in parts.items()]
        cls.members = {
            name: replace(part, offset=getattr(cls, slots[name]).offset)
            for name, part in parts.items()
        }
        for name, part in parts.items():
            if part.is_reference:
                assert part.record is not None
                setattr(cls, name, _reference(slots[name], part.record))

    @classmethod
    def at(cls, address: int) -> Self:
        """Return the record at an address in this process; it must outlive what is returned."""
        return cls.from_address(address)

    @property
    def address(self) -> int:
        """Where the record is."""
        return ctypes.addressof(self)


def _part(annotation: Any) -> Member:
    if get_origin(annotation) is not Annotated:
        if isinstance(annotation, type) and issubclass(annotation, Record):
            return Member(0, record=annotation)
        raise TypeError(f"no field of a record: {annotation}")
    what, detail = get_args(annotation)
    if detail is _REFERENCE:
        return Member(0, record=what, is_reference=True)
    if isinstance(detail, int):
        (element,) = get_args(what)
        if element is int:
            return Member(0, ctypes.c_uint64, count=detail)
        return Member(0, record=element, count=detail)
    if issubclass(detail, ctypes._SimpleCData):
        return Member(0, detail)
    return Member(0, function=detail)


def _storage(part: Member) -> Any:
    if part.is_reference:
        return ctypes.c_uint64
    one: Any = part.function or part.scalar or part.record
    assert one is not None
    return one if part.count is None else one * part.count


def _reference(slot: str, kind: type[Record]) -> property:
    def get(self: Record) -> Record:
        return kind.at(getattr(self, slot))

    def put(self: Record, value: Record) -> None:
        setattr(self, slot, value.address)

    return property(get, put)


def word_at(address: int) -> int:
    """Return the 64 bits at an address in this process."""
    return ctypes.c_uint64.from_address(address).value


def dword_at(address: int) -> int:
    """Return the 32 bits at an address in this process."""
    return ctypes.c_uint32.from_address(address).value


def byte_at(address: int) -> int:
    """Return the byte at an address in this process."""
    return ctypes.c_uint8.from_address(address).value


def set_word_at(address: int, value: int) -> None:
    """Store 64 bits at an address in this process."""
    ctypes.c_uint64.from_address(address).value = value


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters and result: ctypes integers, `Record` classes, bool, None."""

    parameters: dict[str, Any]
    result: Any


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read a function's annotations."""
    annotations = dict(inspect.get_annotations(function))
    result = annotations.pop("return", None)
    return Signature({name: _plain(one) for name, one in annotations.items()}, _plain(result))


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1]
    return annotation
