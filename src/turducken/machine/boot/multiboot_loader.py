"""Putting an image, its modules and its information into memory, as a Multiboot loader does."""

from turducken.address import MIB, PAGE_SIZE, is_page_aligned
from turducken.machine.boot import information1, information2
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.headers import Relocation
from turducken.machine.boot.image import BootImage
from turducken.machine.boot.information import Information
from turducken.machine.boot.request import BootRequest
from turducken.machine.boot.state import GDT, BootState, Module, PlacedModule, command_line
from turducken.memory import Memory


class MultibootLoader:
    """One run of the loader; the steps are in the order of `load`."""

    def __init__(self, image: BootImage, memory: Memory, request: BootRequest) -> None:
        self._request = request
        self._deposit = request.deposit(memory)
        self._image = self._where_it_fits(image)

    def load(self) -> BootState:
        """Load the image and return the state in which it starts."""
        image, request = self._image, self._request
        if request.initrd is not None:
            raise ImageError(f"{image.name}: a Multiboot image takes modules, not an initrd")
        self._deposit.load(image.segments, image.name)
        modules = tuple(self._load_module(one) for one in request.modules)
        line = command_line(image.name, request.text)
        information = self._load_information(line, modules)
        gdt, stack_top = self._deposit.put_gdt_and_stack(GDT, self._after_image)
        return BootState(
            version=image.header.version,
            eip=image.entry,
            eax=image.header.boot_magic,
            ebx=information,
            esp=stack_top,
            gdt_base=gdt,
            memory_map=self._deposit.map,
            image_ranges=tuple((one.address, one.end) for one in image.segments),
            modules=modules,
            command_line=line,
            symbols=image.symbols,
        )

    # -- the image ---------------------------------------------------------------------------------

    def _where_it_fits(self, image: BootImage) -> BootImage:
        """Return the image where it is linked, or where it may and can be moved to."""
        misfit = self._deposit.misfit(image.segments)
        if misfit is None:
            return image
        relocation = image.header.relocation
        moved = None if relocation is None else self._relocated(image, relocation)
        if moved is None:
            raise ImageError(self._deposit.complaint(image.name, misfit))
        return moved

    def _relocated(self, image: BootImage, where: Relocation) -> BootImage | None:
        size = image.end - image.start
        highest = min(where.highest + 1, 1 << 32)
        address = self._deposit.placement.find(
            size, where.align, max(where.lowest, MIB), highest, high=where.prefers_high
        )
        return None if address is None else image.moved(address - image.start)

    # -- what comes with it ------------------------------------------------------------------------

    def _load_module(self, module: Module) -> PlacedModule:
        address = self._deposit.put(
            module.data, PAGE_SIZE, self._after_image, f"module {module.name}"
        )
        assert is_page_aligned(address)
        return PlacedModule(module.string, address, address + len(module.data))

    @property
    def _after_image(self) -> int:
        return max(self._image.end, MIB)

    def _load_tables(self) -> dict[int, int]:
        """Load the symbol tables and return where each section is."""
        tables = [] if self._image.elf is None else self._image.elf.tables()
        name = self._image.name
        return {
            one.index: self._deposit.put(
                one.data, 16, self._after_image, f"{name}: section {one.index}"
            )
            for one in tables
        }

    def _load_information(self, line: str, modules: tuple[PlacedModule, ...]) -> int:
        told = Information(
            self._image, line, self._deposit.map, modules, self._load_tables(), self._request.rsdp
        )
        is_first = self._image.header.version == 1
        size = len(information1.build(told, 0) if is_first else information2.build(told))
        address = self._deposit.placement.place_low(
            size, information2.ALIGN, self._after_image, "the boot information"
        )
        content = information1.build(told, address) if is_first else information2.build(told)
        self._deposit.memory.write(address, content)
        return address
