"""A machine whose first processor stands in any mode before a few bytes of code.

Memory below 1 MiB: `GDT`, `IDT`, `TASK` (a TSS), stacks, code at `CODE`, and for every vector a
handler that halts, so that a test can look at the frame. Page tables, where there are any, map all
RAM onto itself from `TABLES` on.
"""

from turducken.cpu.control_registers import sync_mmu
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.processor import Processor
from turducken.cpu.surroundings import Activity
from turducken.machine.machine import Machine, MachineOptions, Outcome
from turducken.paging.formats import PAGING_4LEVEL, PAGING_32, PAGING_PAE, Features
from turducken.paging.rights import make_attributes
from turducken.paging.table import BumpAllocator, PageTable
from turducken.vmx.profile import load_profile

MIB = 1 << 20
GDT, IDT, TASK, LDT = 0x1000, 0x2000, 0x4000, 0x5000
CODE, HANDLERS, TABLES = 0x1_0000, 0x4_0000, MIB
STACK0, STACK1, STACK2, STACK3, IST1 = 0x2_0000, 0x2_2000, 0x2_4000, 0x2_8000, 0x2_6000
REAL_HANDLERS = 0x7000
ALL = make_attributes("RWX", user=True)

CODE32, DATA32, CODE64, CODE16, DATA16 = 0x08, 0x10, 0x18, 0x20, 0x28
USER_CODE32, USER_DATA, USER_CODE64 = 0x33, 0x3B, 0x43
CONFORMING, ABSENT, READ_ONLY, TSS, LDT_SELECTOR = 0x48, 0x50, 0x58, 0x60, 0x70
RING1_CODE, RING1_DATA, CONFORMING64 = 0x80, 0x89, 0x90
LAST = 0x98

INTERRUPT64, TRAP64, INTERRUPT32, TRAP32, INTERRUPT16, TRAP16, TASK_GATE = 14, 15, 14, 15, 6, 7, 5

ES, CS, SS, DS, FS, GS, LDTR, TR, GDTR, IDTR = SegmentIndex
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
_PE, _PG, _WP, _NE = 1, 1 << 31, 1 << 16, 1 << 5
_PSE, _PAE, _OSFXSR = 1 << 4, 1 << 5, 3 << 9
_LONG = 0xD01
"""EFER: SCE, LME, LMA, NXE."""


def descriptor(access: int, *, base: int = 0, limit: int = 0xF_FFFF) -> int:
    """Return a segment descriptor; ``access`` as in the VMCS (bits 15:12 are G, D, L, AVL)."""
    return (
        limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (access & 0xFF) << 40
        | (limit >> 16 & 0xF) << 48
        | (access >> 12 & 0xF) << 52
        | (base >> 24 & 0xFF) << 56
    )


def segment(selector: int, access: int, *, base: int = 0, limit: int | None = None) -> Segment:
    if limit is None:
        limit = 0xFFFF_FFFF if access & 0x8000 else 0xFFFF
    return Segment(selector, base, limit, access)


