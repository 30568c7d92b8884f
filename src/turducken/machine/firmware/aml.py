"""The little of the ACPI Machine Language that a minimal DSDT needs.

ACPI specification, "ACPI Machine Language (AML) Specification".
"""

import struct

_NAME_OP, _SCOPE_OP, _PACKAGE_OP, _BYTE_PREFIX = 0x08, 0x10, 0x12, 0x0A
_PROCESSOR_OP = b"\x5b\x83"
_ROOT = b"\\"


def package_length(content: bytes) -> bytes:
    """Return the length prefix of ``content``, which counts itself ("Package Length Encoding")."""
    if len(content) + 1 < 0x40:
        return bytes([len(content) + 1])
    for extra in (1, 2, 3):
        total = len(content) + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError("an AML package is too long")


def name(path: str, value: bytes) -> bytes:
    """Define the root object ``path`` (four characters) with an encoded value."""
    return bytes([_NAME_OP]) + _ROOT + path.encode("ascii") + value


def package(*values: int) -> bytes:
    """Encode a package of byte constants."""
    body = bytes([len(values)]) + b"".join(bytes([_BYTE_PREFIX, value]) for value in values)
    return bytes([_PACKAGE_OP]) + package_length(body) + body


def scope(path: str, content: bytes) -> bytes:
    """Put ``content`` into the root scope ``path``."""
    body = _ROOT + path.encode("ascii") + content
    return bytes([_SCOPE_OP]) + package_length(body) + body


def processor(index: int) -> bytes:
    """Declare processor ``index`` (0 to 254) as ``Cxxx`` without a register block."""
    body = f"C{index:03X}".encode("ascii") + struct.pack("<BIB", index, 0, 0)
    return _PROCESSOR_OP + package_length(body) + body
