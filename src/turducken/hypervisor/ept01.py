"""EPT01: what L1 sees as physical memory, and the API by which it changes at run time.

Each processor has one of its own, unless an application has them shared
(`turducken.hypervisor.hypapp.Ept01Sharing`). At first it is the identity over everything but L0's
private region, with the largest pages of one memory type each; what lies above 4 GiB is filled in
when it is first used. Hypapps change it through `turducken.hypervisor.memory_control`.
"""

from collections.abc import Callable
from typing import NamedTuple

from turducken.address import GIB, PAGE_SIZE, Gpa1, Hpa
from turducken.arch.memory_types import MemoryType
from turducken.hypervisor.ept_table import LEAF, PRESENT, Entry, EptTable, leaf_for, page_of
from turducken.hypervisor.frames import FrameAllocator, OutOfFramesError
from turducken.hypervisor.mtrr import TypeMap
from turducken.memory import PhysicalMemory
from turducken.paging import entries as e

EAGER_LIMIT = 4 * GIB
"""Up to here EPT01 is filled when it is made; the rest when it is first used."""

R, W, X = (e.EPT_PTE.mask(one) for one in "RWX")
RWX = R | W | X
_TYPE = e.EPT_MEMORY_TYPE

OWNED = 1 << 52
"""Software's mark (the processor ignores the bit) on entries that a call of the API wrote."""
OWN_TYPE = 1 << 53
"""Software's mark: the memory type was set by the API and does not follow the MTRRs."""


WITHHELD = 1 << 54
"""Software's mark: the page is writable for L1, but each write is to be seen first."""


class Place(NamedTuple):
    """Where EPT01 leads: a page of ``1 << shift`` bytes at host-physical ``page``."""

    page: Hpa
    shift: int
    entry: int