class Pc:
    """A machine; call one of `real`, `protected`, `pae`, `long` and so on, then `run`."""

    def __init__(
        self,
        *,
        cpus: int = 1,
        profile: str = "default",
        tlb: str = "keep",
        native: bool = True,
        seed: int = 0,
        quantum: int = 10_000,
        observed: bool = False,
    ) -> None:
        self.machine = Machine(
            MachineOptions(
                load_profile(profile),
                memory=4 * MIB,
                cpus=cpus,
                tlb=tlb,
                native=native,
                seed=seed,
                quantum=quantum,
                observed=observed,
            )
        )
        self.memory = self.machine.memory
        self.p: Processor = self.machine.processors[0]
        self.state = self.p.state
        self.table: PageTable | None = None
        self._write_tables()

    def _write_tables(self) -> None:
        for selector, value in {
            CODE32: descriptor(0xC09B),
            DATA32: descriptor(0xC093),
            CODE64: descriptor(0xA09B),
            CODE16: descriptor(0x009B, limit=0xFFFF),
            DATA16: descriptor(0x0093, limit=0xFFFF),
            USER_CODE32: descriptor(0xC0FB),
            USER_DATA: descriptor(0xC0F3),
            USER_CODE64: descriptor(0xA0FB),
            CONFORMING: descriptor(0xC09F),
            ABSENT: descriptor(0xC01B),
            READ_ONLY: descriptor(0xC091),
            TSS: descriptor(0x008B, base=TASK, limit=0x67),
            LDT_SELECTOR: descriptor(0x0082, base=LDT, limit=0xFF),
            RING1_CODE: descriptor(0xC0BB),
            RING1_DATA: descriptor(0xC0B3),
            CONFORMING64: descriptor(0xA09F),
        }.items():
            self.memory.store(GDT + (selector & ~7), 8, value)
        for vector in range(256):
            self.memory.write(HANDLERS + 16 * vector, b"\xf4\xeb\xfd")

    # Memory

    def put(self, address: int, code: str) -> None:
        self.memory.write(address, bytes.fromhex(code))

    def words(self, address: int, count: int, size: int) -> list[int]:
        return [self.memory.load(address + size * n, size) for n in range(count)]

    def gate(
        self,
        vector: int,
        selector: int,
        *,
        kind: int = 14,
        dpl: int = 0,
        offset: int | None = None,
        present: bool = True,
        ist: int = 0,
        long: bool = False,
    ) -> None:
        """Write an IDT entry; its handler is the vector's own in `HANDLERS`."""
        place = HANDLERS + 16 * vector if offset is None else offset
        low = place & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | dpl << 45
        low |= (1 << 47 if present else 0) | (place >> 16 & 0xFFFF) << 48
        if long:
            self.memory.store(IDT + 16 * vector, 8, low)
            self.memory.store(IDT + 16 * vector + 8, 8, place >> 32)
        else:
            self.memory.store(IDT + 8 * vector, 8, low)

    # Modes

    def real(self, code: str) -> "Pc":
        """Real mode, CS = `CODE` >> 4, IP = 0, stack 0000:`REAL_HANDLERS` - 100h."""
        state = self.state
        self._begin(code, 0x10 | _PE & 0, 0, 0)
        state.set_segment(CS, segment(CODE >> 4, 0x9B, base=CODE))
        for one in (SS, DS, ES, FS, GS):
            state.set_segment(one, segment(0, 0x93))
        state.set_table(IDTR, IDT, 0x3FF)
        state.gpr[RSP] = REAL_HANDLERS - 0x100
        for vector in range(256):
            # Handlers at 0700:16 * vector, within 64 KiB.
            self.memory.store(IDT + 4 * vector, 4, 0x0700 << 16 | 16 * vector)
            self.memory.write(REAL_HANDLERS + 16 * vector, b"\xf4\xeb\xfd")
        state.rip = 0
        return self._ready(0)

    def protected(self, code: str, *, cpl: int = 0, bits: int = 32, paging: str = "") -> "Pc":
        """32-bit protected mode with 32-bit TSS; ``paging`` "32" or "PAE" maps RAM onto itself."""
        cr4 = _OSFXSR | _PSE | (_PAE if paging == "PAE" else 0)
        self._begin(code, _PE | 0x30 | (_PG | _WP if paging else 0), cr4, 0)
        self._flat(cpl, {16: (CODE16, 0x9B), 32: (CODE32, 0xC09B)}[bits])
        if cpl == 3:
            self.state.set_segment(CS, segment(USER_CODE32, 0xC0FB))
        self._tables(long=False)
        if paging:
            fmt = PAGING_PAE if paging == "PAE" else PAGING_32
            self._page(PageTable.create(fmt.bind(Features(nx=False)), self.memory, self._pages()))
        self.state.rip = CODE
        return self._ready(cpl)

    def long(self, code: str, *, cpl: int = 0, compatibility: bool = False) -> "Pc":
        """IA-32e mode; ``compatibility`` with 32-bit code."""
        self._begin(code, _PE | _PG | _WP | 0x30, _PAE | _OSFXSR, _LONG)
        kernel = (CODE32, 0xC09B) if compatibility else (CODE64, 0xA09B)
        self._flat(cpl, kernel)
        if cpl == 3:
            user = (USER_CODE32, 0xC0FB) if compatibility else (USER_CODE64, 0xA0FB)
            self.state.set_segment(CS, segment(*user))
        self._tables(long=True)
        fmt = PAGING_4LEVEL.bind(Features())
        self._page(PageTable.create(fmt, self.memory, self._pages()))
        self.state.rip = CODE
        return self._ready(cpl)

    def virtual_8086(self, code: str, *, iopl: int = 3, paging: str = "") -> "Pc":
        """Virtual-8086 mode, CS = `CODE` >> 4, with 32-bit protected-mode tables."""
        self.protected(code, paging=paging)
        state = self.state
        for one in (CS, SS, DS, ES, FS, GS):
            state.set_segment(one, segment(0x10 * one, 0xF3, base=0x100 * one))
        state.set_segment(CS, segment(CODE >> 4, 0xF3, base=CODE))
        state.rflags = 0x2_0002 | iopl << 12
        state.gpr[RSP], state.rip = 0x6000, 0
        return self._ready(3)

    def _pages(self) -> BumpAllocator:
        return BumpAllocator(TABLES, 2 * MIB)

    def _page(self, table: PageTable) -> None:
        table.map(0, 0, 4 * MIB, ALL, max_shift=12)
        self.table = table
        self.state.cr3 = table.root
        if table.fmt.name == PAGING_PAE.name:
            self.p.mmu.pdptes = tuple(self.words(table.root, 4, 8))

    def _begin(self, code: str, cr0: int, cr4: int, efer: int) -> None:
        state = self.state
        self.put(CODE, code)
        state.cr0, state.cr4, state.efer, state.cr3 = cr0, cr4, efer, 0
        state.rflags = 2
        for number in range(16):
            state.gpr[number] = 0
        state.gpr[RSP] = STACK0

    def _flat(self, cpl: int, code: tuple[int, int]) -> None:
        state = self.state
        state.set_segment(CS, segment(*code))
        data = segment(USER_DATA, 0xC0F3) if cpl == 3 else segment(DATA32, 0xC093)
        for one in (SS, DS, ES, FS, GS):
            state.set_segment(one, data)
        state.set_segment(LDTR, segment(LDT_SELECTOR, 0x82, base=LDT, limit=0xFF))
        if cpl == 3:
            state.gpr[RSP] = STACK3

    def _tables(self, *, long: bool) -> None:
        state = self.state
        state.set_table(GDTR, GDT, LAST - 1)
        state.set_table(IDTR, IDT, (16 if long else 8) * 256 - 1)
        state.set_segment(TR, segment(TSS, 0x8B, base=TASK, limit=0x67))
        for vector in range(256):
            self.gate(vector, CODE64 if long else CODE32, long=long, dpl=0)
        if long:
            for level, stack in enumerate((STACK0, STACK1, STACK2)):
                self.memory.write(TASK + 4 + 8 * level, stack.to_bytes(8, "little"))
            self.memory.write(TASK + 0x24, IST1.to_bytes(8, "little"))
        else:
            self.memory.write(TASK, bytes(0x68))
            for level, (stack, selector) in enumerate(((STACK0, DATA32), (STACK1, RING1_DATA))):
                self.memory.store(TASK + 4 + 8 * level, 4, stack)
                self.memory.store(TASK + 8 + 8 * level, 4, selector)

    def _ready(self, cpl: int) -> "Pc":
        self.state.update_mode(cpl)
        sync_mmu(self.p)
        self.p.engine.is_code_stale = True
        self.p.activity = Activity.ACTIVE
        return self

    # Running

    def run(self, limit: int = 20_000) -> Outcome:
        """Run until everything halts or the limit is reached."""
        self.machine.stop.outcome = None
        return self.machine.run(limit)

    def vector(self) -> int | None:
        """Return the vector whose handler has halted the processor, if one has."""
        state = self.state
        linear = state.rip if state.is_64bit else state.segment_base(CS) + state.rip
        base = HANDLERS if linear >= HANDLERS else REAL_HANDLERS
        number, offset = divmod(linear - base, 16)
        return number if 0 <= number < 256 and offset == 1 else None

    def event(self) -> int | None:
        """Run; return the vector that was delivered."""
        assert self.run() is Outcome.HALTED
        return self.vector()
