"""Names of addresses, from an image's symbol table."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A function, an object or a bare label at a linear address of the image."""

    address: int
    size: int
    name: str
    is_function: bool = False

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


class Symbols:
    """An image's symbols, by name and by address.

    Of several symbols at one address the look-up prefers a function, then the longest, then the
    first name.
    """

    def __init__(self, symbols: Iterable[Symbol] = ()) -> None:
        self._by_name: dict[str, Symbol] = {}
        best: dict[int, Symbol] = {}
        for one in symbols:
            known = self._by_name.get(one.name)
            if known is None or _rank(one) > _rank(known):
                self._by_name[one.name] = one
            rival = best.get(one.address)
            if rival is None or (_rank(one), rival.name) > (_rank(rival), one.name):
                best[one.address] = one
        self._sorted = [best[address] for address in sorted(best)]
        self._addresses = [one.address for one in self._sorted]

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Symbol]:
        """Yield the symbols that `at` can give, by address."""
        return iter(self._sorted)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Symbol | None:
        """Return the symbol with this name."""
        return self._by_name.get(name)

    def address_of(self, name: str) -> int | None:
        """Return the linear address of a name."""
        symbol = self._by_name.get(name)
        return None if symbol is None else symbol.address

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that ``address`` is in.

        A label without a size reaches to the next symbol.
        """
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        symbol = self._sorted[index]
        return symbol if symbol.size == 0 or address in symbol else None

    def describe(self, address: int) -> str | None:
        """Return ``name`` or ``name+0x12``, or None where no symbol is."""
        symbol = self.at(address)
        if symbol is None:
            return None
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name


def _rank(symbol: Symbol) -> tuple[bool, int]:
    return symbol.is_function, symbol.size
