"""Files that hold physical memory: which kinds there are, and opening one.

A file's first bytes say what it is. What is recognised and can be read is opened; what is
recognised and cannot be read is refused by name, with the way to convert it; anything else is read
as raw memory, and the source says how sure that is.
"""

from collections.abc import Callable

from turducken.inspect.containers import (
    avml,
    elf,
    kdump,
    lime,
    migration,
    packed,
    raw,
    vmware,
)
from turducken.inspect.containers.signatures import name_of_refused
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource

_Opener = Callable[[FileMap], FileSource]

OPENERS: dict[str, tuple[Callable[[bytes], bool], _Opener]] = {
    "elf": (elf.is_elf, elf.open_elf),
    "lime": (lime.is_lime, lime.open_lime),
    "avml": (avml.is_avml, avml.open_avml),
    "kdump": (kdump.is_kdump, kdump.open_kdump),
    "vmware": (vmware.is_state, vmware.open_state),
    "migration": (migration.is_stream, migration.open_stream),
}
"""By the name that a user may put before a path: how to recognise a file, and how to open it."""

NESTED = 4
"""A compressed file in a compressed file, and so on: at most this deep."""


def open_dump(path: str, *, base: int = 0) -> FileSource:
    """Open a dump of whatever format its first bytes tell; ``base`` is for raw ones."""
    return _open(FileMap.open(path), base, NESTED)


def _open(file: FileMap, base: int, depth: int) -> FileSource:
    head = bytes(file.data[: packed.HEAD])
    for recognises, opener in OPENERS.values():
        if recognises(head):
            return opener(file)
    if packed.is_packed(head):
        if not depth:
            raise InspectError(f"{file.path}: compressed again and again")
        return _open(packed.unpack(file), base, depth - 1)
    refused = name_of_refused(head)
    if refused:
        raise InspectError(f"{file.path}: this is {refused}")
    if file.path.endswith(".vmem"):
        return vmware.open_vmem(file)
    return raw.open_unknown(file, base)


def open_file(name: str, *, base: int = 0) -> FileSource:
    """Open a file as commands name it.

    ``PATH``, ``KIND:PATH`` for a kind of `OPENERS`, or ``raw:`` with pieces (see
    `turducken.inspect.containers.raw.parse_pieces`).
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "raw":
        return raw.open_raw(name, raw.parse_pieces(rest))
    if colon and kind in OPENERS:
        return OPENERS[kind][1](FileMap.open(rest))
    return open_dump(name, base=base)
