"""Loading an image as a PVH guest: Xen's "x86/HVM direct boot ABI".

The image finds in EBX the address of a structure with its modules, command line and memory map.
"""

import struct

from turducken.address import MIB, PAGE_SIZE
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.linux.image import PvhImage, first_and_last
from turducken.machine.boot.request import BootRequest
from turducken.machine.boot.state import GDT, BootState, Module, PlacedModule
from turducken.memory import Memory

MAGIC = 0x336E_C578
_VERSION = 1
_ALIGN = 8
_STRING_ALIGN = 1


class PvhLoader:
    """One run of the loader; the steps are in the order of `load`."""

    def __init__(self, image: PvhImage, memory: Memory, request: BootRequest) -> None:
        self._image = image
        self._request = request
        self._deposit = request.deposit(memory)

    def load(self) -> BootState:
        """Load the image and return the state in which it starts; ImageError where it fails."""
        image = self._image
        if not image.elf.segments:
            raise ImageError(f"{image.name}: the ELF file has nothing to load")
        self._deposit.load(image.elf.segments, image.name)
        modules = tuple(self._load_module(one) for one in self._modules())
        start_info = self._load_start_info(modules)
        gdt, stack_top = self._deposit.put_gdt_and_stack(GDT, self._after_image)
        return BootState(
            version=0,
            eip=image.entry,
            eax=0,
            ebx=start_info,
            esp=stack_top,
            gdt_base=gdt,
            memory_map=self._deposit.map,
            image_ranges=tuple((one.address, one.end) for one in image.elf.segments),
            modules=modules,
            command_line=self._request.text,
            symbols=image.symbols,
        )

    @property
    def _after_image(self) -> int:
        return max(first_and_last(self._image.elf.segments)[1], MIB)

    def _modules(self) -> list[Module]:
        """Return the initrd, if there is one, and then the modules."""
        initrd = self._request.initrd
        first = [] if initrd is None else [Module("initrd", initrd)]
        return [*first, *self._request.modules]

    def _load_module(self, module: Module) -> PlacedModule:
        start = self._deposit.put(
            module.data, PAGE_SIZE, self._after_image, f"{self._image.name}: module {module.name}"
        )
        return PlacedModule(module.text, start, start + len(module.data))

    def _put(self, data: bytes, align: int = _ALIGN) -> int:
        what = f"{self._image.name}: the start information"
        return self._deposit.put_low(data, align, self._after_image, what)

    def _put_string(self, text: str) -> int:
        """Put a zero-terminated string; return its address, 0 for an empty one."""
        content = text.encode("utf-8", "surrogateescape").split(b"\0")[0]
        return self._put(content + b"\0", _STRING_ALIGN) if content else 0

    def _load_start_info(self, modules: tuple[PlacedModule, ...]) -> int:
        """Put struct hvm_start_info and what it points to; return its address."""
        listed = b"".join(
            struct.pack("<QQQQ", one.start, one.end - one.start, self._put_string(one.string), 0)
            for one in modules
        )
        ranges = list(self._deposit.map)
        told = b"".join(struct.pack("<QQII", one.start, one.size, one.kind, 0) for one in ranges)
        head = (MAGIC, _VERSION, 0, len(modules), self._put(listed) if listed else 0)
        line = self._put_string(self._request.text)
        where = (line, self._request.rsdp_address, self._put(told), len(ranges), 0)
        return self._put(struct.pack("<IIIIQQQQII", *head, *where))
