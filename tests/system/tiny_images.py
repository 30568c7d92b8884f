"""Images of a few instructions, for runs whose every step is known."""

import struct

from turducken.machine.boot import BootImage, parse_image

LOAD = 0x10_0000
_FLAGS = 1 << 16  # the header has load addresses
_MAGIC = 0x1BADB002
_HEADER = 32


def tiny_file(code: bytes) -> bytes:
    """Return a Multiboot file (no ELF) that runs 32-bit ``code`` at 1 MiB + 32."""
    checksum = -(_MAGIC + _FLAGS) & 0xFFFF_FFFF
    fields = (_MAGIC, _FLAGS, checksum, LOAD, LOAD, 0, 0, LOAD + _HEADER)
    return struct.pack("<8I", *fields) + code


def tiny(code: bytes) -> BootImage:
    return parse_image(tiny_file(code), "tiny")


def say(text: str) -> bytes:
    """Return code that writes ``text`` to COM1 (the transmitter is always ready)."""
    code = b"\xba\xf8\x03\x00\x00"  # mov edx, 3f8h
    return code + b"".join(b"\xb0" + bytes([one]) + b"\xee" for one in text.encode())  # mov al; out


def leave(code: int) -> bytes:
    """Return code that ends the run through the debug-exit port."""
    return b"\xba\xf4\x00\x00\x00\xb8" + struct.pack("<I", code) + b"\xef" + b"\xeb\xfe"


STOP = b"\xfa\xf4\xeb\xfd"
"""cli; hlt; and again"""
SLEEP = b"\xf4\xeb\xfd"
SPIN = b"\xeb\xfe"
UNDEFINED = b"\x0f\x0b"
"""ud2, without an IDT: a triple fault."""
