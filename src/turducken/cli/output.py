"""What commands write: files that appear whole or not at all, and errors that name the file.

A file is written beside the place that the user named and renamed at the end, so an older one
stays until the new one is complete. Devices and pipes are written as they are.
"""

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from turducken.cli.errors import InputError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT = "-"
_STDOUT_NAME = "standard output"


@contextmanager
def output_file(option: str, where: str | None) -> Iterator[IO[bytes] | None]:
    """Open what an option names for writing (``-``: standard output), before anything runs.

    Raises InputError where it cannot be opened, OutputError where writing fails.
    """
    if where is None:
        yield None
    elif where == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with written_file(option, where) as file:
            yield file


@contextmanager
def written_file(option: str, where: str) -> Iterator[IO[bytes]]:
    """Open a file for writing; it is there once all of it is, or stays what it was."""
    name = f"{option} {where}"
    try:
        target = os.path.realpath(where)
        beside = None if _is_special(target) else _beside(target)
        raw = _Raw(beside or target, name)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    stream = io.BufferedWriter(raw)
    try:
        yield stream
        stream.close()
        if beside is not None:
            _put_in_place(beside, target, name)
    except BaseException:
        with suppress(OutputError):
            stream.close()
        if beside is not None:
            with suppress(OSError):
                os.unlink(beside)
        raise


def name_standard_output() -> None:
    """Let failures to write standard output name it, and one that is closed be such a failure."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process
    if sys.stdout is None:
        # The lowest free descriptor is the closed one: writing it fails from now on.
        sys.stdout = open(os.devnull)  # noqa: SIM115 - likewise
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Raw(1, _STDOUT_NAME)),
        encoding=sys.stdout.encoding,
        errors="replace",  # a terminal that lacks a character gets a question mark
        line_buffering=sys.stdout.isatty(),
    )


def discard_standard_output() -> None:
    """Let what is still buffered go nowhere: it cannot be written."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Raw(io.FileIO):
    """A file that says which one it is when writing it fails."""

    def __init__(self, place: str | int, label: str) -> None:
        super().__init__(place, "wb", closefd=isinstance(place, str))
        self._label = label

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, or raise OutputError."""
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(f"{self._label}: {error.strerror}") from None


def _is_special(path: str) -> bool:
    """Tell whether there is something that cannot be replaced by a file; a directory is refused."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


def _beside(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name[:200]}.{os.getpid()}.part")


def _put_in_place(beside: str, target: str, name: str) -> None:
    try:
        with suppress(FileNotFoundError):
            os.chmod(beside, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(beside, target)
    except OSError as error:
        raise OutputError(f"{name}: {error.strerror}") from None
