"""QEMU's migration streams, which ``savevm``, ``migrate`` and libvirt's ``save`` write.

QEMU documentation, "Migration": sections; the one called ``ram`` holds blocks of pages, each page
behind its offset and flags. Devices follow, whose layout only QEMU knows: the processors' registers
are not read.
"""

import struct
from dataclasses import dataclass, field

from turducken.inspect.containers import packed
from turducken.inspect.errors import InspectError
from turducken.inspect.source import FileMap, FileSource, Piece, Scratch

PAGE = 4096
_QEMU = b"QEVM"
_LIBVIRT = (b"LibvirtQemudSave", b"LibvirtQemudPart")
_LIBVIRT_HEADER = struct.Struct("<16sIIII")  # magic, version, length of the XML, running, packed
_LIBVIRT_SIZE = 92

# Kinds of sections.
_START, _PART, _END, _FULL, _CONFIGURATION, _FOOTER = 1, 2, 3, 4, 7, 0x7E

# Flags of a page.
_ZERO, _SIZES, _PAGE, _DONE, _SAME, _MARK = 0x02, 0x04, 0x08, 0x10, 0x20, 0x200
_OTHER = 0x40 | 0x80 | 0x100 | 0xC00

MAX_BLOCK = 1 << 46
_LOW_I440FX, _SMALL_I440FX = 0xC000_0000, 0xE000_0000
_LOW_Q35, _SMALL_Q35 = 0x8000_0000, 0xB000_0000


def is_stream(head: bytes) -> bool:
    """Tell whether a file begins as QEMU's streams, or libvirt's around them, do."""
    return head.startswith((_QEMU, *_LIBVIRT))


def open_stream(file: FileMap) -> FileSource:
    """Open a stream; the machine's RAM is unpacked into a temporary file."""
    data = file.data
    if bytes(data[:16]) in _LIBVIRT:
        if len(data) < _LIBVIRT_SIZE:
            raise InspectError(f"{file.path}: libvirt's header is cut short")
        _, _, length, _, how = _LIBVIRT_HEADER.unpack_from(data)
        inner = file.behind(_LIBVIRT_SIZE + length)
        if how:
            if not packed.is_packed(bytes(inner.data[: packed.HEAD])):
                raise InspectError(f"{file.path}: libvirt compressed it in an unknown way (lzop?)")
            inner = packed.unpack(inner)
        data = inner.data
    if bytes(data[:4]) != _QEMU:
        raise InspectError(f"{file.path}: no QEMU migration stream behind libvirt's header")
    ram = _Ram(file.path, Scratch(file.path))
    _Stream(data, ram).read()
    return ram.source()


