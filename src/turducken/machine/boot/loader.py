"""Putting an image, its modules and its information into memory, as a Multiboot loader does."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from turducken.address import MIB, PAGE_SIZE, is_page_aligned
from turducken.machine.boot import information1, information2
from turducken.machine.boot.elf import Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.headers import Relocation
from turducken.machine.boot.image import BootImage
from turducken.machine.boot.information import Information
from turducken.machine.boot.placement import Placement
from turducken.machine.boot.state import GDT, BootState, Module, PlacedModule, command_line
from turducken.machine.firmware.memory_map import MemoryMap
from turducken.memory import Memory

STACK_SIZE = PAGE_SIZE
_STACK_SLACK = 16
_ZEROS = bytes(MIB)


@dataclass(frozen=True, slots=True)
class BootRequest:
    """What to boot an image with.

    ``reserve`` are ranges of addresses that the image must not learn of as available.
    ``memory_is_zero`` says that RAM above 1 MiB reads as zero, as in a machine that has just been
    switched on: then large zero-filled segments cost nothing.
    """

    memory_map: MemoryMap
    text: str = ""
    """The command line after the image's name."""
    modules: Sequence[Module] = ()
    reserve: Sequence[range] = ()
    rsdp: bytes = b""
    memory_is_zero: bool = True


def boot(image: BootImage, memory: Memory, request: BootRequest) -> BootState:
    """Load the image into ``memory`` and return the state in which it starts.

    Raises ImageError where the image or a module does not fit.
    """
    loader = _Loader(image, memory, request)
    return loader.load()


class _Loader:
    """One run of the loader; the steps are in the order of `load`."""

    def __init__(self, image: BootImage, memory: Memory, request: BootRequest) -> None:
        self._memory = memory
        self._request = request
        self._map = request.memory_map.without(request.reserve)
        self._placement = Placement(self._map)
        self._image = self._where_it_fits(image)

    def load(self) -> BootState:
        image = self._image
        for segment in image.segments:
            self._placement.take(segment.address, segment.end)
            self._load_segment(segment)
        modules = tuple(self._load_module(one) for one in self._request.modules)
        line = command_line(image.name, self._request.text)
        information = self._load_information(line, modules)
        gdt, stack_top = self._load_gdt_and_stack()
        return BootState(
            version=image.header.version,
            eip=image.entry,
            eax=image.header.boot_magic,
            ebx=information,
            esp=stack_top,
            gdt_base=gdt,
            memory_map=self._map,
            image_ranges=tuple((one.address, one.end) for one in image.segments),
            modules=modules,
            command_line=line,
            symbols=image.symbols,
        )

    # -- the image ---------------------------------------------------------------------------------

    def _where_it_fits(self, image: BootImage) -> BootImage:
        """Return the image where it is linked, or where it may and can be moved to."""
        misfit = self._misfit(image)
        if misfit is None:
            return image
        relocation = image.header.relocation
        moved = None if relocation is None else self._relocated(image, relocation)
        if moved is None:
            raise ImageError(self._complaint(image, misfit))
        return moved

    def _misfit(self, image: BootImage) -> Segment | None:
        for one in image.segments:
            if not self._map.is_available(one.address, one.end):
                return one
        return None

    def _relocated(self, image: BootImage, where: Relocation) -> BootImage | None:
        size = image.end - image.start
        highest = min(where.highest + 1, 1 << 32)
        address = self._placement.find(
            size, where.align, max(where.lowest, MIB), highest, high=where.prefers_high
        )
        return None if address is None else image.moved(address - image.start)

    def _complaint(self, image: BootImage, segment: Segment) -> str:
        available = self._map.available
        top = max((one.end for one in available), default=0)
        place = f"{image.name}: needs memory {segment.address:#x} to {segment.end:#x}, "
        if segment.end > top:
            return place + f"but memory ends at {top:#x}"
        if any(self._overlaps(one, segment) for one in self._request.reserve):
            return place + "which is kept from it"
        return place + "which is not available RAM"

    @staticmethod
    def _overlaps(kept: range, segment: Segment) -> bool:
        return kept.start < segment.end and segment.address < kept.stop

    def _load_segment(self, segment: Segment) -> None:
        if segment.data:
            self._memory.write(segment.address, segment.data)
        start = segment.address + len(segment.data)
        end = segment.end
        if self._request.memory_is_zero:
            end = min(end, MIB)  # a BIOS has used the memory below
        while start < end:
            count = min(end - start, len(_ZEROS))
            self._memory.write(start, _ZEROS[:count])
            start += count

    # -- what comes with it ------------------------------------------------------------------------

    def _load_module(self, module: Module) -> PlacedModule:
        size = len(module.data)
        address = self._placement.place(
            max(size, 1), PAGE_SIZE, self._after_image, f"module {module.name}"
        )
        assert is_page_aligned(address)
        self._memory.write(address, module.data)
        return PlacedModule(module.string, address, address + size)

    @property
    def _after_image(self) -> int:
        return max(self._image.end, MIB)

    def _load_tables(self) -> dict[int, int]:
        """Load the symbol tables and return where each section is."""
        addresses = {}
        tables = [] if self._image.elf is None else self._image.elf.tables()
        for one in tables:
            what = f"{self._image.name}: section {one.index}"
            address = self._placement.place(max(len(one.data), 1), 16, self._after_image, what)
            self._memory.write(address, one.data)
            addresses[one.index] = address
        return addresses

    def _load_information(self, line: str, modules: tuple[PlacedModule, ...]) -> int:
        told = Information(
            self._image, line, self._map, modules, self._load_tables(), self._request.rsdp
        )
        is_first = self._image.header.version == 1
        size = len(information1.build(told, 0) if is_first else information2.build(told))
        address = self._placement.place_low(
            size, information2.ALIGN, self._after_image, "the boot information"
        )
        content = information1.build(told, address) if is_first else information2.build(told)
        self._memory.write(address, content)
        return address

    def _load_gdt_and_stack(self) -> tuple[int, int]:
        """Return the address of the GDT and the top of the stack that follows it."""
        size = 8 * len(GDT)
        address = self._placement.place_low(
            STACK_SIZE, PAGE_SIZE, self._after_image, "a stack to start with"
        )
        self._memory.write(address, struct.pack(f"<{len(GDT)}Q", *GDT))
        assert size + _STACK_SLACK < STACK_SIZE
        return address, address + STACK_SIZE - _STACK_SLACK
