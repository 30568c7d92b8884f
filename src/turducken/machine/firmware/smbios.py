"""SMBIOS tables: BIOS, system, processors, memory. SMBIOS Reference Specification, version 2.8."""

import struct
from collections.abc import Sequence

from turducken.address import KIB, MIB
from turducken.machine.firmware.acpi import with_checksum
from turducken.machine.firmware.memory_map import ram_ranges

ENTRY_SIZE = 31
_MAKER = "Turducken"
_NO_ERRORS_KNOWN, _UNKNOWN = 0xFFFE, 0xFFFF
_SYSTEM_MEMORY, _ON_BOARD, _NO_ECC, _DIMM, _RAM = 3, 3, 3, 9, 7
_LARGE_ARRAY, _LARGE_DEVICE = 0x8000_0000, 0x7FFF
_MHZ = 1000
_END = 127


def _structure(kind: int, handle: int, body: bytes, strings: Sequence[str] = ()) -> bytes:
    """Return a structure: header, formatted area, strings."""
    text = b"".join(one.encode("ascii") + b"\0" for one in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + text + b"\0"


def _bios() -> bytes:
    body = struct.pack("<BBHBBQBBBBBB", 1, 2, 0xE800, 3, 0, 1 << 3, 0, 4, 0xFF, 0xFF, 0xFF, 0xFF)
    return _structure(0, 0, body, (_MAKER, "1", "01/01/2024"))


def _system() -> bytes:
    return _structure(1, 0x100, struct.pack("<4B16sBBB", 1, 2, 0, 0, bytes(16), 6, 0, 0),
                      (_MAKER, "Machine"))  # fmt: skip


def _processor(number: int, signature: int, features: int) -> bytes:
    body = struct.pack(
        "<BBBBIIBBHHHBB", 1, 3, 1, 2, signature, features, 0, 0, 0, _MHZ, _MHZ, 0x41, 1
    )
    body += struct.pack("<HHHBBBBBBHH", *[_UNKNOWN] * 3, 0, 0, 0, 1, 1, 1, 0, 1)
    return _structure(4, 0x400 + number, body, (f"CPU {number}", _MAKER))


def _memory(ram_size: int) -> list[bytes]:
    """Return an array, one device, and where its bytes appear."""
    kib, mib = ram_size // KIB, ram_size // MIB
    is_large = kib >= _LARGE_ARRAY
    body = struct.pack("<BBBIHHQ", _ON_BOARD, _SYSTEM_MEMORY, _NO_ECC,
                       _LARGE_ARRAY if is_large else kib, _NO_ERRORS_KNOWN, 1,
                       ram_size if is_large else 0)  # fmt: skip
    found = [_structure(16, 0x1000, body)]
    body = struct.pack("<HHHHHBBBBBH", 0x1000, _NO_ERRORS_KNOWN, _UNKNOWN, _UNKNOWN,
                       min(mib, _LARGE_DEVICE), _DIMM, 0, 1, 0, _RAM, 2)  # fmt: skip
    body += struct.pack("<HBBBBBIHHHH", 0, 0, 0, 0, 0, 0, mib & 0x7FFF_FFFF, 0, 0, 0, 0)
    found.append(_structure(17, 0x1100, body, ("DIMM 0",)))
    for number, (start, end) in enumerate(ram_ranges(ram_size)):
        first, last = start // KIB, end // KIB - 1
        fits = last <= 0xFFFF_FFFE
        body = struct.pack("<IIHBQQ", first if fits else 0xFFFF_FFFF, last if fits else 0xFFFF_FFFF,
                           0x1000, 1, 0 if fits else start, 0 if fits else end - 1)  # fmt: skip
        found.append(_structure(19, 0x1300 + number, body))
    return found


def smbios_structures(
    ram_size: int, processors: int, signature: int, features: int
) -> tuple[bytes, int, int]:
    """Return the structure table, the number of structures, and the size of the largest."""
    parts = [_bios(), _system()]
    parts += [_processor(number, signature, features) for number in range(processors)]
    parts += [*_memory(ram_size), _structure(32, 0x2000, bytes(7)), _structure(_END, 0x7F00, b"")]
    return b"".join(parts), len(parts), max(len(one) for one in parts)


def smbios_entry(address: int, size: int, count: int, largest: int) -> bytes:
    """Return the entry point for a structure table of ``size`` bytes at ``address``."""
    second = with_checksum(struct.pack("<5sBHIHB", b"_DMI_", 0, size, address, count, 0x28), 5)
    first = struct.pack("<4sBBBBHB5s", b"_SM_", 0, ENTRY_SIZE, 2, 8, largest, 0, bytes(5))
    return with_checksum(first + second, 4)
