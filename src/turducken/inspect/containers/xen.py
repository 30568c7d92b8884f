"""Xen's ``dump-core``: pages in one section, their addresses in another.

Xen documentation, "Format of xm dump-core": ``.xen_pages`` has the pages; ``.xen_pfn`` has a page
frame number for each (a guest with its own physical memory), or ``.xen_p2m`` a pair of guest and
machine frame number (a paravirtual guest).
"""

from collections.abc import Mapping

import numpy as np

from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece

PAGE = 4096
_NO_PAGE = (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)


def open_sections(file: FileMap, sections: Mapping[str, tuple[int, int]]) -> FileSource | None:
    """Open the dump whose sections lie at (offset, size); None where it is not one of Xen's."""
    if ".xen_pages" not in sections:
        return None
    at, size = sections[".xen_pages"]
    if ".xen_pfn" in sections:
        frames, what = _words(file, sections[".xen_pfn"]), "Xen core"
    elif ".xen_p2m" in sections:
        frames = _words(file, sections[".xen_p2m"])[::2]
        what = "Xen core of a paravirtual guest"
    else:
        raise InspectError(f"{file.path}: a Xen core without .xen_pfn and .xen_p2m")
    frames = frames[: size // PAGE]
    numbers = np.flatnonzero(~np.isin(frames, np.array(_NO_PAGE, dtype=np.uint64)))
    if (frames[numbers] >> np.uint64(52)).any():
        raise InspectError(f"{file.path}: a Xen core with a page frame number beyond 2**52")
    return FileSource(file.path, what, [file], _runs(frames, numbers, at))


def _words(
    file: FileMap, section: tuple[int, int]
) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    at, size = section
    data = file.data[at : at + size]
    return np.frombuffer(data[: len(data) // 8 * 8], dtype="<u8").astype(np.uint64)


def _runs(
    frames: "np.ndarray[tuple[int], np.dtype[np.uint64]]",
    numbers: "np.ndarray[tuple[int], np.dtype[np.intp]]",
    at: int,
) -> list[Piece]:
    """Return the pages as pieces; pages that follow one another in both are one piece."""
    if not len(numbers):
        return []
    mine = frames[numbers]
    breaks = (np.diff(numbers) != 1) | (mine[1:] != mine[:-1] + np.uint64(1))
    first = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    last = np.concatenate((first[1:], [len(numbers)]))
    return [
        Piece(int(mine[low]) * PAGE, at + int(numbers[low]) * PAGE, int(high - low) * PAGE)
        for low, high in zip(first.tolist(), last.tolist(), strict=True)
    ]
