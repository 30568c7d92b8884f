"""Firmware in a ROM: the file that it comes from."""

from dataclasses import dataclass, field
from pathlib import Path

from turducken.address import KIB, MIB, PAGE_SIZE
from turducken.machine.boot import ImageError, Symbols
from turducken.machine.boot.container import read_file
from turducken.machine.boot.elf import ElfImage

SMALLEST, LARGEST = 64 * KIB, 16 * MIB

_KNOWN = {
    "seabios": (
        "seabios",
        ("/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin"),
    ),
    "ovmf": ("ovmf", ("/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd")),
}
"""For each name: the Debian package, and where it has its file."""

FIRMWARE_NAMES = tuple(_KNOWN)


@dataclass(frozen=True)
class RomImage:
    """Firmware for the end of the first 4 GiB; its processor begins at the reset vector."""

    name: str
    data: bytes
    symbols: Symbols = field(default_factory=Symbols)
    elf: ElfImage | None = None
    disk: bytes = b""
    """The contents of a disk that belongs to it: the machine's first."""


def find_rom(name_or_path: str) -> RomImage:
    """Return firmware by its name (`FIRMWARE_NAMES`) or its path.

    Raises ImageError where there is none, or where it cannot be firmware.
    """
    path = name_or_path
    if name_or_path in _KNOWN:
        package, places = _KNOWN[name_or_path]
        found = [one for one in places if Path(one).exists()]
        if not found:
            raise ImageError(
                f"--firmware {name_or_path}: none of {', '.join(places)} is there; "
                f"on Debian: apt-get install {package}"
            )
        path = found[0]
    return make_rom(name_or_path if path != name_or_path else Path(path).name, read_file(path))


def make_rom(name: str, data: bytes) -> RomImage:
    """Return firmware of these bytes; ImageError where that cannot be."""
    if not SMALLEST <= len(data) <= LARGEST or len(data) % PAGE_SIZE:
        raise ImageError(
            f"{name}: {len(data)} bytes are no firmware: it has whole pages, from "
            f"{SMALLEST // KIB} KiB to {LARGEST // MIB} MiB"
        )
    return RomImage(name, data)
