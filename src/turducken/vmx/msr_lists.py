"""MSR areas of VM entries and VM exits: SDM 3C, "Loading MSRs", "Saving MSRs"."""

from collections.abc import Iterator
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
