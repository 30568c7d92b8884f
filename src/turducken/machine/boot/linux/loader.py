"""Loading a Linux kernel as its boot protocol asks: bzImage in 32-bit mode, vmlinux in 64-bit."""

from turducken.address import MIB, PAGE_SIZE
from turducken.machine.boot.elf import Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.linux import entry64
from turducken.machine.boot.linux.image import BzImage, Vmlinux, first_and_last
from turducken.machine.boot.linux.setup_header import Told, boot_parameters
from turducken.machine.boot.request import BootRequest
from turducken.machine.boot.state import FLAT_CODE, FLAT_DATA, BootState
from turducken.memory import Memory

_BOOT_CODE, _BOOT_DATA = 0x10, 0x18
_GDT_32 = (0, 0, FLAT_CODE, FLAT_DATA)
"""__BOOT_CS and __BOOT_DS of the 32-bit protocol."""
_LOWEST_MAXIMUM = 16 * MIB


class LinuxLoader:
    """One run of the loader; the steps are in the order of `load`."""

    def __init__(self, image: BzImage | Vmlinux, memory: Memory, request: BootRequest) -> None:
        self._image = image
        self._request = request
        self._deposit = request.deposit(memory)
        self._header = image.header

    def load(self) -> BootState:
        """Load the kernel and return the state in which it starts; ImageError where it fails."""
        if self._request.modules:
            raise ImageError(f"{self._image.name}: a Linux kernel takes an initrd, not modules")
        line = self._command_line()
        ranges = self._load_kernel()
        parameters = self._load_parameters(line)
        eip, gdt, code, data = self._load_entry(ranges[0][0])
        gdt_base, stack_top = self._deposit.put_gdt_and_stack(gdt, MIB)
        return BootState(
            version=0,
            eip=eip,
            eax=0,
            ebx=0,
            esi=parameters,
            esp=stack_top,
            gdt_base=gdt_base,
            gdt_limit=8 * len(gdt) - 1,
            code_selector=code,
            data_selector=data,
            memory_map=self._deposit.map,
            image_ranges=ranges,
            command_line=self._request.text,
            symbols=self._image.symbols,
        )

    def _command_line(self) -> bytes:
        line = self._request.text.encode("utf-8", "surrogateescape").split(b"\0")[0]
        most = self._header["cmdline_size"]
        if len(line) > most:
            raise ImageError(
                f"{self._image.name}: the command line has {len(line)} bytes, "
                f"the kernel takes {most}"
            )
        return line + b"\0"

    # -- the kernel --------------------------------------------------------------------------------

    def _load_kernel(self) -> tuple[tuple[int, int], ...]:
        """Load the kernel; return the physical ranges that it fills."""
        image = self._image
        segments = (self._whole(image),) if isinstance(image, BzImage) else image.elf.segments
        self._deposit.load(segments, image.name)
        return tuple((one.address, one.end) for one in segments)

    def _whole(self, image: BzImage) -> Segment:
        """Return the protected-mode code where the kernel prefers it, else where it may be.

        What it needs to unpack itself (init_size) is kept free behind it.
        """
        header = self._header
        size = max(len(image.code), header["init_size"])
        preferred = header["pref_address"] or header["code32_start"]
        if not header["relocatable_kernel"]:
            return Segment(preferred, image.code, size)
        if self._deposit.map.is_available(preferred, preferred + size):
            return Segment(preferred, image.code, size)
        align = max(header["kernel_alignment"], PAGE_SIZE)
        address = self._deposit.placement.find(size, align, MIB)
        return Segment(preferred if address is None else address, image.code, size)

    def _load_entry(self, start: int) -> tuple[int, tuple[int, ...], int, int]:
        """Return where to begin, with which GDT, and with which code and data selectors."""
        image = self._image
        if isinstance(image, BzImage):
            return start, _GDT_32, _BOOT_CODE, _BOOT_DATA
        what, deposit = f"{image.name}: a way into 64-bit mode", self._deposit
        after = first_and_last(image.elf.segments)[1]
        tables = deposit.put_low(bytes(entry64.TABLES_SIZE), PAGE_SIZE, after, what)
        deposit.memory.write(tables, entry64.identity_tables(tables))
        room = len(entry64.code(0, tables, image.entry))
        base = deposit.put_low(bytes(room), 16, after, what)
        deposit.memory.write(base, entry64.code(base, tables, image.entry))
        return base, entry64.GDT, entry64.START_CODE, entry64.BOOT_DATA

    # -- what comes with it ------------------------------------------------------------------------

    def _load_parameters(self, line: bytes) -> int:
        deposit, name = self._deposit, self._image.name
        told = Told(
            memory_map=deposit.map,
            rsdp_address=self._request.rsdp_address,
            command_line=deposit.put_low(line, 16, MIB, f"{name}: the command line"),
            initrd=self._load_initrd(),
        )
        page = boot_parameters(self._header, told)
        return deposit.put_low(page, PAGE_SIZE, MIB, f"{name}: the boot parameters")

    def _load_initrd(self) -> range:
        content = self._request.initrd
        if not content:
            return range(0)
        highest = max(self._header["initrd_addr_max"] + 1, _LOWEST_MAXIMUM)
        start = self._deposit.put_high(content, highest, f"{self._image.name}: the initrd")
        return range(start, start + len(content))
