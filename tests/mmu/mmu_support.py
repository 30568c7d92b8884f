"""An MMU over RAM with tables made by the package's builders, for tests of one rule each.

Host memory: tables of paging without EPT and EPTs are at their own addresses; guest-physical
address g of every EPT made here leads to host address g + `GUEST`, unless a test changes that. Only
tables are in RAM: nothing is read from the pages that they map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from turducken.memory import PhysicalMemory
from turducken.mmu.faults import Fault
from turducken.mmu.mmu import Access, EptSetup, Mmu
from turducken.mmu.policy import Keep, TlbPolicy
from turducken.mmu.rights import READ, AccessMode
from turducken.mmu.tlb import Mapping, Tlb
from turducken.paging.encode import eptp
from turducken.paging.formats import (
    EPT,
    PAGING_4LEVEL,
    PAGING_PAE,
    BoundFormat,
    Features,
)
from turducken.paging.rights import make_attributes
from turducken.paging.table import BumpAllocator, PageTable

MIB, GIB = 1 << 20, 1 << 30
GUEST = 16 * MIB
"""Host address of guest-physical 0."""
HOST_TABLES = 2 * MIB
GUEST_TABLES = MIB
"""Guest-physical address of the guest's tables."""
RWX = make_attributes("RWX")
LONG = PAGING_4LEVEL.bind(Features())
EPT_FORMAT = EPT.bind(Features())


class GuestMemory:
    """Guest-physical memory for the builders: host memory from `GUEST` on."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    def load(self, address: int, size: int) -> int:
        return self._memory.load(address + GUEST, size)

    def store(self, address: int, size: int, value: int) -> None:
        self._memory.store(address + GUEST, size, value)

    def read(self, address: int, length: int) -> bytes:
        return self._memory.read(address + GUEST, length)

    def write(self, address: int, data: bytes) -> None:
        self._memory.write(address + GUEST, data)


class Rig:
    def __init__(self, policy: TlbPolicy | None = None, *, tlb: type[Tlb] = Tlb) -> None:
        self.memory = PhysicalMemory(20 * MIB)
        self.guest_memory = GuestMemory(self.memory)
        self.drops = 0
        self.tlb = tlb(self._on_drop)
        self.policy = policy or Keep()
        self.mmu = Mmu(self.memory, self.tlb, self.policy)
        self.pages = BumpAllocator(HOST_TABLES, GUEST)
        self.guest_pages = BumpAllocator(GUEST_TABLES, 4 * MIB)

    def _on_drop(self) -> None:
        self.drops += 1

    # Tables

    def table(self, fmt: BoundFormat = LONG) -> PageTable:
        """Return an empty table in host memory."""
        return PageTable.create(fmt, self.memory, self.pages)

    def guest_table(self, fmt: BoundFormat = LONG) -> PageTable:
        """Return an empty table of a guest's, in guest-physical memory."""
        return PageTable.create(fmt, self.guest_memory, self.guest_pages)

    def ept(self, fmt: BoundFormat = EPT_FORMAT, *, max_shift: int = 12) -> PageTable:
        """Return an EPT that maps the guest's 48 MiB in pages of at most ``1 << max_shift``."""
        table = self.table(fmt)
        table.map(0, GUEST, 48 * MIB, RWX, max_shift=max_shift)
        return table

    # The registers

    def configure(
        self,
        table: PageTable | None,
        ept: PageTable | None = None,
        *,
        vpid: int = 0,
        pcid: int = 0,
        mode: AccessMode | None = None,
        accessed_dirty: bool = False,
        advanced: bool = False,
        globals_: bool = True,
    ) -> None:
        """Run with ``table`` (None: CR0.PG = 0) under ``ept`` (None: EPT off)."""
        setup = None
        if ept is not None:
            setup = EptSetup(ept.fmt, 0, False, advanced_information=advanced)
            setup = setup.with_eptp(eptp(ept.root, accessed_dirty=accessed_dirty))
        self.mmu.enable_globals(enabled=globals_)
        self.mmu.configure(
            paging=table.fmt if table is not None else None,
            root=table.root if table is not None else 0,
            mode=mode or AccessMode(wp=True, nx=True),
            vpid=vpid,
            pcid=pcid,
            ept=setup,
        )
        if table is not None and table.fmt.name == PAGING_PAE.name:
            read = table.memory.load
            self.mmu.pdptes = tuple(read(table.root + 8 * n, 8) for n in range(4))

    # Accesses

    def access(
        self, address: int, kind: int = READ, *, user: bool = False, ac: bool = False
    ) -> Mapping | Fault:
        return self.mmu.translate(Access(address, kind, user, ac))

    def where(self, address: int, kind: int = READ, *, user: bool = False) -> int | Fault:
        """Return the host-physical address that an access reaches, or its fault."""
        found = self.access(address, kind, user=user)
        return reached(found, address)

    @contextmanager
    def nothing_dropped(self) -> Iterator[None]:
        before = self.drops
        yield
        assert self.drops == before


def reached(found: Mapping | Fault, address: int) -> int | Fault:
    if not isinstance(found, Mapping):
        return found
    return found.page | address & ((1 << found.shift) - 1)


def entry_place(table: PageTable, address: int, level: int) -> int:
    """Return where the entry of ``level`` (0 is the top) on the way to ``address`` lies."""
    return table.walk(address).steps[level].address


def edit(table: PageTable, address: int, level: int, *, clear: int = 0, set_: int = 0) -> None:
    """Change bits of one entry, telling nobody."""
    place, size = entry_place(table, address, level), table.fmt.entry_size
    table.memory.store(place, size, table.memory.load(place, size) & ~clear | set_)


def entry(table: PageTable, address: int, level: int) -> int:
    return table.walk(address).steps[level].entry


def leaf(table: PageTable, address: int) -> int:
    return table.walk(address).leaf


def features(**changes: bool | int) -> Features:
    return replace(Features(), **changes)  # type: ignore[arg-type]
