"""Booting images: Multiboot 1 and 2, Linux kernels, PVH; gzip around them is taken off."""

from turducken.machine.boot.elf import Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.image import (
    AnyImage,
    BootImage,
    load_image,
    load_module,
    parse_image,
)
from turducken.machine.boot.linux import BzImage, LinuxImage, PvhImage, Vmlinux
from turducken.machine.boot.loader import boot
from turducken.machine.boot.request import BootRequest
from turducken.machine.boot.state import BootState, Module, PlacedModule
from turducken.machine.boot.symbols import Symbol, Symbols

__all__ = [
    "AnyImage",
    "BootImage",
    "BootRequest",
    "BootState",
    "BzImage",
    "ImageError",
    "LinuxImage",
    "Module",
    "PlacedModule",
    "PvhImage",
    "Segment",
    "Symbol",
    "Symbols",
    "Vmlinux",
    "boot",
    "load_image",
    "load_module",
    "parse_image",
]
