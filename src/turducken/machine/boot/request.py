"""What a user boots an image with."""

from collections.abc import Sequence
from dataclasses import dataclass

from turducken.machine.boot.deposit import Deposit
from turducken.machine.boot.state import Module
from turducken.machine.firmware.memory_map import MemoryMap
from turducken.memory import Memory


@dataclass(frozen=True, slots=True)
class BootRequest:
    """What to boot an image with.

    ``reserve`` are ranges of addresses that the image must not learn of as available.
    ``memory_is_zero``: as in `Deposit`.
    """

    memory_map: MemoryMap
    text: str = ""
    """The command line (of a Multiboot image: what follows its name there)."""
    modules: Sequence[Module] = ()
    reserve: Sequence[range] = ()
    rsdp: bytes = b""
    rsdp_address: int = 0
    memory_is_zero: bool = True
    initrd: bytes | None = None
    """The initial RAM disk of a Linux kernel."""

    def deposit(self, memory: Memory) -> Deposit:
        """Return ``memory`` with nothing of the image in it yet."""
        return Deposit(memory, self.memory_map, self.reserve, memory_is_zero=self.memory_is_zero)
