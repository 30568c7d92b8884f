"""Disk images as a user names them: ``FILE[:OPTION,...]``."""

from dataclasses import dataclass
from pathlib import Path

from turducken.storage.image import BlockImage, DiskImageError, RawImage
from turducken.storage.overlay import Overlay, ReadOnly
from turducken.storage.qcow2 import Qcow2Image, is_qcow2

ACCESSES = ("ro", "rw")
INTERFACES = ("ide", "virtio")
_CD_SECTOR = 2048


@dataclass(frozen=True, slots=True)
class DiskRequest:
    """A disk of the machine: its file, who may write it, and what it is attached to.

    ``access``: "" (what the guest writes stays in memory), "ro" (writes are errors that the guest
    sees) or "rw" (writes go to the file).
    """

    path: str
    access: str = ""
    interface: str = "ide"


def parse_disk(text: str) -> DiskRequest:
    """Return what ``FILE[:ro|:rw][:ide|:virtio]`` asks for.

    A file whose name has such an ending is meant where it exists. Raises DiskImageError for an
    unknown option behind a file that exists.
    """
    path, access, interface = text, "", "ide"
    while ":" in path and not Path(path).exists():
        front, _, option = path.rpartition(":")
        if option in ACCESSES:
            access = option
        elif option in INTERFACES:
            interface = option
        elif Path(front).exists():
            known = ", ".join((*ACCESSES, *INTERFACES))
            raise DiskImageError(f"--disk {text}: {option!r} is none of {known}")
        else:
            break
        path = front
    return DiskRequest(path, access, interface)


def open_disk(request: DiskRequest) -> BlockImage:
    """Open a disk image; DiskImageError where it cannot be used as asked for."""
    is_rw = request.access == "rw"
    image: BlockImage
    if is_qcow2(request.path):
        if is_rw:
            raise DiskImageError(
                f"{request.path}: qcow2 images are only read; "
                "for :rw, make it raw: qemu-img convert -O raw"
            )
        image = Qcow2Image(request.path)
    else:
        image = RawImage(request.path, writable=is_rw)
    if request.access == "ro":
        return ReadOnly(image)
    return image if is_rw else Overlay(image)


def open_cdrom(path: str) -> BlockImage:
    """Open an image of a CD or DVD (sectors of 2048 bytes)."""
    return ReadOnly(RawImage(path, sector=_CD_SECTOR))
