"""The symbols of a running kernel's modules, from the kernel's list of them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from turducken.machine.boot.symbols import Symbol, Symbols
from turducken.symbols.linux.layouts import member_offsets
from turducken.symbols.linux.memory import KernelMemory, Unreadable

_MOST_MODULES, _MOST_SYMBOLS = 4096, 1 << 18
_NAME_SIZE = 56
_LONGEST_NAME = 512
_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION, _LARGEST = 2, 1 << 22
_STRUCTURES = frozenset({"module", "mod_kallsyms"})
_NEEDED = {
    "module": ("list", "name", "kallsyms"),
    "mod_kallsyms": ("symtab", "num_symtab", "strtab"),
}


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module and its symbols, by linear addresses."""

    name: str
    symbols: Symbols

    def describe(self, address: int) -> str | None:
        """Return ``function+0x12 [module]``, or None where the module has no such symbol."""
        found = self.symbols.at(address)
        if found is None or (found.size == 0 and found.address != address):
            return None
        return f"{self.symbols.describe(address)} [{self.name}]"


class ModuleList:
    """The list whose head is at linear ``head``; ``btf`` says how its elements look.

    Raises Unreadable where the type information lacks something.
    """

    def __init__(self, memory: KernelMemory, head: int, btf: bytes) -> None:
        self._memory = memory
        self._head = head
        offsets = member_offsets(btf, _STRUCTURES)
        for name, members in _NEEDED.items():
            if any(one not in offsets.get(name, {}) for one in members):
                raise Unreadable
        self._module, self._table = offsets["module"], offsets["mod_kallsyms"]
        self._known: dict[int, LoadedModule] = {}

    def loaded(self) -> list[LoadedModule]:
        """Return the modules that are loaded now; those known already are not read again."""
        found = {}
        for address in self._addresses():
            known = self._known.get(address)
            if known is None or known.name != self._name(address):
                known = self._read(address)
            found[address] = known
        self._known = found
        return list(found.values())

    def _addresses(self) -> Iterator[int]:
        link = self._memory.word(self._head)
        for _ in range(_MOST_MODULES):
            if link == self._head:
                return
            yield link - self._module["list"]
            link = self._memory.word(link)

    def _name(self, address: int) -> str:
        content = self._memory.read(address + self._module["name"], _NAME_SIZE)
        return content.split(b"\0")[0].decode("ascii", "replace")

    def _read(self, address: int) -> LoadedModule:
        try:
            symbols = Symbols(self._symbols(address))
        except Unreadable:
            symbols = Symbols()  # one that is being loaded or unloaded
        return LoadedModule(self._name(address), symbols)

    def _symbols(self, address: int) -> Iterator[Symbol]:
        memory, table = self._memory, self._table
        where = memory.word(address + self._module["kallsyms"])
        count = memory.word(where + table["num_symtab"], 4)
        if count > _MOST_SYMBOLS:
            raise Unreadable
        entries = memory.read(memory.word(where + table["symtab"]), count * _SYMBOL.size)
        parsed = list(_SYMBOL.iter_unpack(entries))
        size = max((one[0] for one in parsed), default=0)
        if size > _LARGEST:
            raise Unreadable
        size += _LONGEST_NAME
        names = memory.read(memory.word(where + table["strtab"]), size, at_most=True)
        for name, info, _, section, value, length in parsed:
            if section and name < len(names):
                text = names[name : names.find(b"\0", name)].decode("ascii", "replace")
                yield Symbol(value, length, text, info & 0xF == _FUNCTION)
