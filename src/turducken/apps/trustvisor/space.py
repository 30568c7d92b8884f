"""A PAL's own address space: page tables and an EPT that map its pages and nothing else.

Both lie in L0's private memory. The PAL's physical addresses are host-physical ones; its linear
addresses are those of its owner. Its page tables are mapped in its EPT for the processor's page
walks, but at no linear address, so a PAL cannot see them.
"""

from turducken.address import PAGE_SIZE, Hpa
from turducken.apps.trustvisor.pal import Pal, is_writable
from turducken.hypervisor.ept_table import EptTable
from turducken.hypervisor.frames import FrameAllocator
from turducken.memory import PhysicalMemory
from turducken.paging import rights
from turducken.paging.formats import PAGING_4LEVEL, PAGING_PAE, Features
from turducken.paging.table import PageTable

_R, _W, _X = 1, 2, 4
_WRITE_BACK = 6 << 3
_EPTP_FLAGS = 0x1E
"""Write-back structures, four levels, no A/D flags."""
_MARKED = rights.A | rights.D


class PalSpace:
    """The tables of one PAL."""

    def __init__(self, memory: PhysicalMemory, frames: FrameAllocator, pal: Pal, bits: int) -> None:
        self._memory = memory
        self._frames = frames
        self._tables: list[int] = []
        fmt = PAGING_4LEVEL if pal.is_64bit else PAGING_PAE
        bound = fmt.bind(Features(maxphyaddr=bits, nx=True))
        self._linear = PageTable.create(bound, memory, self._allocate)
        self._ept = EptTable(memory, frames)
        for page in pal.pages:
            self._map(page.linear, page.hpa, page.memory_type, writable=is_writable(page.kind))
        for table in self._tables:
            self._ept.set(table, 12, table | _R | _W | _WRITE_BACK)

    @property
    def eptp(self) -> int:
        """The EPTP under which the PAL runs."""
        return self._ept.root | _EPTP_FLAGS

    @property
    def cr3(self) -> int:
        """Its CR3."""
        return self._linear.root

    @property
    def pdptes(self) -> tuple[int, ...]:
        """The four PDPTEs, for PAE paging."""
        return tuple(self._memory.load(self._linear.root + 8 * n, 8) for n in range(4))

    def _map(self, linear: int, hpa: Hpa, memory_type: int, *, writable: bool) -> None:
        attributes = rights.make_attributes("RW" if writable else "RX") | _MARKED
        self._linear.map(linear, hpa, PAGE_SIZE, attributes, max_shift=12)
        allowed = _R | _W if writable else _R | _X
        self._ept.set(hpa, 12, hpa | allowed | memory_type)

    def _allocate(self) -> int:
        frame = self._frames.allocate()
        self._tables.append(frame)
        return frame

    def destroy(self) -> None:
        """Give all frames back; no processor may have them cached any more."""
        self._ept.destroy()
        for table in self._tables:
            self._frames.free(table)
