"""A disk image as a run of bytes, and the raw format, in which it is one."""

import os
from typing import BinaryIO, Protocol

from turducken.errors import UserError


class DiskImageError(UserError):
    """A disk image cannot be used; the text is one clear line for the user."""


class MediumError(Exception):
    """A part of an image cannot be read or written: the device reports an error to its guest."""


class BlockImage(Protocol):
    """A disk's contents: ``size`` bytes, of which any run can be read and, perhaps, replaced."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def is_writable(self) -> bool:
        """Whether `write` may be called."""

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes within the image; MediumError where that is impossible."""

    def write(self, offset: int, data: bytes) -> None:
        """Replace bytes within the image; MediumError where that is impossible."""

    def flush(self) -> None:
        """Let everything written so far survive the program."""


class RawImage:
    """A file that holds the disk's bytes; the last sector is filled up with zeros."""

    def __init__(self, path: str, *, writable: bool = False, sector: int = 512) -> None:
        self.is_writable = writable
        try:
            self._file: BinaryIO = open(path, "r+b" if writable else "rb")  # noqa: SIM115
            length = self._file.seek(0, os.SEEK_END)
        except (OSError, ValueError) as error:
            raise DiskImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        if not length:
            raise DiskImageError(f"{path}: an empty file is no disk image")
        self.size = -(-length // sector) * sector

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file."""
        try:
            self._file.seek(offset)
            return self._file.read(length).ljust(length, b"\0")
        except OSError as error:
            raise MediumError(str(error)) from None

    def write(self, offset: int, data: bytes) -> None:
        """Write to the file."""
        try:
            self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            raise MediumError(str(error)) from None

    def flush(self) -> None:
        """Write out what is buffered."""
        if self.is_writable:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise MediumError(str(error)) from None
