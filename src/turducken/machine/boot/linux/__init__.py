"""Booting Linux kernels directly, and other images that have a PVH entry."""

from turducken.machine.boot.linux.image import (
    BzImage,
    LinuxImage,
    PvhImage,
    Vmlinux,
    is_bzimage,
    parse_bzimage,
    parse_kernel_elf,
)
from turducken.machine.boot.linux.loader import LinuxLoader
from turducken.machine.boot.linux.pvh import PvhLoader

__all__ = [
    "BzImage",
    "LinuxImage",
    "LinuxLoader",
    "PvhImage",
    "PvhLoader",
    "Vmlinux",
    "is_bzimage",
    "parse_bzimage",
    "parse_kernel_elf",
]
