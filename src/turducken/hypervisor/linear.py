"""L1's linear memory, where L0 needs it: the memory operands of instructions that it emulates.

Addresses go through L1's own paging and then EPT01, and fail as the processor's accesses would.
"""

from typing import NamedTuple, Protocol

from turducken.address import PAGE_SIZE, Gpa1
from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.paging import entries as e
from turducken.paging.formats import (
    PAGING_4LEVEL,
    PAGING_5LEVEL,
    PAGING_32,
    PAGING_PAE,
    BoundFormat,
    Features,
)
from turducken.paging.walker import Start, Stop, Walk, walk
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

_PG, _WP = CR0.mask("PG"), CR0.mask("WP")
_PAE, _PSE, _LA57, _SMAP = (CR4.mask(one) for one in ("PAE", "PSE", "LA57", "SMAP"))
_LMA, _NXE = EFER.mask("LMA"), EFER.mask("NXE")
_AC = RFLAGS.mask("AC")
_RW, _US = e.PTE.mask("R/W"), e.PTE.mask("U/S")
ERROR_PRESENT, ERROR_WRITE, ERROR_USER, ERROR_RESERVED = 1, 2, 4, 8


class PageFault(NamedTuple):
    """#PF at ``address`` with ``error_code``."""

    address: int
    error_code: int


def paging_format(vmcs: Vmcs, maxphyaddr: int, *, pages_1gib: bool) -> BoundFormat | None:
    """Return the paging format of the guest whose state ``vmcs`` holds; None without paging."""
    cr0, cr4, efer = vmcs.read(f.GUEST_CR0), vmcs.read(f.GUEST_CR4), vmcs.read(f.GUEST_EFER)
    if not cr0 & _PG:
        return None
    features = Features(
        maxphyaddr=maxphyaddr,
        nx=bool(efer & _NXE),
        pse=bool(cr4 & _PSE),
        pages_1gib=pages_1gib,
    )
    if efer & _LMA:
        return (PAGING_5LEVEL if cr4 & _LA57 else PAGING_4LEVEL).bind(features)
    return (PAGING_PAE if cr4 & _PAE else PAGING_32).bind(features)


class GuestPhysical(Protocol):
    """What a guest finds at its physical addresses; None where it has no memory."""

    def load(self, address: int, size: int) -> int | None:
        """Return the naturally aligned word of ``size`` bytes."""

    def store(self, address: int, size: int, value: int) -> None:
        """Replace the naturally aligned word of ``size`` bytes."""

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of one page."""

    def write(self, address: int, data: bytes) -> None:
        """Replace bytes of one page."""


class LinearMemory:
    """Data accesses of the guest whose registers are in ``vmcs``: L1 in supervisor mode.

    With ``is_user`` accesses are user-mode ones; with L2's memory, "Gpa1" stands for Gpa2.
    """

    def __init__(
        self,
        vmcs: Vmcs,
        memory: GuestPhysical,
        maxphyaddr: int,
        *,
        pages_1gib: bool,
        is_user: bool = False,
    ) -> None:
        self._is_user = is_user
        self._vmcs = vmcs
        self._memory = memory
        self._maxphyaddr = maxphyaddr
        self._pages_1gib = pages_1gib

    def translate(self, address: int, *, write: bool) -> Gpa1 | PageFault:
        """Return where linear ``address`` leads, with accessed and dirty flags set."""
        fmt = paging_format(self._vmcs, self._maxphyaddr, pages_1gib=self._pages_1gib)
        if fmt is None:
            return Gpa1(address & 0xFFFF_FFFF)
        start = None
        if fmt.name == "PAE":
            pdpte = self._vmcs.read(f.GUEST_PDPTES[address >> 30 & 3])
            if not pdpte & 1:
                return PageFault(address, ERROR_WRITE if write else 0)
            start = Start(1, pdpte & fmt.levels[0].table_address)
        inside = address & (1 << fmt.address_bits) - 1
        found = walk(fmt, self._memory, self._vmcs.read(f.GUEST_CR3), inside, start)
        error = self._refusal(found, write=write)
        if error is not None:
            return PageFault(address, error | (ERROR_WRITE if write else 0))
        self._set_flags(fmt, found, write=write)
        return Gpa1(found.output(inside))

    def _refusal(self, found: Walk, *, write: bool) -> int | None:
        """Return the error code (but for the write bit) if the access is refused."""
        if found.stop is Stop.MALFORMED:
            return ERROR_PRESENT | ERROR_RESERVED
        if found.stop is not Stop.PAGE:
            return 0
        if self._is_user:
            needed = _US | (_RW if write else 0)
            return None if found.all_of & needed == needed else ERROR_PRESENT | ERROR_USER
        cr0, cr4 = self._vmcs.read(f.GUEST_CR0), self._vmcs.read(f.GUEST_CR4)
        if write and cr0 & _WP and not found.all_of & _RW:
            return ERROR_PRESENT
        no_ac = not self._vmcs.read(f.GUEST_RFLAGS) & _AC
        if found.all_of & _US and cr4 & _SMAP and no_ac:
            return ERROR_PRESENT
        return None

    def _set_flags(self, fmt: BoundFormat, found: Walk, *, write: bool) -> None:
        last = len(found.steps) - 1
        for number, step in enumerate(found.steps):
            wanted = fmt.accessed if not fmt.levels[step.level].neutral else 0
            if write and number == last:
                wanted |= fmt.dirty
            if step.entry & wanted != wanted:
                self._memory.store(step.address, fmt.entry_size, step.entry | wanted)

    def read(self, address: int, length: int) -> bytes | PageFault:
        """Return ``length`` bytes at linear ``address`` (at most one page boundary inside)."""
        data = b""
        for part, count in _pages(address, length):
            place = self.translate(part, write=False)
            if isinstance(place, PageFault):
                return place
            data += self._memory.read(place, count)
        return data

    def write(self, address: int, data: bytes) -> PageFault | None:
        """Replace bytes; nothing is written if any page of them is refused."""
        places = []
        for part, count in _pages(address, len(data)):
            place = self.translate(part, write=True)
            if isinstance(place, PageFault):
                return place
            places.append((place, count))
        done = 0
        for place, count in places:
            self._memory.write(place, data[done : done + count])
            done += count
        return None


def _pages(address: int, length: int) -> list[tuple[int, int]]:
    first = PAGE_SIZE - address % PAGE_SIZE
    if length <= first:
        return [(address, length)]
    return [(address, first), (address + first, length - first)]
