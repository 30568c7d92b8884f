"""Files that hold memory byte for byte, and how sure that is for one that does not say so."""

from dataclasses import dataclass
from itertools import pairwise

from turducken.inspect.errors import InspectError
from turducken.inspect.numbers import parse_number
from turducken.inspect.source import FileMap, FileSource, Piece


@dataclass(frozen=True, slots=True)
class RawPiece:
    """``size`` bytes of the file at ``path`` from ``offset`` on, at physical address ``at``."""

    path: str
    at: int = 0
    offset: int = 0
    size: int | None = None
    """None: up to the file's end."""


_KEYS = ("at", "offset", "size")


def parse_pieces(text: str) -> list[RawPiece]:
    """Return the pieces that ``text`` names.

    ``PATH[@AT][,offset=N][,size=N][,at=N]``, and more of them behind further commas.
    """
    found: list[dict[str, object]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip() in _KEYS:
            if not found:
                raise InspectError(f"raw: {part!r} stands before any file")
            found[-1][key.strip()] = parse_number(value, key.strip())
            continue
        path, at, base = part.rpartition("@")
        found.append({"path": path, "at": parse_number(base, "base")} if at else {"path": part})
    pieces = [RawPiece(**one) for one in found]  # type: ignore[arg-type]
    if not all(one.path for one in pieces):
        raise InspectError("raw: a piece has no file (write raw:PATH,offset=..,size=..,at=..)")
    return pieces


def open_raw(name: str, parts: list[RawPiece]) -> FileSource:
    """Open files that hold memory byte for byte; raise `InspectError` where two overlap."""
    files = [FileMap.open(one.path) for one in parts]
    pieces = []
    for index, (file, part) in enumerate(zip(files, parts, strict=True)):
        if part.offset >= len(file.data):
            raise InspectError(f"{part.path}: offset {part.offset:#x} is behind the file's end")
        size = len(file.data) - part.offset if part.size is None else part.size
        if not size:
            raise InspectError(f"{part.path}: a piece of no bytes")
        pieces.append(Piece(part.at, part.offset, size, index))
    for one, other in pairwise(sorted(pieces)):
        if one.base + one.size > other.base:
            raise InspectError(
                f"{files[one.file].path} (from {one.base:#x} to {one.base + one.size:#x}) and "
                f"{files[other.file].path} (from {other.base:#x} on) overlap; give sizes"
            )
    return FileSource(name, "raw dump", files, pieces)


def open_unknown(file: FileMap, base: int) -> FileSource:
    """Open a file of no known kind as raw memory, and say how sure that is."""
    source = FileSource(file.path, "raw dump", [file], [Piece(base, 0, len(file.data))])
    signs = evidence(file) if not base else []
    size = len(file.data)
    if signs:
        sure = f"it has {' and '.join(signs)} where a PC has them"
    elif size % 4096:
        sure = f"unlikely: its size, {size} bytes, is no number of pages"
    else:
        sure = "nothing in it says so"
    source.warnings.append(
        f"{file.path}: no known container; read as raw memory from {base:#x} on ({sure})"
    )
    return source


_BIOS = (0xE_0000, 0x10_0000)
_SIGNS = (
    (b"RSD PTR ", "ACPI's root pointer"),
    (b"_SM_", "an SMBIOS entry point"),
    (b"_MP_", "an MP floating pointer"),
    (b"_SM3_", "an SMBIOS 3 entry point"),
)
_RESET = 0xF_FFF0
_FAR_JUMP = 0xEA


def evidence(file: FileMap) -> list[str]:
    """Return what speaks for a file's being memory from address 0 on, as a PC's BIOS leaves it."""
    area = bytes(file.data[_BIOS[0] : _BIOS[1]])
    found = [
        what
        for sign, what in _SIGNS
        if any(area[at : at + len(sign)] == sign for at in _places(area, sign))
    ]
    if len(area) > _RESET - _BIOS[0] and area[_RESET - _BIOS[0]] == _FAR_JUMP:
        found.append("a reset vector")
    return found


def _places(area: bytes, sign: bytes) -> list[int]:
    """Return the multiples of 16 at which ``sign`` is."""
    places, at = [], area.find(sign)
    while at >= 0:
        if at % 16 == 0:
            places.append(at)
        at = area.find(sign, at + 1)
    return places
