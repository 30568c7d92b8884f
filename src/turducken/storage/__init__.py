"""Disk images: raw and qcow2 files, and what a guest writes, which stays in memory unless asked."""

from turducken.storage.image import BlockImage, DiskImageError, MediumError, RawImage
from turducken.storage.opening import DiskRequest, open_cdrom, open_disk, parse_disk
from turducken.storage.overlay import MemoryImage, Overlay, ReadOnly

__all__ = [
    "BlockImage",
    "DiskImageError",
    "DiskRequest",
    "MediumError",
    "MemoryImage",
    "Overlay",
    "RawImage",
    "ReadOnly",
    "open_cdrom",
    "open_disk",
    "parse_disk",
]
