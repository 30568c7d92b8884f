"""Notes of ELF cores that tell of the processors: our snapshots', QEMU's, VirtualBox'."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turducken.arch.registers import CR0, CR4
from turducken.inspect.source import EPT_ABILITIES, FileSource, Region

NOTE_NAME = b"TURDUCKEN\0"
NOTE_TYPE = 1
"""Our snapshots' note: a JSON object with ``roots`` (name to register value), and optionally
``maxphyaddr``, ``ram`` (a list of base and size), ``mtrrs`` (a list of base, size and type) and
``lacks`` (a list of `EPT_ABILITIES`)."""

_HEADER = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Cpu:
    """What a note tells of a processor's paging."""

    cr0: int
    cr3: int
    cr4: int
    is_long: bool
    """IA32_EFER.LMA, or what amounts to it."""

    @property
    def paging(self) -> str | None:
        """How CR3 is read; None while paging is off. SDM 3A, "Paging Modes and Control Bits"."""
        if not self.cr0 & CR0.mask("PG"):
            return None
        if not self.cr4 & CR4.mask("PAE"):
            return "32-bit"
        if not self.is_long:
            return "PAE"
        return "5-level" if self.cr4 & CR4.mask("LA57") else "4-level"


def apply(source: FileSource, data: bytes) -> None:
    """Put into ``source`` what the notes in ``data`` tell."""
    cpus: list[Cpu] = []
    for name, kind, body in _notes(data):
        if name == NOTE_NAME and kind == NOTE_TYPE:
            _apply_own(source, body)
        reader = _CPUS.get(name)
        cpu = reader(body) if reader else None
        if cpu is not None:
            cpus.append(cpu)
    for number, cpu in enumerate(cpus):
        source.roots[f"cpu{number}.cr3"] = cpu.cr3
    if cpus:
        source.roots["cr3"] = cpus[0].cr3
        source.paging = cpus[0].paging


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        name_size, size, kind = _HEADER.unpack_from(data, at)
        name_at = at + _HEADER.size
        body = name_at + name_size + -name_size % 4
        if body + size > len(data):
            return
        yield data[name_at : name_at + name_size], kind, data[body : body + size]
        at = body + size + -size % 4


def _apply_own(source: FileSource, text: bytes) -> None:
    try:
        note = json.loads(text)
        source.roots = {str(name): int(value) for name, value in note.get("roots", {}).items()}
        bits, ram = note.get("maxphyaddr"), note.get("ram")
        source.maxphyaddr = None if bits is None else int(bits)
        source.ram = None if ram is None else [Region(int(base), int(size)) for base, size in ram]
        mtrrs = note.get("mtrrs")
        source.mtrrs = None if mtrrs is None else [(int(a), int(b), int(c)) for a, b, c in mtrrs]
        lacks = (str(one) for one in note.get("lacks", ()))
        source.lacks = frozenset(one for one in lacks if one in EPT_ABILITIES)
        source.kind = "turducken snapshot"
    except (ValueError, AttributeError, TypeError):
        source.warnings.append(f"{source.name}: the snapshot's note cannot be read; ignored")


# QEMU: the note of `dump-guest-memory`, a QEMUCPUState: version and size, 16 general registers,
# RIP, RFLAGS, ten segments, CR0 to CR4, the kernel's GS base.

_QEMU_SEGMENT = struct.Struct("<IIIIQ")  # selector, limit, flags, padding, base
_QEMU_CS, _QEMU_CR = 8 + 18 * 8, 8 + 18 * 8 + 10 * _QEMU_SEGMENT.size
_QEMU_LONG = 1 << 21
"""Bit L of a code segment where QEMU keeps it."""


def _qemu(body: bytes) -> Cpu | None:
    if len(body) < _QEMU_CR + 5 * 8:
        return None
    flags = _QEMU_SEGMENT.unpack_from(body, _QEMU_CS)[2]
    cr = struct.unpack_from("<5Q", body, _QEMU_CR)
    # The note lacks IA32_EFER: a base or address above 4 GiB, or CS.L, shows long mode.
    (rip,) = struct.unpack_from("<Q", body, 8 + 16 * 8)
    is_long = bool(flags & _QEMU_LONG) or any(
        value >> 32 for value in (rip, *(_bases(body, _QEMU_CS, _QEMU_SEGMENT, 10, 4)))
    )
    return Cpu(cr[0], cr[3], cr[4], is_long)


def _bases(body: bytes, at: int, layout: struct.Struct, count: int, index: int) -> list[int]:
    return [layout.unpack_from(body, at + n * layout.size)[index] for n in range(count)]


# VirtualBox: DBGFCORECPU: 16 general registers, RIP to RFLAGS, six segments of 24 bytes, CR0, CR2,
# CR3, CR4, eight debug registers, GDTR, IDTR, LDTR, TR, three SYSENTER registers, IA32_EFER.

_VBOX_CR = 18 * 8 + 6 * 24
_VBOX_EFER = _VBOX_CR + 4 * 8 + 8 * 8 + 2 * 16 + 2 * 24 + 3 * 8
_LMA = 1 << 10


def _virtualbox(body: bytes) -> Cpu | None:
    if len(body) < _VBOX_EFER + 8:
        return None
    cr0, _, cr3, cr4 = struct.unpack_from("<4Q", body, _VBOX_CR)
    (efer,) = struct.unpack_from("<Q", body, _VBOX_EFER)
    return Cpu(cr0, cr3, cr4, bool(efer & _LMA))


_CPUS: dict[bytes, Callable[[bytes], Cpu | None]] = {
    b"QEMU\0": _qemu,
    b"VBCPU\0": _virtualbox,
}
