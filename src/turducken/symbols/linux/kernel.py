"""A running Linux kernel that names its own addresses, and those of its modules."""

from turducken.machine.boot.symbols import Symbols
from turducken.memory import PhysicalMemory
from turducken.symbols.linux.memory import IMAGE_BASE, KernelMemory, Unreadable, find_note
from turducken.symbols.linux.modules import LoadedModule, ModuleList
from turducken.symbols.linux.table import kernel_symbols

_MOST_LOOKS = 16
"""How often to look for a kernel that is not there yet: each time reads all of the memory."""


class RunningKernel:
    """Names for addresses, as the kernel in ``memory`` has them at the moment of the question.

    The kernel is found by the note that it leaves early in its start, wherever it has put itself;
    before that there are no names. Modules come and go: the list is read again for each address
    that nothing known has.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._looks = 0
        self._symbols: Symbols | None = None
        self._modules: ModuleList | None = None

    def describe(self, address: int) -> str | None:
        """Return ``function+0x12``, with the module's name behind it where it is a module's."""
        if address < IMAGE_BASE or not self._is_found():
            return None
        for one in self._loaded():
            name = one.describe(address)
            if name is not None:
                return name
        return None if self._symbols is None else self._of_kernel(address, self._symbols)

    def _of_kernel(self, address: int, symbols: Symbols) -> str | None:
        last = symbols.address_of("_end")
        if last is not None and address >= last:
            return None
        return symbols.describe(address)

    def _is_found(self) -> bool:
        if self._symbols is None and self._looks < _MOST_LOOKS:
            self._looks += 1
            try:
                self._look()
            except Unreadable:
                self._symbols = None
        return self._symbols is not None

    def _look(self) -> None:
        note = find_note(self._memory)
        if note is None:
            return
        memory = KernelMemory(self._memory, note)
        symbols = Symbols(kernel_symbols(memory, note))
        self._symbols = symbols
        head = symbols.address_of("modules")
        start, stop = symbols.address_of("__start_BTF"), symbols.address_of("__stop_BTF")
        if head is None or start is None or stop is None or stop < start:
            return
        try:
            self._modules = ModuleList(memory, head, memory.read(start, stop - start))
        except Unreadable:
            self._modules = None

    def _loaded(self) -> list[LoadedModule]:
        if self._modules is None:
            return []
        try:
            return self._modules.loaded()
        except Unreadable:
            return []
