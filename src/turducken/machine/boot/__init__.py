"""Booting images: Multiboot 1 and 2, from an ELF file or by address fields, gzip around them."""

from turducken.machine.boot.elf import Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.image import BootImage, load_image, load_module, parse_image
from turducken.machine.boot.loader import BootRequest, boot
from turducken.machine.boot.state import BootState, Module, PlacedModule
from turducken.machine.boot.symbols import Symbol, Symbols

__all__ = [
    "BootImage",
    "BootRequest",
    "BootState",
    "ImageError",
    "Module",
    "PlacedModule",
    "Segment",
    "Symbol",
    "Symbols",
    "boot",
    "load_image",
    "load_module",
    "parse_image",
]
