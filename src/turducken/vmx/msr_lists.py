"""MSR areas of VM entries and VM exits: SDM 3C, "Loading MSRs", "Saving MSRs"."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turducken.arch import msr
from turducken.bits import Layout, bits, reserved
from turducken.memory import Memory

MSR_ENTRY = Layout(
    "MSR entry",
    128,
    bits("INDEX", 31, 0, "MSR index"),
    reserved(63, 32),
    bits("DATA", 127, 64, "MSR data"),
    source='SDM 3C, "VM-Exit Controls for MSRs"',
)
ENTRY_SIZE = 16
DATA_OFFSET = 8

_NOT_LOADABLE = frozenset(
    {msr.IA32_FS_BASE, msr.IA32_GS_BASE, msr.IA32_SMM_MONITOR_CTL, msr.IA32_BIOS_UPDT_TRIG}
)
"""FS and GS base; an MSR that can be written only in SMM; one with a model-specific reason."""


@dataclass(frozen=True, slots=True)
class MsrEntry:
    """One entry of an area, and the address of its data."""

    index: int
    reserved: int
    data: int
    data_address: int

    @property
    def is_loadable(self) -> bool:
        """Tell whether VM entry or VM exit may load it, as far as the index decides.

        Whether WRMSR would accept the value at CPL 0 is left to ask.
        """
        return not self.reserved and not _is_x2apic(self.index) and self.index not in _NOT_LOADABLE

    @property
    def is_storable(self) -> bool:
        """Tell whether VM exit may store the MSR, if RDMSR could read it at CPL 0."""
        smm_only = self.index == msr.IA32_SMBASE
        return not self.reserved and not _is_x2apic(self.index) and not smm_only


def _is_x2apic(index: int) -> bool:
    """Bits 31:8 are 000008H."""
    return msr.X2APIC_FIRST <= index <= msr.X2APIC_LAST


def read_msr_area(memory: Memory, address: int, count: int) -> Iterator[MsrEntry]:
    """Yield the entries of an area, one at a time (what is not memory reads as all ones)."""
    ones = (1 << 64) - 1
    for place in range(address, address + count * ENTRY_SIZE, ENTRY_SIZE):
        head, data = memory.load(place, 8), memory.load(place + DATA_OFFSET, 8)
        head = ones if head is None else head
        yield MsrEntry(
            head & 0xFFFF_FFFF, head >> 32, ones if data is None else data, place + DATA_OFFSET
        )


def load_msr_area(
    memory: Memory, address: int, count: int, limit: int, write: Callable[[int, int], bool]
) -> int:
    """Load MSRs from an area; return the number (from 1) of the entry that fails, or 0.

    ``write`` is WRMSR at CPL 0. More than ``limit`` entries, the recommended maximum, have an
    undefined outcome (SDM 3D, "Miscellaneous Data"): here the first beyond it fails.
    """
    for number, entry in enumerate(read_msr_area(memory, address, min(count, limit)), 1):
        if not entry.is_loadable or not write(entry.index, entry.data):
            return number
    return limit + 1 if count > limit else 0


def store_msr_area(
    memory: Memory, address: int, count: int, limit: int, read: Callable[[int], int | None]
) -> bool:
    """Store the MSRs that an area names into it; False is a VMX abort. ``read`` is RDMSR."""
    if count > limit:
        return False
    for entry in read_msr_area(memory, address, count):
        value = read(entry.index) if entry.is_storable else None
        if value is None:
            return False
        memory.write(entry.data_address, value.to_bytes(8, "little"))
    return True
