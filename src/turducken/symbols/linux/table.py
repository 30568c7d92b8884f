"""The kernel's own table of symbols (kallsyms): names packed with tokens, addresses as offsets."""

from collections.abc import Iterator

from turducken.machine.boot.symbols import Symbol
from turducken.symbols.linux.memory import KernelMemory, Note, Unreadable

_MOST_SYMBOLS = 1 << 20
_TOKENS = 256
_LONGEST_TOKENS = 1 << 14
_FUNCTIONS = frozenset("tTwW")
_WORD = (1 << 64) - 1


def kernel_symbols(memory: KernelMemory, note: Note) -> Iterator[Symbol]:
    """Yield the symbols of the kernel itself; Unreadable where the table is not sound."""
    where = note.symbols
    try:
        count = memory.word(where["kallsyms_num_syms"], 4)
        if count > _MOST_SYMBOLS:
            raise Unreadable
        base = memory.word(where["kallsyms_relative_base"])
        offsets = memory.words(where["kallsyms_offsets"], count, "i")
        tokens = _tokens(memory, where)
        names = memory.read(where["kallsyms_names"], _names_size(where))
    except KeyError:
        raise Unreadable from None
    is_signed = sum(one < 0 for one in offsets) > count // 2
    for offset, text in zip(offsets, _names(names, tokens, count), strict=False):
        kind, name = text[:1], text[1:]
        if kind in "aA" or (is_signed and offset >= 0):
            continue  # absolute: per-processor offsets
        address = base - 1 - offset if is_signed else base + (offset & 0xFFFF_FFFF)
        yield Symbol(address & _WORD, 0, name, kind in _FUNCTIONS)


def _names_size(where: dict[str, int]) -> int:
    """Return how far the packed names can reach: to whatever of the table follows them."""
    start = where["kallsyms_names"]
    after = [one for name, one in where.items() if name.startswith("kallsyms_") and one > start]
    if not after:
        raise Unreadable
    return min(after) - start


def _tokens(memory: KernelMemory, where: dict[str, int]) -> list[str]:
    starts = memory.words(where["kallsyms_token_index"], _TOKENS, "H")
    if max(starts) > _LONGEST_TOKENS:
        raise Unreadable
    table = memory.read(where["kallsyms_token_table"], max(starts) + 64)
    return [table[one : table.index(b"\0", one)].decode("ascii", "replace") for one in starts]


def _names(packed: bytes, tokens: list[str], count: int) -> Iterator[str]:
    """Yield kind and name of each symbol; a length above 127 takes two bytes."""
    at = 0
    for _ in range(count):
        if at + 2 > len(packed):
            return
        length = packed[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | packed[at] << 7
            at += 1
        yield "".join(tokens[one] for one in packed[at : at + length])
        at += length
