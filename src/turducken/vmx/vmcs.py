"""The VMCS region in memory: SDM 3C, "Format of the VMCS Region".

The first 8 bytes are the manual's: the VMCS revision identifier with the shadow-VMCS indicator, and
the VMX-abort indicator. The rest is the processor's own: ours keeps the launch state in the next 8
bytes and every field in an 8-byte slot (`turducken.vmx.vmcs_fields`), so a region that is zero
apart from its revision identifier reads as zero fields.
"""

from collections.abc import Iterable
from typing import Protocol, SupportsIndex

from turducken.address import PAGE_SIZE, Hpa
from turducken.bits import Layout, bit, bits
from turducken.memory import Memory, PhysicalMemory
from turducken.vmx.vmcs_fields import (
    ACCESSES,
    END_SLOT,
    HEADER_SLOT,
    LAUNCH_SLOT,
    SLOT_MASKS,
    Access,
    VmcsField,
)

HEADER = Layout(
    "VMCS header",
    64,
    bits("REVISION", 30, 0, "VMCS revision identifier"),
    bit("SHADOW", 31, "shadow-VMCS indicator"),
    bits("ABORT", 63, 32, "VMX-abort indicator"),
    source='SDM 3C, "Format of the VMCS Region"',
)
REVISION_MASK = HEADER.mask("REVISION")
SHADOW_INDICATOR = HEADER.mask("SHADOW")
ABORT_OFFSET = 4
"""Where in the region the VMX-abort indicator stands, in bytes."""

LAUNCH_CLEAR = 0
LAUNCH_LAUNCHED = 1

_SLOTS = PAGE_SIZE // 8
_LOW = 0xFFFF_FFFF
_FIELD_BITS = sum(
    mask << 64 * place for place, mask in enumerate(SLOT_MASKS[LAUNCH_SLOT + 1 : END_SLOT])
)


class Slots(Protocol):
    """The region as words of 8 bytes, by index."""

    def __getitem__(self, slot: SupportsIndex, /) -> int: ...

    def __setitem__(self, slot: SupportsIndex, value: int, /) -> None: ...


class _LoadedSlots:
    """The region's words in a memory that can only load and store them."""

    __slots__ = ("_memory", "_region")

    def __init__(self, memory: Memory, region: int) -> None:
        self._memory = memory
        self._region = region

    def __getitem__(self, slot: SupportsIndex, /) -> int:
        value = self._memory.load(self._region + 8 * slot.__index__(), 8)
        return (1 << 64) - 1 if value is None else value

    def __setitem__(self, slot: SupportsIndex, value: int, /) -> None:
        self._memory.store(self._region + 8 * slot.__index__(), 8, value)


