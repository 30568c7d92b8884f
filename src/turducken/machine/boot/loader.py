"""Booting an image by the protocol that it is made for."""

from turducken.machine.boot.image import AnyImage, BootImage
from turducken.machine.boot.linux import LinuxLoader, PvhImage, PvhLoader
from turducken.machine.boot.multiboot_loader import MultibootLoader
from turducken.machine.boot.request import BootRequest
from turducken.machine.boot.state import BootState
from turducken.memory import Memory


def boot(image: AnyImage, memory: Memory, request: BootRequest) -> BootState:
    """Load the image into ``memory`` and return the state in which it starts.

    Raises ImageError where the image or what comes with it does not fit.
    """
    match image:
        case BootImage():
            return MultibootLoader(image, memory, request).load()
        case PvhImage():
            return PvhLoader(image, memory, request).load()
        case _:
            return LinuxLoader(image, memory, request).load()
