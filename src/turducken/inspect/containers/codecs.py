"""Decompressing single blocks, by libraries; what a user has to install is said where one lacks."""

import zlib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from turducken.inspect.errors import InspectError

Codec = Callable[[bytes, int], bytes]
"""Unpack a block that gives at most so many bytes."""


def library(what: str, path: str) -> ModuleType:
    """Return the library for Snappy, LZ4 and Zstandard; ``what`` needs it, in the file ``path``."""
    try:
        return import_module("cramjam")
    except ImportError:
        raise InspectError(
            f"{path}: reading {what} needs cramjam: pip install 'turducken[dumps]'"
        ) from None


def codec(name: str, path: str) -> Codec:
    """Return how to unpack blocks compressed by ``name`` (zlib, snappy, zstd) in the file ``path``.

    The codec raises `InspectError` for what is no such block.
    """
    unpack = _zlib if name == "zlib" else _by_library(name, path)

    def checked(data: bytes, most: int) -> bytes:
        try:
            return unpack(data, most)
        except Exception as error:  # the library has exceptions of its own
            raise InspectError(f"{path}: a block is not valid {name} ({error})") from None

    return checked


def _zlib(data: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(data, most)


def _by_library(name: str, path: str) -> Codec:
    cramjam = library(name, path)

    def snappy(data: bytes, most: int) -> bytes:
        if cramjam.snappy.decompress_raw_len(data) > most:
            raise ValueError("longer than its page")
        return bytes(cramjam.snappy.decompress_raw(data))

    def zstd(data: bytes, most: int) -> bytes:
        room = bytearray(most)
        return bytes(room[: cramjam.zstd.decompress_into(data, room)])

    return {"snappy": snappy, "zstd": zstd}[name]
