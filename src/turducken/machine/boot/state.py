"""The records that go into booting and come out of it."""

from dataclasses import dataclass, field

from turducken.machine.boot.symbols import Symbols
from turducken.machine.firmware.memory_map import MemoryMap

FLAT_CODE = 0x00CF_9B00_0000_FFFF
FLAT_DATA = 0x00CF_9300_0000_FFFF
"""Descriptors of 32-bit segments with base 0 and limit 4 GiB, accessed bit set."""

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
GDT = (0, FLAT_CODE, FLAT_DATA)


@dataclass(frozen=True, slots=True)
class Module:
    """A file for the image: its string is the name, a blank, and the text."""

    name: str
    data: bytes
    text: str = ""

    @property
    def string(self) -> str:
        """What the image is told."""
        return command_line(self.name, self.text)


@dataclass(frozen=True, slots=True)
class PlacedModule:
    """A module in memory, from physical ``start`` up to ``end``."""

    string: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class BootState:
    """A processor's state at the image's entry point, and where everything is.

    32-bit protected mode without paging, flat segments, interrupts off: Multiboot Specification
    0.6.96, "Machine state", and likewise Linux's and Xen's boot protocols. Everything that is not
    named here is as after reset.
    """

    version: int
    """1 or 2: the Multiboot specification; 0: another protocol."""
    eip: int
    eax: int
    """The magic number of Multiboot."""
    ebx: int
    """Physical address of the information structure of Multiboot or PVH."""
    esp: int
    """The top of a small stack in available RAM."""
    gdt_base: int
    memory_map: MemoryMap
    """As the image is told it."""
    image_ranges: tuple[tuple[int, int], ...]
    """Physical ``(start, end)`` of the image's segments."""
    modules: tuple[PlacedModule, ...] = ()
    command_line: str = ""
    symbols: Symbols = field(default_factory=Symbols)
    esi: int = 0
    """Physical address of Linux's boot parameters."""
    ebp: int = 0
    eflags: int = 0x2
    cr0: int = 0x11
    """Protection enabled, extension type; paging off."""
    gdt_limit: int = 8 * len(GDT) - 1
    is_reset: bool = False
    """Begin at the reset vector instead, as reset leaves the processor."""
    code_selector: int = CODE_SELECTOR
    data_selector: int = DATA_SELECTOR


def command_line(name: str, text: str) -> str:
    """Return the line whose first word is the image's name."""
    return f"{name} {text}" if text else name
