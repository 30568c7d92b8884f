"""The setup header of a Linux kernel, and the boot parameters that a loader makes of it.

Linux documentation, "The Linux/x86 Boot Protocol" and "Zero Page".
"""

import struct
from dataclasses import dataclass

from turducken.machine.boot.errors import ImageError
from turducken.machine.firmware.memory_map import MemoryMap

HEADER_START = 0x1F1
MAGIC_AT, MAGIC = 0x202, b"HdrS"
BOOT_FLAG = 0xAA55
SECTOR = 512
OLDEST_VERSION = 0x0202
"""The first version with a command line of any place; older kernels are of the last century."""

LOADED_HIGH = 1
"""A load flag: the protected-mode code goes to 1 MiB or above, as in every bzImage."""

_UNDEFINED_LOADER = 0xFF

_FIELDS = {
    "setup_sects": (0x1F1, "B"),
    "boot_flag": (0x1FE, "H"),
    "version": (0x206, "H"),
    "kernel_version": (0x20E, "H"),
    "type_of_loader": (0x210, "B"),
    "loadflags": (0x211, "B"),
    "code32_start": (0x214, "I"),
    "ramdisk_image": (0x218, "I"),
    "ramdisk_size": (0x21C, "I"),
    "cmd_line_ptr": (0x228, "I"),
    "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"),
    "relocatable_kernel": (0x234, "B"),
    "cmdline_size": (0x238, "I"),
    "payload_offset": (0x248, "I"),
    "payload_length": (0x24C, "I"),
    "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
}
"""Where each field is in the file's first sector, and its format."""

_SINCE = {
    "initrd_addr_max": (0x0203, 0x37FF_FFFF),
    "kernel_alignment": (0x0205, 0),
    "relocatable_kernel": (0x0205, 0),
    "cmdline_size": (0x0206, 255),
    "payload_offset": (0x0208, 0),
    "payload_length": (0x0208, 0),
    "pref_address": (0x020A, 0),
    "init_size": (0x020A, 0),
}
"""The version with which a field came, and what an older kernel stands for."""


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The header as it stands in a kernel: ``data`` is the file from its beginning."""

    data: bytes

    def __getitem__(self, name: str) -> int:
        since, before = _SINCE.get(name, (0, 0))
        if since and self["version"] < since:
            return before
        offset, layout = _FIELDS[name]
        return int(struct.unpack_from("<" + layout, self.data, offset)[0])

    @property
    def end(self) -> int:
        """Where the header ends: the jump at 200H leads over it."""
        return MAGIC_AT + self.data[0x201]

    @property
    def release(self) -> str:
        """The kernel's own name of its version, or nothing."""
        pointer = self["kernel_version"]
        if not pointer:
            return ""
        text = self.data[pointer + SECTOR : pointer + SECTOR + 256].split(b"\0")[0]
        return text.decode("ascii", "replace")


def read_header(data: bytes, name: str) -> SetupHeader:
    """Return the header of a kernel file; ImageError where this loader cannot boot it."""
    header = SetupHeader(data)
    if len(data) < 4 * SECTOR or header.end > len(data):
        raise ImageError(f"{name}: the Linux kernel is cut off in its setup header")
    if header["boot_flag"] != BOOT_FLAG:
        raise ImageError(f"{name}: the Linux kernel's boot flag is {header['boot_flag']:#06x}")
    version = header["version"]
    if version < OLDEST_VERSION or not header["loadflags"] & LOADED_HIGH:
        raise ImageError(
            f"{name}: a Linux kernel with boot protocol {version >> 8}.{version & 0xFF:02d} that "
            "is loaded low; a bzImage is needed"
        )
    return header


def made_header() -> SetupHeader:
    """Return the header for a kernel that brings none: a vmlinux."""
    data = bytearray(SECTOR * 2)
    data[0x201] = 0x6A
    data[MAGIC_AT : MAGIC_AT + 4] = MAGIC
    told = {
        "boot_flag": BOOT_FLAG,
        "version": 0x020C,
        "loadflags": LOADED_HIGH,
        "initrd_addr_max": 0x7FFF_FFFF,
        "kernel_alignment": 0x20_0000,
        "cmdline_size": 2047,
    }
    for field, value in told.items():
        offset, layout = _FIELDS[field]
        struct.pack_into("<" + layout, data, offset, value)
    return SetupHeader(bytes(data))


# -- boot parameters -------------------------------------------------------------------------------

PARAMETERS_SIZE = 4096
_RSDP_AT = 0x070
_ENTRIES_AT, _TABLE_AT, _MOST_ENTRIES = 0x1E8, 0x2D0, 128
_TEXT_MODE, _COLUMNS, _LINES, _IS_VGA, _POINTS = 3, 80, 25, 1, 16


@dataclass(frozen=True, slots=True)
class Told:
    """What a loader tells the kernel; addresses are physical."""

    memory_map: MemoryMap
    rsdp_address: int
    command_line: int
    initrd: range


def boot_parameters(header: SetupHeader, told: Told) -> bytes:
    """Return the page whose address the kernel finds in ESI ("Zero Page")."""
    page = bytearray(PARAMETERS_SIZE)
    page[HEADER_START : header.end] = header.data[HEADER_START : header.end]

    def put(field: str, value: int) -> None:
        offset, layout = _FIELDS[field]
        struct.pack_into("<" + layout, page, offset, value)

    put("type_of_loader", _UNDEFINED_LOADER)
    put("cmd_line_ptr", told.command_line)
    put("ramdisk_image", told.initrd.start)
    put("ramdisk_size", len(told.initrd))
    struct.pack_into("<Q", page, _RSDP_AT, told.rsdp_address)
    _put_screen(page)
    entries = list(told.memory_map)[:_MOST_ENTRIES]
    page[_ENTRIES_AT] = len(entries)
    for number, one in enumerate(entries):
        struct.pack_into("<QQI", page, _TABLE_AT + 20 * number, one.start, one.size, one.kind)
    return bytes(page)


def _put_screen(page: bytearray) -> None:
    """Tell of the VGA text screen (struct screen_info)."""
    page[0x06], page[0x07], page[0x0E], page[0x0F] = _TEXT_MODE, _COLUMNS, _LINES, _IS_VGA
    struct.pack_into("<H", page, 0x10, _POINTS)
