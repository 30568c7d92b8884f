"""What a loader tells an image, and the pieces that both Multiboot versions build it from."""

from dataclasses import dataclass

from turducken.machine.boot.image import BootImage
from turducken.machine.boot.state import PlacedModule
from turducken.machine.firmware.memory_map import MemoryMap

LOADER_NAME = "Turducken"

TEXT_BUFFER, TEXT_PITCH, TEXT_COLUMNS, TEXT_ROWS, TEXT_BITS = 0xB8000, 160, 80, 25, 16
EGA_TEXT = 2
"""Framebuffer type: what an image that wants video is told of the VGA text screen."""


FIRST_DISK, NO_PARTITION = 0x80, 0xFF
"""BIOS drive number and partition that a loader names as those it was loaded from."""


@dataclass(frozen=True, slots=True)
class Information:
    """What the image is told; ``table_addresses`` are where its symbol tables were loaded."""

    image: BootImage
    command_line: str
    memory_map: MemoryMap
    modules: tuple[PlacedModule, ...]
    table_addresses: dict[int, int]
    rsdp: bytes
    """The ACPI root pointer, or nothing."""


def c_string(text: str) -> bytes:
    """Return ``text`` as a zero-terminated string (cut at a zero)."""
    return text.encode("utf-8", "surrogateescape").split(b"\0")[0] + b"\0"
