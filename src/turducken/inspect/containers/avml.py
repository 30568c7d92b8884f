"""AVML dumps, version 2: ranges like LiME's, each a stream of Snappy frames.

A block is a header, the frames of the range's bytes, and the length of the frames (8 bytes). The
frames are as Snappy's "framing format" describes.
"""

import struct

from turducken.inspect.containers.codecs import codec
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece, Scratch

MAGIC = 0x4C4D5641
HEADER = struct.Struct("<IIQQQ")
"""Magic, version, first address, last address, reserved."""

_TRAILER = 8
_FRAME_HEADER, _CHECKSUM = 4, 4
_COMPRESSED, _PLAIN, _FIRST_SKIPPABLE = 0, 1, 0x80
MAX_FRAME = 1 << 16
"""Bytes that a frame holds at most when unpacked."""


def is_avml(head: bytes) -> bool:
    """Tell whether a file begins as AVML's do."""
    return head[:4] == struct.pack("<I", MAGIC)


def open_avml(file: FileMap) -> FileSource:
    """Open an AVML dump; its ranges are unpacked into a temporary file."""
    scratch = Scratch(file.path)
    pieces: list[Piece] = []
    at, cut = 0, ""
    while at < len(file.data) and not cut:
        if at + HEADER.size > len(file.data):
            cut = f"the header at offset {at:#x} is cut short"
            break
        magic, version, first, last, _ = HEADER.unpack_from(file.data, at)
        if magic != MAGIC or version != 2 or last < first:
            if not pieces:
                raise InspectError(
                    f"{file.path}: the AVML header at offset {at:#x} is not valid (version "
                    f"{version}; 2 is known)"
                )
            cut = f"what follows at offset {at:#x} is not an AVML header; ignored"
            break
        begin, size = scratch.size, last - first + 1
        at += HEADER.size
        at = _unpack_frames(file, at, size, scratch)
        have = scratch.size - begin
        if have < size:
            cut = f"the range from {first:#x} on ends {size - have:#x} bytes early"
        pieces.append(Piece(first, begin, min(have, size)))
        at += _TRAILER
    source = FileSource(file.path, "AVML dump", [scratch.finish()], pieces)
    source.warnings += [f"{file.path}: {cut}"] if cut else []
    return source


def _unpack_frames(file: FileMap, at: int, size: int, scratch: Scratch) -> int:
    """Unpack the frames at ``at``, ``size`` bytes of memory; return where they end."""
    snappy = codec("snappy", file.path)
    while size > 0 and at + _FRAME_HEADER <= len(file.data):
        (head,) = struct.unpack_from("<I", file.data, at)
        kind, length = head & 0xFF, head >> 8
        body = bytes(file.data[at + _FRAME_HEADER : at + _FRAME_HEADER + length])
        if len(body) < length:
            break
        at += _FRAME_HEADER + length
        if kind in (_COMPRESSED, _PLAIN):
            data = body[_CHECKSUM:]
            if kind == _COMPRESSED:
                data = snappy(data, MAX_FRAME)
            size -= len(data)
            scratch.append(data)
        elif kind < _FIRST_SKIPPABLE:
            raise InspectError(f"{file.path}: a Snappy frame of unknown kind {kind:#x} at {at:#x}")
    return at
