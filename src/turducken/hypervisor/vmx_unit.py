"""L1's part in VMX operation: the shared instruction semantics over L1's memory.

While a VMCS12 is current, its fields are kept in a frame of L0's (as a processor keeps a VMCS in
itself), and go back to L1's memory when another becomes current, at VMCLEAR and at VMXOFF. So it
can migrate to another processor, and what L1 writes into the region behind L0's back has no effect.
"""

from collections.abc import Callable

from turducken.address import Gpa1, Hpa
from turducken.hypervisor.guest_memory import GuestMemory
from turducken.memory import PhysicalMemory
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.instructions import NO_POINTER, VmResult, VmxUnit
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import HEADER, Vmcs
from turducken.vmx.vmcs_fields import END_SLOT, HEADER_SLOT

_ALL_SLOTS = range(END_SLOT)
_SHADOW = HEADER.mask("SHADOW")


class CachedVmcs(Vmcs):
    """A VMCS12 in a frame of L0's. The frame can be linked as a shadow VMCS, so it is marked so."""

    __slots__ = ("is_shadow12",)

    def __init__(self, memory: PhysicalMemory, frame: Hpa) -> None:
        super().__init__(memory, frame)
        self.is_shadow12 = False

    @property
    def is_shadow(self) -> bool:
        """The shadow-VMCS indicator as L1 wrote it."""
        return self.is_shadow12

    def fill(self, source: Vmcs) -> None:
        """Take all fields over from L1's memory."""
        self.unpack(_ALL_SLOTS, source.pack(_ALL_SLOTS))
        self.is_shadow12 = bool(self.slots[HEADER_SLOT] & _SHADOW)
        self.slots[HEADER_SLOT] |= _SHADOW

    def write_back(self, target: Vmcs) -> None:
        """Put all fields into L1's memory."""
        target.unpack(_ALL_SLOTS, self.pack(_ALL_SLOTS))
        if not self.is_shadow12:
            target.slots[HEADER_SLOT] &= ~_SHADOW


class GuestVmxUnit(VmxUnit):
    """See the module's text. ``place`` returns L0's frame for the VMCS12 at an address of L1's."""

    __slots__ = ("_host", "_place", "_sink", "guest_memory", "pointer")

    def __init__(
        self,
        capabilities: Capabilities,
        memory: GuestMemory,
        host: PhysicalMemory,
        sink: Hpa,
        place: Callable[[int], CachedVmcs],
    ) -> None:
        super().__init__(capabilities, memory)
        self.guest_memory = memory
        self.pointer = NO_POINTER
        self._host = host
        self._sink = sink
        self._place = place

    @property
    def current_pointer(self) -> int:
        """The current-VMCS pointer, in L1's addresses."""
        return NO_POINTER if self.current is None else self.pointer

    @property
    def current12(self) -> CachedVmcs:
        """The current VMCS12 (there is one)."""
        assert isinstance(self.current, CachedVmcs)
        return self.current

    def can_access(self, encoding: int, *, write: bool) -> bool:
        """Tell whether VMREAD or VMWRITE of an encoding works for L1."""
        return encoding in (self.writable if write else self.readable)

    def vmcs_at(self, region: int) -> Vmcs:
        """Return the VMCS in L1's memory; where L1 has no memory, one that comes to nothing."""
        frame = self.guest_memory.host_frame(Gpa1(region), write=True)
        if frame is None:
            self._host.write(self._sink, b"\xff" * 4096)
            frame = self._sink
        return Vmcs(self._host, Hpa(frame))

    def write_back(self) -> None:
        """Bring L1's memory up to date."""
        if self.current is not None:
            self.current12.write_back(self.vmcs_at(self.pointer))

    def vmptrld(self, pointer: int) -> VmResult:
        """VMPTRLD, with the fields taken into L0's frame."""
        self.write_back()
        result = super().vmptrld(pointer)
        if result.status is VmStatus.SUCCEED:
            loaded = self.current
            assert loaded is not None
            cached = self._place(pointer)
            cached.fill(loaded)
            self.current, self.pointer = cached, pointer
        return result

    def vmclear(self, pointer: int) -> VmResult:
        """VMCLEAR, with the fields of the current VMCS written back first."""
        if pointer == self.current_pointer:
            self.write_back()
        return super().vmclear(pointer)

    def reset(self) -> None:
        """Leave VMX operation."""
        self.write_back()
        super().reset()
        self.pointer = NO_POINTER
