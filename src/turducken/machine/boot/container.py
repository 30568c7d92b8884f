"""Reading files that users bring, with gzip unpacked."""

import gzip
import io
import zlib
from pathlib import Path

from turducken.address import GIB
from turducken.machine.boot.errors import ImageError

GZIP_MAGIC = b"\x1f\x8b"
LARGEST_IMAGE = 2 * GIB
"""What an image may unpack to."""


def read_file(path: Path | str) -> bytes:
    """Return a file's bytes; an ImageError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the path
        raise ImageError(f"{path!r}: {error}") from None


def unpack(data: bytes, name: str, limit: int = LARGEST_IMAGE) -> bytes:
    """Return ``data``, or what is in it if it is a gzip file."""
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(limit + 1)
    except EOFError:
        raise ImageError(f"{name}: the gzip file is cut off") from None
    except (OSError, zlib.error) as error:
        raise ImageError(f"{name}: not a sound gzip file: {error}") from None
    if len(content) > limit:
        raise ImageError(f"{name}: unpacks to more than {limit} bytes")
    return content