class Vmcs:
    """The VMCS at physical ``region`` (4-KiB aligned) of ``memory``.

    ``slots`` are the region's words of 8 bytes, for code that moves many fields: index them with
    `VmcsField.slot`. They hold whatever is in memory; a field of 16 or 32 bits whose slot somebody
    else has scribbled on has further bits there, which `read` cuts off and `normalize` removes.
    When the region is RAM of the machine, they are a view of that RAM.
    """

    __slots__ = ("_bytes", "memory", "region", "slots")

    def __init__(self, memory: Memory, region: Hpa) -> None:
        self.memory = memory
        self.region = region
        self.slots: Slots = _LoadedSlots(memory, region)
        self._bytes: memoryview | None = None
        if isinstance(memory, PhysicalMemory):
            offset = memory.offset_of(region)
            if offset is not None:
                self._bytes = memory.bytes[offset : offset + PAGE_SIZE]
                self.slots = memory.words[offset >> 3 : (offset >> 3) + _SLOTS]

    def __repr__(self) -> str:
        return f"Vmcs({self.region:#x})"

    # Fields

    def read(self, field: VmcsField) -> int:
        """Return a field's value."""
        return self.slots[field.slot] & field.mask

    def write(self, field: VmcsField, value: int) -> None:
        """Set a field, cutting ``value`` off at the field's width."""
        self.slots[field.slot] = value & field.mask

    def read_access(self, access: Access) -> int:
        """Return what VMREAD of one encoding returns."""
        if access.is_high:
            return self.slots[access.slot] >> 32
        return self.slots[access.slot] & access.mask

    def write_access(self, access: Access, value: int) -> None:
        """Do what VMWRITE of one encoding does."""
        if access.is_high:
            value = self.slots[access.slot] & _LOW | (value & _LOW) << 32
        self.slots[access.slot] = value & access.field.mask

    def read_encoding(self, encoding: int) -> int:
        """Return a field by its encoding (`KeyError` where no processor has such a field)."""
        return self.read_access(ACCESSES[encoding])

    def write_encoding(self, encoding: int, value: int) -> None:
        """Set a field by its encoding (`KeyError` where no processor has such a field)."""
        self.write_access(ACCESSES[encoding], value)

    # Runs of fields

    def pack(self, run: range) -> bytes:
        """Return the bytes of a run of slots, such as `vmcs_fields.GUEST_SLOTS`."""
        if self._bytes is not None:
            return self._bytes[run.start << 3 : run.stop << 3].tobytes()
        return self.memory.read(self.region + 8 * run.start, 8 * len(run))

    def unpack(self, run: range, data: bytes) -> None:
        """Replace a run of slots with what `pack` of the same run returned."""
        if self._bytes is not None:
            self._bytes[run.start << 3 : run.stop << 3] = data
        else:
            self.memory.write(self.region + 8 * run.start, data)

    def copy_fields(self, source: "Vmcs", fields: Iterable[VmcsField]) -> None:
        """Set these fields to their values in ``source``."""
        ours, theirs = self.slots, source.slots
        for one in fields:
            ours[one.slot] = theirs[one.slot] & one.mask

    def normalize(self) -> None:
        """Clear, in every field's slot, the bits that the field does not have."""
        run = range(LAUNCH_SLOT + 1, END_SLOT)
        data = self.pack(run)
        clean = (int.from_bytes(data, "little") & _FIELD_BITS).to_bytes(len(data), "little")
        if clean != data:
            self.unpack(run, clean)

    # Header and launch state

    @property
    def revision(self) -> int:
        """The VMCS revision identifier."""
        return self.slots[HEADER_SLOT] & REVISION_MASK

    @property
    def is_shadow(self) -> bool:
        """The shadow-VMCS indicator."""
        return bool(self.slots[HEADER_SLOT] & SHADOW_INDICATOR)

    def set_header(self, revision: int, *, shadow: bool = False) -> None:
        """Write the first 4 bytes, as software does before it makes a VMCS active."""
        head = HEADER.make(REVISION=revision, SHADOW=int(shadow))
        self.slots[HEADER_SLOT] = self.slots[HEADER_SLOT] & (_LOW << 32) | head

    def set_abort(self, indicator: int) -> None:
        """Write the VMX-abort indicator."""
        self.slots[HEADER_SLOT] = HEADER["ABORT"].put(self.slots[HEADER_SLOT], indicator)

    @property
    def is_launched(self) -> bool:
        """Tell whether the launch state is "launched"."""
        return self.slots[LAUNCH_SLOT] & _LOW == LAUNCH_LAUNCHED

    @property
    def launch_cycle(self) -> int:
        """The number, cut off at 32 bits, of the VMX operation in which it was launched."""
        return self.slots[LAUNCH_SLOT] >> 32

    def set_launched(self, cycle: int = 0) -> None:
        """Set the launch state to "launched", in the VMX operation numbered ``cycle``."""
        self.slots[LAUNCH_SLOT] = LAUNCH_LAUNCHED | (cycle & _LOW) << 32

    def set_clear(self) -> None:
        """Set the launch state to "clear"."""
        self.slots[LAUNCH_SLOT] = LAUNCH_CLEAR
