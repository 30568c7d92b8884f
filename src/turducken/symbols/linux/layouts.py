"""Where members of a kernel's structures are, by the type information in the kernel (BTF).

Linux documentation, "BPF Type Format (BTF)".
"""

import struct
from collections.abc import Callable, Iterator

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE, _MEMBER = struct.Struct("<III"), struct.Struct("<III")
_STRUCT = 4
_Text = Callable[[int], bytes]
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
"""Kinds with so many bytes behind them: integers, arrays, variables, declaration tags."""
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""Kinds with so many bytes for each member: structures, unions, enumerations, prototypes ..."""


def member_offsets(btf: bytes, names: frozenset[str]) -> dict[str, dict[str, int]]:
    """Return the byte offsets of the members of each structure that ``names`` has.

    What cannot be read gives nothing.
    """
    found: dict[str, dict[str, int]] = {}
    try:
        for name, members in _structures(btf, {one.encode() for one in names}):
            found.setdefault(name.decode(), members)
    except (struct.error, ValueError, IndexError):
        pass
    return found


def _structures(btf: bytes, names: set[bytes]) -> Iterator[tuple[bytes, dict[str, int]]]:
    magic, _, _, header_size, types, types_size, strings, _ = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        return
    texts = header_size + strings

    def text(offset: int) -> bytes:
        return btf[texts + offset : btf.index(b"\0", texts + offset)]

    at = header_size + types
    end = at + types_size
    while at + _TYPE.size <= end:
        name, info, _ = _TYPE.unpack_from(btf, at)
        at += _TYPE.size
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind == _STRUCT and name and text(name) in names:
            yield text(name), _members(btf, at, count, text, has_sizes=bool(info >> 31))
        at += _FIXED.get(kind, 0) + _EACH.get(kind, 0) * count


def _members(btf: bytes, at: int, count: int, text: _Text, *, has_sizes: bool) -> dict[str, int]:
    members = {}
    for number in range(count):
        name, _, bits = _MEMBER.unpack_from(btf, at + number * _MEMBER.size)
        members[text(name).decode()] = (bits & 0xFF_FFFF if has_sizes else bits) // 8
    return members
