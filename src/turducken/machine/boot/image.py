"""An image as a file gives it: header, segments, entry point and symbols."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from turducken.address import GIB
from turducken.machine.boot.container import read_file, unpack
from turducken.machine.boot.elf import ELF_MAGIC, ElfImage, Segment
from turducken.machine.boot.errors import ImageError
from turducken.machine.boot.headers import Header, LoadAddresses, find_header, has_header
from turducken.machine.boot.linux.image import (
    LinuxImage,
    is_bzimage,
    parse_bzimage,
    parse_kernel_elf,
)
from turducken.machine.boot.state import Module
from turducken.machine.boot.symbols import Symbols

_ENTRY_LIMIT = 4 * GIB


@dataclass(frozen=True)
class BootImage:
    """A Multiboot image; addresses are physical unless they are called linear."""

    name: str
    header: Header
    segments: tuple[Segment, ...]
    entry: int
    elf: ElfImage | None = None
    """The file's sections, for the information that is given to the image."""
    symbols: Symbols = field(default_factory=Symbols)

    @property
    def start(self) -> int:
        """The lowest address that the image fills."""
        return min(one.address for one in self.segments)

    @property
    def end(self) -> int:
        """The address that follows the image."""
        return max(one.end for one in self.segments)

    def moved(self, distance: int) -> "BootImage":
        """Return the image as it is when loaded ``distance`` bytes higher."""
        return replace(
            self,
            segments=tuple(replace(one, address=one.address + distance) for one in self.segments),
            entry=self.entry + distance,
        )


AnyImage = BootImage | LinuxImage


def load_image(path: Path | str, version: int | None = None) -> AnyImage:
    """Read an image from a file; see `parse_image`."""
    return parse_image(read_file(path), Path(path).name, version)


def load_module(path: Path | str, text: str = "") -> Module:
    """Read a module from a file, unpacked if it is a gzip file, as GRUB does it.

    ImageError where it cannot be read.
    """
    name = Path(path).name
    return Module(name, unpack(read_file(path), name), text)


def parse_image(data: bytes, name: str, version: int | None = None) -> AnyImage:
    """Read an image, perhaps inside gzip: Multiboot, a Linux kernel, or one with a PVH entry.

    Of several things that it is, Multiboot comes first. ``version`` asks for Multiboot 1 or 2.
    Raises ImageError with one clear line.
    """
    data = unpack(data, name)
    if version is None and not has_header(data):
        kernel = _parse_kernel(data, name)
        if kernel is not None:
            return kernel
    return _parse_multiboot(data, name, version)


def _parse_kernel(data: bytes, name: str) -> LinuxImage | None:
    """Read a Linux kernel or an image with a PVH entry; None where it is neither."""
    if is_bzimage(data):
        return parse_bzimage(data, name)
    return parse_kernel_elf(data, name) if data.startswith(ELF_MAGIC) else None


def _parse_multiboot(data: bytes, name: str, version: int | None) -> BootImage:
    header = find_header(data, name, version)
    if header.addresses is not None:
        image = _from_addresses(data, name, header, header.addresses)
    elif data.startswith(ELF_MAGIC):
        image = _from_elf(data, name, header)
    else:
        raise ImageError(f"{name}: neither an ELF file nor are there load addresses in its header")
    if not 0 <= image.entry < _ENTRY_LIMIT:
        raise ImageError(f"{name}: the entry point {image.entry:#x} is above 4 GiB")
    return image


def _from_elf(data: bytes, name: str, header: Header) -> BootImage:
    elf = ElfImage(data, name)
    if not elf.segments:
        raise ImageError(f"{name}: the ELF file has nothing to load")
    entry = elf.entry if header.entry is None else header.entry
    return BootImage(name, header, elf.segments, entry, elf, elf.symbols())


def _from_addresses(data: bytes, name: str, header: Header, where: LoadAddresses) -> BootImage:
    """Multiboot Specification 0.6.96, "The address fields of Multiboot header"."""
    available = len(data) - where.offset
    count = where.load_end - where.load if where.load_end else available
    if count < 0:
        raise ImageError(f"{name}: the Multiboot header's load addresses end before they begin")
    if count > available:
        raise ImageError(
            f"{name}: the file is cut off: its header promises {count} bytes from byte "
            f"{where.offset} on, there are {available}"
        )
    size = max(count, where.bss_end - where.load)
    if size == 0:
        raise ImageError(f"{name}: the Multiboot header gives nothing to load")
    content = data[where.offset : where.offset + count]
    segment = Segment(where.load, content, size, linear=where.load)
    assert header.entry is not None, "a header with addresses has an entry address"
    return BootImage(name, header, (segment,), header.entry, symbols=_symbols_if_elf(data, name))


def _symbols_if_elf(data: bytes, name: str) -> Symbols:
    if not data.startswith(ELF_MAGIC):
        return Symbols()
    try:
        return ElfImage(data, name).symbols()
    except ImageError:
        return Symbols()
