"""Tiny Linux-like kernels: bzImages, ELF files with a PVH note, and a vmlinux."""

import struct

from image_builder import elf

from turducken.address import MIB

PRINT = bytes.fromhex("66ba f803 8a03 84c0 7405 ee ffc3 ebf5 31c0 e6f4")
"""Writes the string at EBX to COM1, then leaves with 0; the same bytes in 32 and 64 bits."""

LINUX_CODE = bytes.fromhex("8b9e 28020000") + PRINT
"""Finds the command line through the boot parameters in ESI."""

PVH_CODE = bytes.fromhex("8b5b 18") + PRINT
"""Finds the command line through the start information in EBX."""


def bzimage(
    code=LINUX_CODE,
    *,
    version=0x020F,
    loadflags=1,
    relocatable=1,
    preferred=16 * MIB,
    alignment=2 * MIB,
    init_size=MIB,
    cmdline_size=2047,
    initrd_max=0x7FFF_FFFF,
    setup_sects=4,
    payload=(0, 0),
    boot_flag=0xAA55,
):
    header = bytearray((setup_sects or 4) * 512 + 512)
    header[0x1F1] = setup_sects
    struct.pack_into("<H", header, 0x1FE, boot_flag)
    header[0x200:0x206] = b"\xeb\x6aHdrS"
    struct.pack_into("<H", header, 0x206, version)
    header[0x211] = loadflags
    struct.pack_into("<I", header, 0x214, MIB)
    struct.pack_into("<II", header, 0x22C, initrd_max, alignment)
    header[0x234] = relocatable
    struct.pack_into("<I", header, 0x238, cmdline_size)
    struct.pack_into("<II", header, 0x248, *payload)
    struct.pack_into("<QI", header, 0x258, preferred, init_size)
    return bytes(header) + code


def pvh_note(entry, *, size=4, owner=b"Xen\0", kind=18):
    content = entry.to_bytes(size, "little")
    return struct.pack("<III", len(owner), size, kind) + owner + content


def pvh_image(code=PVH_CODE, *, is_64=True, address=MIB, note=None):
    """The ELF file of `image_builder.elf` with a second program header, for the note."""
    note = pvh_note(address) if note is None else note
    plain = elf(code.ljust(64, b"\x90") + note, address=address, is_64=is_64)
    count_at, header_size, program_size = (56, 64, 56) if is_64 else (44, 52, 32)
    code_at = (header_size + program_size + 15) & ~15
    moved = code_at + program_size
    if is_64:
        load = struct.pack("<IIQQQQQQ", 1, 7, moved, address, address, len(code), len(code), 4096)
        other = struct.pack("<IIQQQQQQ", 4, 4, moved + 64, 0, 0, len(note), len(note), 4)
    else:
        load = struct.pack("<8I", 1, moved, address, address, len(code), len(code), 7, 4096)
        other = struct.pack("<8I", 4, moved + 64, 0, 0, len(note), len(note), 4, 4)
    head = bytearray(plain[:header_size])
    struct.pack_into("<H", head, count_at, 2)
    return (bytes(head) + load + other).ljust(moved, b"\0") + plain[code_at:]


def vmlinux(code=LINUX_CODE, *, address=16 * MIB):
    """A 64-bit kernel, linked high as Linux is."""
    return elf(
        code + b"Linux version 6.1 test\0",
        address=address,
        linear=0xFFFF_FFFF_8000_0000 + address,
        is_64=True,
    )
