"""Into 64-bit mode before a kernel that begins there: Linux's "64-bit Boot Protocol".

A loader on a PC is in 32-bit protected mode. A few instructions of ours go on from there: paging
with the first 4 GiB mapped to themselves, long mode, and the jump.
"""

import struct

from turducken.address import MIB, PAGE_SIZE

BOOT_CODE_64, BOOT_DATA = 0x10, 0x18
START_CODE = 0x20
_CODE_64 = 0x00AF_9B00_0000_FFFF
_FLAT_DATA = 0x00CF_9300_0000_FFFF
_FLAT_CODE = 0x00CF_9B00_0000_FFFF
GDT = (0, 0, _CODE_64, _FLAT_DATA, _FLAT_CODE)
"""__BOOT_CS (10H) and __BOOT_DS (18H) as the protocol has them, and 32-bit code to begin with."""

_PRESENT_WRITABLE, _LARGE = 3, 0x80
_GIB_MAPPED = 4
TABLES_SIZE = (2 + _GIB_MAPPED) * PAGE_SIZE


def identity_tables(base: int) -> bytes:
    """Return 4-level page tables for physical ``base`` that map 4 GiB to itself, 2 MiB a page."""
    top = struct.pack("<Q", base + PAGE_SIZE | _PRESENT_WRITABLE)
    directories = base + 2 * PAGE_SIZE
    pointers = struct.pack(
        f"<{_GIB_MAPPED}Q",
        *(directories + n * PAGE_SIZE | _PRESENT_WRITABLE for n in range(_GIB_MAPPED)),
    )
    pages = range(_GIB_MAPPED * 512)
    leaves = struct.pack(
        f"<{len(pages)}Q", *(2 * MIB * n | _PRESENT_WRITABLE | _LARGE for n in pages)
    )
    return top.ljust(PAGE_SIZE, b"\0") + pointers.ljust(PAGE_SIZE, b"\0") + leaves


_PREPARE = bytes.fromhex(
    "0f20e0 83c820 0f22e0"  # mov eax, cr4; or eax, PAE; mov cr4, eax
    "b8"  # mov eax, the tables
)
_SWITCH = bytes.fromhex(
    "0f22d8"  # mov cr3, eax
    "b9800000c0 0f32 0fbae808 0f30"  # IA32_EFER.LME
    "0f20c0 0fbae81f 0f22c0"  # CR0.PG
    "ea"  # jmp far to 64-bit code
)
_GO = bytes.fromhex("89f6 48b8")  # mov esi, esi (RSI's upper half is undefined); mov rax, the entry
_JUMP = bytes.fromhex("ffe0")  # jmp rax


def code(base: int, tables: int, entry: int) -> bytes:
    """Return the instructions for physical ``base`` that lead to linear ``entry``; ESI stays."""
    start = _PREPARE + struct.pack("<I", tables) + _SWITCH
    there = base + len(start) + 6
    far = struct.pack("<IH", there, BOOT_CODE_64)
    return start + far + _GO + struct.pack("<Q", entry) + _JUMP