class Ept01:
    """One processor's EPT01 over host-physical addresses below ``1 << physical_bits``.

    ``hidden`` is L0's private region. ``types`` are the memory types of the identity.
    ``changed`` is called after every change of an entry that was present.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        frames: FrameAllocator,
        types: TypeMap,
        *,
        physical_bits: int,
        pages_1gib: bool = True,
        pages_2mib: bool = True,
    ) -> None:
        self.table = EptTable(memory, frames)
        self.hidden = frames.region
        self.types = types
        self.limit = 1 << min(physical_bits, 48)
        self.changed: Callable[[], None] = _nothing
        self._memory = memory
        sizes = [30] * pages_1gib + [21] * pages_2mib + [12]
        self._sizes = tuple(sizes)
        self._withheld: set[int] = set()
        self.written: set[Gpa1] = set()
        """Pages whose writing is withheld from L1, and that L0 has written for it."""
        self._readable: dict[int, int] = {}
        self._writable: dict[int, int] = {}
        address = 0
        while address < min(EAGER_LIMIT, self.limit):
            address += 1 << self._fill(Gpa1(address))

    @property
    def eptp(self) -> int:
        """The EPTP that VMCS01 holds: write-back structures, four levels, no A/D flags."""
        return _eptp(self.table.root)

    def replicate(self) -> int:
        """Return another EPTP for the same mappings: its two upper levels are copies."""
        return _eptp(self.table.replicate())

    # Looking up

    def find(self, address: Gpa1) -> Place | None:
        """Return where ``address`` leads, or None where L1 has nothing."""
        if address >= self.limit:
            return None
        entry = self.table.get(address)
        if not entry.value:
            try:
                self._fill(address)
            except OutOfFramesError:
                return None  # far beyond RAM, where L1 has used up what there is for tables
            entry = self.table.get(address)
        if not entry.is_present:
            return None
        return Place(Hpa(page_of(entry.value, entry.shift)), entry.shift, entry.value)

    def readable_frame(self, number: int) -> int | None:
        """Return the host-physical frame that L1 can read as its page ``number``."""
        frame = self._readable.get(number)
        return frame if frame is not None else self._remember(self._readable, number, R)

    def writable_frame(self, number: int, *, for_l0: bool = False) -> int | None:
        """Return the host-physical frame that L1 can write as its page ``number``.

        L1's write access may be withheld for a while; L0 writes for L1 all the same, and the write
        is noted in ``written``, unless it is ``for_l0`` itself.
        """
        frame = self._writable.get(number)
        if frame is None:
            frame = self._remember(self._writable, number, W)
        if frame is None and self._withheld:
            page = Gpa1(number * PAGE_SIZE)
            place = self.find(page)
            if place is not None and place.entry & WITHHELD:
                if not for_l0:
                    self.written.add(page)
                return place.page
        return frame

    def _remember(self, table: dict[int, int], number: int, right: int) -> int | None:
        address = Gpa1(number * PAGE_SIZE)
        place = self.find(address)
        if place is None or not place.entry & right:
            return None
        frame = place.page + (address & (1 << place.shift) - 1)
        table[number] = frame
        return frame

    # The identity

    def _fill(self, address: Gpa1) -> int:
        """Map the largest page around ``address`` that is alike, to itself; return its shift.

        A page of the private region is left out: its entry stays zero.
        """
        for shift in self._sizes:
            base, size = address & -(1 << shift), 1 << shift
            kind = self.types.uniform_type(base, size)
            if kind is None and shift > 12:
                continue
            if base < self.hidden.stop and base + size > self.hidden.start:
                if shift == 12:
                    return shift
                continue
            if base + size > self.limit:
                continue
            if shift > 12 and not self._is_free(base, shift):
                continue
            self.table.set(base, shift, self._identity(base, shift, kind or 0))
            return shift
        return 12

    def _is_free(self, base: int, shift: int) -> bool:
        """Tell whether one entry of this size is there for ``base``, or could be."""
        return self.table.get(base).shift >= shift

    @staticmethod
    def _identity(base: int, shift: int, kind: int) -> int:
        return leaf_for(_TYPE.put(base | RWX, kind), shift)

    def follow_types(self, types: TypeMap) -> bool:
        """Give the identity's pages the types of ``types``; return whether anything changed."""
        if types == self.types:
            return False
        self.types = types
        pending = [(gpa, entry) for gpa, entry in self.table.leaves()]
        while pending:
            gpa, entry = pending.pop()
            if not entry.is_present or entry.value & OWN_TYPE:
                continue
            kind = types.uniform_type(page_of(entry.value, entry.shift), 1 << entry.shift)
            if kind is None:
                pending += self._parts(gpa, entry)
            elif _TYPE.get(entry.value) != kind:
                self.table.set(gpa, entry.shift, _TYPE.put(entry.value, kind))
        self._readable.clear()
        self._writable.clear()
        self.changed()
        return True

    def _parts(self, gpa: int, entry: Entry) -> list[tuple[int, Entry]]:
        """Split a page into the next smaller ones that the processor has; return them."""
        shift = next(size for size in self._sizes if size < entry.shift)
        parts = []
        for base in range(gpa, gpa + (1 << entry.shift), 1 << shift):
            self.table.split(base, shift)
            parts.append((base, self.table.get(base)))
        return parts

    # Withholding writes, for tables that a shadow follows; the caller invalidates, and `changed` is
    # not called: no address leads elsewhere

    def withhold_writing(self, address: Gpa1) -> bool:
        """Let each write of L1 to one 4-KiB page exit; return whether it did not before."""
        self._withheld.add(address)
        entry = self._present(address)
        if not entry & W:
            return False
        self._put(address, entry)
        return True

    def give_writing_back(self, address: Gpa1) -> None:
        """Let L1 write the page again."""
        self._withheld.discard(address)
        entry = self._present(address)
        if entry & WITHHELD:
            self._put(address, entry & ~WITHHELD | W)

    def is_withheld(self, address: int) -> bool:
        """Tell whether L1's writes to the page of ``address`` are withheld."""
        return address & -PAGE_SIZE in self._withheld

    # Changes by the API; the caller invalidates

    def map(self, address: Gpa1, target: Hpa, rights: int, kind: int | None) -> None:
        """Map one 4-KiB page; ``kind`` None takes the type that the MTRRs give the target."""
        value = target | rights & RWX | OWNED
        if kind is None:
            value = _TYPE.put(value, self.types.type_of(target))
        else:
            value = _TYPE.put(value, kind) | OWN_TYPE
        self._change(address, value)

    def unmap(self, address: Gpa1) -> None:
        """Take one 4-KiB page away from L1."""
        self._change(address, OWNED)

    def protect(self, address: Gpa1, rights: int) -> None:
        """Set the rights of one mapped 4-KiB page; without any it is as if unmapped."""
        entry = self._present(address)
        if entry:
            self._change(address, entry & ~PRESENT | rights & RWX | OWNED)

    def set_type(self, address: Gpa1, kind: int) -> None:
        """Set the memory type of one mapped 4-KiB page."""
        entry = self._present(address)
        if entry:
            self._change(address, _TYPE.put(entry, kind) | OWNED | OWN_TYPE)

    def restore(self, address: Gpa1) -> None:
        """Give one 4-KiB page back as the identity has it."""
        if self.hidden.start <= address < self.hidden.stop:
            raise ValueError(f"{address:#x} is L0's own memory")
        self._change(address, self._identity(address, 12, self.types.type_of(address)))

    def _present(self, address: Gpa1) -> int:
        """Return the 4-KiB entry that maps ``address``, or 0."""
        place = self.find(address)
        if place is None:
            entry = self.table.get(address).value
            return entry if entry & OWNED and page_of(entry, 12) else 0
        return place.entry & ~LEAF & ~e.EPT_PTE.mask("ADDRESS") | (
            place.page + (address & (1 << place.shift) - 1 & -PAGE_SIZE)
        )

    def _change(self, address: Gpa1, value: int) -> None:
        if self._put(address, value):
            self.changed()

    def _put(self, address: Gpa1, value: int) -> bool:
        """Write a 4-KiB entry; return whether mappings made from the old one must go."""
        if address % PAGE_SIZE or not 0 <= address < self.limit:
            raise ValueError(f"{address:#x} is not the address of a page of L1's")
        if not self.table.get(address).value:
            self._fill(address)
        if address in self._withheld and value & W:
            value = value & ~W | WITHHELD
        old = self.table.get(address)
        was_present = old.is_present
        self.table.set(address, 12, value)
        self._readable.clear()
        self._writable.clear()
        return was_present and _needs_invalidation(old, value, address)


def _needs_invalidation(old: Entry, value: int, address: int) -> bool:
    """Tell whether mappings made from ``old`` must go now that ``value`` maps ``address``.

    SDM 3C, "Guidelines for Use of the INVEPT Instruction": rights that are only added need none,
    and of entries that are not present nothing is cached.
    """
    if old.value & ~value & RWX:
        return True
    before = page_of(old.value, old.shift) + (address & (1 << old.shift) - 1)
    return before != page_of(value, 12) or bool((old.value ^ value) & (_TYPE.mask | e.EPT_IPAT))


def _eptp(root: int) -> int:
    return root | 3 << 3 | MemoryType.WB


def _nothing() -> None:
    """No subscriber."""