@dataclass
class _Ram:
    """The blocks of RAM as they come."""

    path: str
    scratch: Scratch
    machine: str = ""
    blocks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By name: where it begins in the scratch file, and its size."""
    _written: set[int] = field(default_factory=set)

    def add(self, name: str, size: int) -> None:
        begin = self.scratch.size
        if size > MAX_BLOCK or begin + size > MAX_BLOCK:
            raise InspectError(f"{self.path}: a block of RAM of {size:#x} bytes")
        self.blocks[name] = begin, size
        self.scratch.size = begin + size

    def put(self, name: str, offset: int, data: bytes) -> None:
        begin, size = self.blocks.get(name, (0, 0))
        if offset + len(data) > size:
            raise InspectError(f"{self.path}: a page outside its block of RAM ({name})")
        place = begin + offset
        if data.count(0) != len(data):
            self._written.add(place)
        elif place not in self._written:
            return  # the file is made of zeros
        self.scratch.put(place, data, zeros=True)

    def source(self) -> FileSource:
        """Return the machine's memory, put together as QEMU's PCs have it."""
        name = next((one for one in ("pc.ram", "ram", "ram0") if one in self.blocks), None)
        if name is None:
            known = ", ".join(self.blocks) or "none"
            raise InspectError(f"{self.path}: no RAM of a PC in it (blocks: {known})")
        begin, size = self.blocks[name]
        is_q35 = "q35" in self.machine
        small, low = (_SMALL_Q35, _LOW_Q35) if is_q35 else (_SMALL_I440FX, _LOW_I440FX)
        if size < small:
            pieces = [Piece(0, begin, size)]
        else:
            pieces = [Piece(0, begin, low), Piece(1 << 32, begin + low, size - low)]
        bios_at, bios = self.blocks.get("pc.bios", (0, 0))
        if bios:
            pieces.append(Piece((1 << 32) - bios, bios_at, bios))
        what = f"QEMU migration stream of {self.machine or 'a PC'}"
        source = FileSource(self.path, what, [self.scratch.finish()], pieces)
        if not self.machine and size >= small:
            source.warnings.append(
                f"{self.path}: the stream does not name its machine; RAM is split as for i440fx"
            )
        return source


class _Stream:
    """Reads the sections up to the devices."""

    def __init__(self, data: memoryview, ram: _Ram) -> None:
        self._data = data
        self._ram = ram
        self._at = 8
        self._block = ""
        self._names: dict[int, str] = {}

    def read(self) -> None:
        """Read all RAM."""
        try:
            while self._section():
                pass
        except (struct.error, IndexError):
            if not self._ram.blocks:
                raise InspectError(f"{self._ram.path}: the migration stream is cut short") from None
            self._ram.scratch.note("the migration stream is cut short; the rest reads as zeros")

    def _take(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def _text(self) -> str:
        size = self._take("B")
        self._at += size
        return bytes(self._data[self._at - size : self._at]).decode("latin-1")

    def _section(self) -> bool:
        """Read a section; False at the end of RAM."""
        kind = self._take("B")
        if kind == _CONFIGURATION:
            self._configuration()
            return True
        if kind not in (_START, _PART, _END):
            return False  # devices, or the end
        number = self._take(">I")
        if kind == _START:
            self._names[number] = self._text()
            self._at += 8  # instance and version
        if self._names.get(number) == "ram":
            self._pages()
        elif self._data[self._at] != _FOOTER:
            raise InspectError(
                f"{self._ram.path}: the stream has a section ({self._names.get(number)}) that only "
                "QEMU can read; use dump-guest-memory instead"
            )
        if self._data[self._at] == _FOOTER:
            self._at += 5
        return True

    def _configuration(self) -> None:
        size = self._take(">I")
        self._at += size
        self._ram.machine = bytes(self._data[self._at - size : self._at]).decode("latin-1")
        # Subsections have no length; the first section behind them is the one called "ram".
        if self._data[self._at] not in (_START, _FULL):
            found = bytes(self._data[self._at : self._at + PAGE]).find(b"\x03ram")
            if found < 5:
                raise InspectError(f"{self._ram.path}: the stream's configuration is unknown")
            self._at += found - 5

    def _pages(self) -> None:
        while True:
            word = self._take(">Q")
            flags, offset = word & (PAGE - 1), word & ~(PAGE - 1)
            if flags & _SIZES:
                self._sizes(offset)
                continue
            if flags & _DONE:
                return
            if flags & _MARK:
                continue
            if flags & _OTHER or not flags & (_PAGE | _ZERO):
                raise InspectError(
                    f"{self._ram.path}: a page of a kind ({flags:#x}) that is not supported "
                    "(xbzrle, compress or multifd); use dump-guest-memory instead"
                )
            if not flags & _SAME:
                self._block = self._text()
            if flags & _ZERO:
                fill = self._take("B")
                self._ram.put(self._block, offset, bytes([fill]) * PAGE)
                continue
            if self._at + PAGE > len(self._data):
                raise IndexError
            page = bytes(self._data[self._at : self._at + PAGE])
            self._at += PAGE
            self._ram.put(self._block, offset, page)

    def _sizes(self, total: int) -> None:
        while total > 0:
            name = self._text()
            size = self._take(">Q")
            self._ram.add(name, size)
            total -= size
            if not size:
                raise InspectError(f"{self._ram.path}: a block of RAM without bytes ({name})")
