"""The memory of the guest that has just exited, L1 or L2, as its own user mode finds it.

For applications on L0 that take addresses from whoever calls them: L1's linear addresses go through
L1's paging and EPT01, those of L2 through L2's paging, EPT12 and EPT01. What the guest itself may
not do there is refused here too.
"""

from typing import TYPE_CHECKING

from turducken.address import PAGE_SIZE, Gpa1, Gpa2
from turducken.hypervisor.ept01 import WITHHELD
from turducken.hypervisor.linear import LinearMemory, PageFault
from turducken.hypervisor.operands import is_64bit_mode, is_canonical_for
from turducken.hypervisor.shadow.compose import Denied01, Filled
from turducken.vmx import vmcs_fields as f

if TYPE_CHECKING:
    from turducken.hypervisor.context import Context
    from turducken.hypervisor.vcpu import Vcpu

_READ, _WRITE = 1, 2
_OFFSET = PAGE_SIZE - 1
_LOW = 0xFFFF_FFFF


class L2Memory:
    """L2's physical memory (Gpa2): through EPT12, or L1's where L2 runs without EPT."""

    def __init__(self, vcpu: "Vcpu", context: "Context") -> None:
        self._vcpu = vcpu
        self._context = context

    def locate(self, gpa2: int, access: int) -> Gpa1 | None:
        """Return where ``gpa2`` leads, if EPT12 allows the access; whatever EPT01 says."""
        root12 = self._context.root12
        if root12 is None:
            return Gpa1(gpa2)
        found = self._vcpu.composer.compose(root12.view, root12.eptp, Gpa2(gpa2), access)
        if isinstance(found, Denied01):
            return Gpa1(found.gpa1)
        if not isinstance(found, Filled):
            return None
        return Gpa1(found.gpa1 | gpa2 & (1 << found.shift) - 1)

    def translate(self, gpa2: int, access: int) -> Gpa1 | None:
        """Return where ``gpa2`` leads, if EPT12 and EPT01 allow the access."""
        gpa1 = self.locate(gpa2, access)
        return gpa1 if gpa1 is not None and _allowed(self._vcpu, gpa1, access) else None

    def load(self, address: int, size: int) -> int | None:
        """Return the naturally aligned word of ``size`` bytes at a Gpa2."""
        gpa1 = self.translate(address, _READ)
        return None if gpa1 is None else self._vcpu.memory.load(gpa1, size)

    def store(self, address: int, size: int, value: int) -> None:
        """Replace the naturally aligned word of ``size`` bytes at a Gpa2."""
        gpa1 = self.translate(address, _READ | _WRITE)
        if gpa1 is not None:
            self._vcpu.memory.store(gpa1, size, value)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of one page."""
        gpa1 = self.translate(address, _READ)
        return b"\xff" * length if gpa1 is None else self._vcpu.memory.read(gpa1, length)

    def write(self, address: int, data: bytes) -> None:
        """Replace bytes of one page."""
        gpa1 = self.translate(address, _READ | _WRITE)
        if gpa1 is not None:
            self._vcpu.memory.write(gpa1, data)


class CurrentGuest:
    """The guest that has exited on a processor; good until the handler of that exit ends."""

    def __init__(self, vcpu: "Vcpu") -> None:
        self._vcpu = vcpu
        context = vcpu.nested.current if vcpu.in_l2 else None
        self.level = 1 if context is None else 2
        self.vmcs = vcpu.vmcs01 if context is None else context.vmcs02
        self._l2 = None if context is None else L2Memory(vcpu, context)
        self._linear = LinearMemory(
            self.vmcs,
            self._l2 or vcpu.memory,
            vcpu.maxphyaddr,
            pages_1gib=vcpu.pages_1gib,
            is_user=True,
        )

    @property
    def is_64bit(self) -> bool:
        """It executes 64-bit code, not that of compatibility or an older mode."""
        return is_64bit_mode(self.vmcs)

    def is_canonical(self, linear: int) -> bool:
        """Tell whether an address is canonical for the guest."""
        return is_canonical_for(self.vmcs, linear)

    @property
    def privilege(self) -> int:
        """The current privilege level, which SS has."""
        return self.vmcs.read(f.GUEST_SS_ACCESS_RIGHTS) >> 5 & 3

    def translate(self, linear: int, *, write: bool) -> Gpa1 | None:
        """Return where a linear address leads that user mode may read (and write)."""
        gpa1 = self.locate(linear, write=write)
        access = _READ | (_WRITE if write else 0)
        return gpa1 if gpa1 is not None and _allowed(self._vcpu, gpa1, access) else None

    def locate(self, linear: int, *, write: bool) -> Gpa1 | None:
        """Return where the guest's own tables (and EPT12) lead; whatever EPT01 says."""
        if not (self.is_canonical(linear) if self.is_64bit else 0 <= linear <= _LOW):
            return None
        place = self._linear.translate(linear, write=write)
        if isinstance(place, PageFault):
            return None
        if self._l2 is None:
            return place
        return self._l2.locate(place, _READ | (_WRITE if write else 0))

    def read(self, linear: int, length: int) -> bytes | None:
        """Return bytes at a linear address; None where user mode may not read them all."""
        places = self._places(linear, length, write=False)
        if places is None:
            return None
        return b"".join(self._vcpu.memory.read(gpa1, count) for gpa1, count in places)

    def write(self, linear: int, data: bytes) -> bool:
        """Replace bytes at a linear address; nothing is written if any page refuses."""
        places = self._places(linear, len(data), write=True)
        if places is None:
            return False
        done = 0
        for gpa1, count in places:
            self._vcpu.memory.write(gpa1, data[done : done + count])
            done += count
        return True

    def _places(self, linear: int, length: int, *, write: bool) -> list[tuple[Gpa1, int]] | None:
        places = []
        while length > 0:
            count = min(length, PAGE_SIZE - (linear & _OFFSET))
            gpa1 = self.translate(linear, write=write)
            if gpa1 is None:
                return None
            places.append((gpa1, count))
            linear += count
            length -= count
        return places


def _allowed(vcpu: "Vcpu", gpa1: Gpa1, access: int) -> bool:
    """Tell whether EPT01 allows an access; writes that are only watched count as allowed."""
    place = vcpu.ept01.find(gpa1)
    if place is None:
        return False
    given = place.entry | (_WRITE if place.entry & WITHHELD else 0)
    return not access & ~given
