"""UEFI applications: firmware, and a disk from which it starts the application.

The shell of the firmware starts it, and switches the machine off behind it: with success where the
application returned EFI_SUCCESS, else by the debug-exit port with 1.
"""

import struct
from pathlib import Path

from turducken.machine.boot import ImageError
from turducken.machine.boot.container import read_file
from turducken.machine.firmware.rom import RomImage, find_rom
from turducken.storage.fat import fat_image

FIRMWARE = "ovmf"
_APPLICATION = 10
"""The subsystem in a PE header: Microsoft PE and COFF Specification, "Windows Subsystem"."""
_MACHINES = {0x8664: "x86-64"}
_LINUX_MAGIC = (0x202, b"HdrS")
"""A Linux kernel may be a UEFI application besides, but has an entry of its own."""

_STARTUP = """\
@echo -off
fs0:
RUN.NSH
mm F4 1 -w 4 -io -n
"""
_RUN = """\
\\APP.EFI {text}
if %lasterror% == 0 then
  reset -s
endif
"""
"""A script of its own: what cannot be loaded ends the script, and the other one goes on."""


def _header(data: bytes) -> tuple[int, int] | None:
    """Return machine and subsystem of a PE file."""
    if data[:2] != b"MZ" or len(data) < 0x40:
        return None
    at = struct.unpack_from("<I", data, 0x3C)[0]
    if data[at : at + 4] != b"PE\0\0" or len(data) < at + 94:
        return None
    machine, subsystem = (
        struct.unpack_from("<H", data, at + 4),
        struct.unpack_from("<H", data, at + 92),
    )
    return machine[0], subsystem[0]


def _script(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("ascii", "replace")


def is_efi_application(path: Path) -> bool:
    """Tell whether a file is a UEFI application (and not a Linux kernel)."""
    try:
        with path.open("rb") as file:
            data = file.read(4096)
    except OSError:
        return False
    at, magic = _LINUX_MAGIC
    header = _header(data)
    return header is not None and header[1] == _APPLICATION and data[at : at + 4] != magic


def efi_application(path: Path, text: str = "") -> RomImage:
    """Return firmware that starts the application with the command line ``text``.

    Raises ImageError where it is not for this machine, or where there is no firmware for it.
    """
    data = read_file(path)
    header = _header(data)
    if header is None or header[0] not in _MACHINES:
        known = ", ".join(_MACHINES.values())
        raise ImageError(f"{path.name}: a UEFI application for another processor than {known}")
    files = {
        "APP.EFI": data,
        "RUN.NSH": _script(_RUN.format(text=text)),
        "STARTUP.NSH": _script(_STARTUP),
    }
    rom = find_rom(FIRMWARE)
    try:
        disk = fat_image(files)
    except ValueError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return RomImage(path.name, rom.data, disk=disk)
