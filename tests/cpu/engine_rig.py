"""An engine alone, with a host that records what it is asked."""

from collections.abc import Callable
from dataclasses import dataclass, field

from iced_x86 import Decoder

from turducken.cpu.engine import Engine, Segment, SegmentIndex
from turducken.memory import PhysicalMemory

READ, WRITE, FETCH = 0, 1, 2
CODE, DATA, STACK = 0x1000, 0x8000, 0x7000
CODE_64, CODE_32, CODE_16 = 0xA09B, 0xC09B, 0x009B
LONG_EFER = 0xD00  # LME, LMA, NXE


@dataclass
class Host:
    """Linear addresses are physical; an access to a page in ``refused`` is refused."""

    refused: set[tuple[int, int]] = field(default_factory=set)
    fills: list[tuple[int, int]] = field(default_factory=list)
    ports: list[tuple[str, int, int, int]] = field(default_factory=list)
    mmio: list[tuple[str, int, int, int]] = field(default_factory=list)
    special: set[int] = field(default_factory=set)
    closed_ports: bool = False
    error: BaseException | None = None
    on_mmio: Callable[[], None] | None = None
    read: Callable[[int, int], bytes] = lambda _address, size: b"\x90" * size

    def fill(self, page: int, kind: int) -> int | None:
        if self.error is not None:
            raise self.error
        self.fills.append((page, kind))
        return None if (page, kind) in self.refused else page

    def is_special(self, address: int, size: int) -> bool:
        return any(address <= one < address + size for one in self.special)

    def starts_of(self, address: int, size: int) -> list[int]:
        return [one.ip for one in Decoder(64, self.read(address, size), ip=address)]

    def port_in(self, port: int, size: int) -> int | None:
        self.ports.append(("in", port, size, 0))
        return None if self.closed_ports else 0x1122_3344

    def port_out(self, port: int, size: int, value: int) -> bool:
        self.ports.append(("out", port, size, value))
        return not self.closed_ports

    def mmio_read(self, address: int, size: int) -> int:
        self.mmio.append(("read", address, size, 0))
        return 0x8877_6655_4433_2211 & (1 << 8 * size) - 1

    def mmio_write(self, address: int, size: int, value: int) -> None:
        self.mmio.append(("write", address, size, value))
        if self.on_mmio is not None:
            self.on_mmio()


class EngineRig:
    """``code`` (hex) at `CODE`, in 64-, 32- or 16-bit mode at CPL ``cpl``, flat segments."""

    def __init__(
        self, code: str = "", *, bits: int = 64, cpl: int = 0, native: bool = True
    ) -> None:
        self.memory = PhysicalMemory(0x40_0000)
        self.host = Host()
        self.engine = Engine(self.memory, self.host, native=native)
        self.host.read = self.memory.read
        self.state = state = self.engine.state
        self.put(CODE, code)
        state.cr0 = 0x8000_0011 if bits == 64 else 0x11
        state.cr4 = 0x6A0 if bits == 64 else 0x600
        state.efer = LONG_EFER if bits == 64 else 0
        access = {64: CODE_64, 32: CODE_32, 16: CODE_16}[bits] | cpl << 5
        data = (0xC093 if bits != 16 else 0x93) | cpl << 5
        limit = 0xFFFF if bits == 16 else 0xFFFF_FFFF
        state.set_segment(SegmentIndex.CS, Segment(8 | cpl, 0, limit, access))
        for one in (SegmentIndex.SS, SegmentIndex.DS, SegmentIndex.ES):
            state.set_segment(one, Segment(16 | cpl, 0, limit, data))
        for one in (SegmentIndex.FS, SegmentIndex.GS):
            state.set_segment(one, Segment(0, 0, limit, data))
        for number in range(16):
            state.gpr[number] = 0
        state.gpr[4] = STACK
        state.rflags = 2
        state.rip = CODE
        state.update_mode(cpl)
        self.engine.is_stale = True

    def put(self, address: int, code: str) -> None:
        self.memory.write(address, bytes.fromhex(code))

    def run(self, budget: int = 1000) -> int:
        return self.engine.run(budget)
