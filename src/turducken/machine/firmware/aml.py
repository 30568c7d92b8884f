"""The little of the ACPI Machine Language that our DSDT needs.

ACPI specification, "ACPI Machine Language (AML) Specification" and "Resource Data Types for ACPI".
"""

import struct

_NAME_OP, _SCOPE_OP, _BUFFER_OP, _PACKAGE_OP = 0x08, 0x10, 0x11, 0x12
_BYTE_PREFIX, _WORD_PREFIX, _DWORD_PREFIX, _QWORD_PREFIX = 0x0A, 0x0B, 0x0C, 0x0E
_PROCESSOR_OP, _DEVICE_OP = b"\x5b\x83", b"\x5b\x82"
_ROOT = b"\\"
_MEMORY, _IO, _BUS = 0, 1, 2
_FIXED = 0x0C
"""Minimum and maximum of an address space are fixed."""
_END_TAG = b"\x79\0"


def package_length(content: bytes) -> bytes:
    """Return the length prefix of ``content``, which counts itself ("Package Length Encoding")."""
    if len(content) + 1 < 0x40:
        return bytes([len(content) + 1])
    for extra in (1, 2, 3):
        total = len(content) + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError("an AML package is too long")


def integer(value: int) -> bytes:
    """Encode an integer constant."""
    for prefix, size in ((_BYTE_PREFIX, 1), (_WORD_PREFIX, 2), (_DWORD_PREFIX, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    return bytes([_QWORD_PREFIX]) + value.to_bytes(8, "little")


def name(path: str, value: bytes) -> bytes:
    """Define the object ``path``: four characters, with a backslash before them in the root."""
    return bytes([_NAME_OP]) + path.encode("ascii") + value


def package(*elements: bytes) -> bytes:
    """Encode a package of encoded elements."""
    body = bytes([len(elements)]) + b"".join(elements)
    return bytes([_PACKAGE_OP]) + package_length(body) + body


def scope(path: str, content: bytes) -> bytes:
    """Put ``content`` into the root scope ``path``."""
    body = _ROOT + path.encode("ascii") + content
    return bytes([_SCOPE_OP]) + package_length(body) + body


def device(path: str, content: bytes) -> bytes:
    """Declare a device of four characters."""
    body = path.encode("ascii") + content
    return _DEVICE_OP + package_length(body) + body


def processor(index: int) -> bytes:
    """Declare processor ``index`` (0 to 254) as ``Cxxx`` without a register block."""
    body = f"C{index:03X}".encode("ascii") + struct.pack("<BIB", index, 0, 0)
    return _PROCESSOR_OP + package_length(body) + body


def eisa_id(text: str) -> bytes:
    """Encode an identifier such as ``PNP0A03`` as the integer it is ("EISAID")."""
    letters = [ord(one) - 0x40 for one in text[:3]]
    vendor = letters[0] << 10 | letters[1] << 5 | letters[2]
    return bytes([_DWORD_PREFIX]) + vendor.to_bytes(2, "big") + bytes.fromhex(text[3:])


def resources(*descriptors: bytes) -> bytes:
    """Encode a resource template: a buffer of descriptors."""
    content = b"".join(descriptors) + _END_TAG
    body = integer(len(content)) + content
    return bytes([_BUFFER_OP]) + package_length(body) + body


def io_ports(first: int, count: int) -> bytes:
    """Return an I/O port descriptor: 16-bit decode."""
    return struct.pack("<BBHHBB", 0x47, 1, first, first, 1, count)


def irq(number: int) -> bytes:
    """Return an IRQ descriptor: edge-triggered, active high, exclusive."""
    return struct.pack("<BH", 0x22, 1 << number)


def memory32(base: int, size: int) -> bytes:
    """Return a fixed 32-bit memory range, read-only."""
    return struct.pack("<BHBII", 0x86, 9, 0, base, size)


def _space(kind: int, specific: int, size: int, first: int, last: int) -> bytes:
    """Return an address space descriptor with fields of ``size`` bytes."""
    tag = {2: 0x88, 4: 0x87, 8: 0x8A}[size]
    letter = {2: "H", 4: "I", 8: "Q"}[size]
    body = struct.pack(
        f"<BBB5{letter}", kind, _FIXED, specific, 0, first, last, 0, last - first + 1
    )
    return struct.pack("<BH", tag, len(body)) + body


def bus_numbers(first: int, last: int) -> bytes:
    """Return the bus numbers that a host bridge leads to."""
    return _space(_BUS, 0, 2, first, last)


def io_window(first: int, last: int) -> bytes:
    """Return ports that a host bridge passes on."""
    return _space(_IO, 3, 2, first, last)


def memory_window(first: int, last: int, *, cacheable: bool = False) -> bytes:
    """Return addresses that a host bridge passes on, read-write."""
    size = 4 if last < 1 << 32 else 8
    return _space(_MEMORY, 1 | (2 if cacheable else 0), size, first, last)
