"""Memory type range registers: SDM 3A, "Memory Type Range Registers (MTRRs)"."""

from collections.abc import Callable, Iterator

from turducken.address import KIB, MIB, PAGE_SIZE
from turducken.arch.memory_types import EPT_MEMORY_TYPES, MemoryType
from turducken.arch.msr import (
    IA32_MTRR_DEF_TYPE,
    IA32_MTRR_FIX4K_C0000,
    IA32_MTRR_FIX16K_80000,
    IA32_MTRR_FIX16K_A0000,
    IA32_MTRR_FIX64K_00000,
    IA32_MTRR_PHYSBASE0,
    IA32_MTRRCAP,
)
from turducken.bits import Layout, bit, bits, reserved

MTRRCAP = Layout(
    "IA32_MTRRCAP",
    64,
    bits("VCNT", 7, 0, "number of variable ranges"),
    bit("FIX", 8, "fixed ranges"),
    reserved(9),
    bit("WC", 10, "write combining"),
    bit("SMRR", 11),
    reserved(63, 12),
    source='SDM 3A, "MTRR Feature Identification"',
)
DEF_TYPE = Layout(
    "IA32_MTRR_DEF_TYPE",
    64,
    bits("TYPE", 7, 0, "default memory type"),
    reserved(9, 8),
    bit("FE", 10, "fixed ranges enable"),
    bit("E", 11, "MTRR enable"),
    reserved(63, 12),
    source='SDM 3A, "IA32_MTRR_DEF_TYPE MSR"',
)
PHYSBASE = Layout(
    "IA32_MTRR_PHYSBASE",
    64,
    bits("TYPE", 7, 0),
    reserved(11, 8),
    bits("BASE", 51, 12, "address bits 51:12 (bits above MAXPHYADDR reserved)"),
    reserved(63, 52),
    source='SDM 3A, "Variable Range MTRRs"',
)
PHYSMASK = Layout(
    "IA32_MTRR_PHYSMASK",
    64,
    reserved(10, 0),
    bit("VALID", 11),
    bits("MASK", 51, 12, "address bits that must equal the base's (above MAXPHYADDR reserved)"),
    reserved(63, 52),
    source='SDM 3A, "Variable Range MTRRs"',
)

FIXED_RANGES = {
    IA32_MTRR_FIX64K_00000: (0x00000, 64 * KIB),
    IA32_MTRR_FIX16K_80000: (0x80000, 16 * KIB),
    IA32_MTRR_FIX16K_A0000: (0xA0000, 16 * KIB),
} | {IA32_MTRR_FIX4K_C0000 + index: (0xC0000 + 32 * KIB * index, 4 * KIB) for index in range(8)}
"""First address and size of each of the eight ranges that a fixed-range MSR describes."""

_UC, _WT, _WB = MemoryType.UC, MemoryType.WT, MemoryType.WB


def _ignore() -> None:
    """Take a change that nobody wants to know of."""


class Mtrrs:
    """One processor's MTRRs: ``variable_count`` variable ranges and the fixed ranges.

    ``on_change`` is called after every accepted write: memory types may differ from then on.
    """

    def __init__(
        self,
        *,
        maxphyaddr: int = 46,
        variable_count: int = 8,
        on_change: Callable[[], None] = _ignore,
    ) -> None:
        self._maxphyaddr = maxphyaddr
        self._on_change = on_change
        self.cap = MTRRCAP.make(VCNT=variable_count, FIX=1, WC=1)
        self._default = 0
        self._fixed = dict.fromkeys(FIXED_RANGES, 0)
        self._variable = [0] * (2 * variable_count)
        """Base and mask registers in the order of their MSRs."""
        address_bits = (1 << maxphyaddr) - 1
        self._base_allowed = PHYSBASE.mask("TYPE") | PHYSBASE.mask("BASE") & address_bits
        self._mask_allowed = PHYSMASK.mask("VALID") | PHYSMASK.mask("MASK") & address_bits

    # -- MSRs --------------------------------------------------------------------------------------

    def read_msr(self, index: int) -> int | None:
        """Return an MTRR's MSR, or None where RDMSR causes #GP."""
        if index == IA32_MTRRCAP:
            return self.cap
        if index == IA32_MTRR_DEF_TYPE:
            return self._default
        if index in self._fixed:
            return self._fixed[index]
        number = index - IA32_MTRR_PHYSBASE0
        return self._variable[number] if 0 <= number < len(self._variable) else None

    def write_msr(self, index: int, value: int) -> bool:
        """Write an MTRR's MSR; False where WRMSR causes #GP (reserved bits, reserved types)."""
        number = index - IA32_MTRR_PHYSBASE0
        if index == IA32_MTRR_DEF_TYPE:
            if value & DEF_TYPE.reserved_mask or not self._is_type(value & 0xFF):
                return False
            self._default = value
        elif index in self._fixed:
            if not 0 <= value < 1 << 64 or not all(map(self._is_type, value.to_bytes(8))):
                return False
            self._fixed[index] = value
        elif 0 <= number < len(self._variable):
            if not self._is_variable_valid(value, is_mask=bool(number & 1)):
                return False
            self._variable[number] = value
        else:
            return False
        self._on_change()
        return True

    @staticmethod
    def _is_type(value: int) -> bool:
        return value in EPT_MEMORY_TYPES

    def _is_variable_valid(self, value: int, *, is_mask: bool) -> bool:
        if is_mask:
            return not value & ~self._mask_allowed
        return not value & ~self._base_allowed and self._is_type(PHYSBASE["TYPE"].get(value))

    # -- memory types ------------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """Tell whether the MTRRs are in use; else all memory is uncacheable."""
        return bool(self._default & DEF_TYPE.mask("E"))

    def type_of(self, address: int) -> MemoryType:
        """Return the memory type of the byte at host-physical ``address``."""
        if not self.is_enabled:
            return _UC
        if address < MIB and self._default & DEF_TYPE.mask("FE"):
            return self._fixed_type(address)
        return self._variable_type(address)

    def _fixed_type(self, address: int) -> MemoryType:
        if address < 0x80000:
            index, offset = IA32_MTRR_FIX64K_00000, address // (64 * KIB)
        elif address < 0xC0000:
            block, offset = divmod((address - 0x80000) // (16 * KIB), 8)
            index = IA32_MTRR_FIX16K_80000 + block
        else:
            block, offset = divmod((address - 0xC0000) // (4 * KIB), 8)
            index = IA32_MTRR_FIX4K_C0000 + block
        return MemoryType(self._fixed[index] >> 8 * offset & 0xFF)

    def _variable_type(self, address: int) -> MemoryType:
        """SDM 3A, "MTRR Precedences": UC wins; WT wins over WB; the rest is undefined (here UC)."""
        types = {kind for base, mask, kind in self._valid_ranges() if address & mask == base & mask}
        if not types:
            return MemoryType(DEF_TYPE["TYPE"].get(self._default))
        if len(types) == 1:
            return types.pop()
        return _WT if types == {_WT, _WB} else _UC

    def _valid_ranges(self) -> Iterator[tuple[int, int, MemoryType]]:
        for base, mask in zip(self._variable[::2], self._variable[1::2], strict=True):
            if mask & PHYSMASK.mask("VALID"):
                yield (
                    base & PHYSBASE.mask("BASE"),
                    mask & PHYSMASK.mask("MASK"),
                    MemoryType(PHYSBASE["TYPE"].get(base)),
                )

    def ranges(self, limit: int | None = None) -> Iterator[tuple[int, int, MemoryType]]:
        """Yield ``(start, end, type)`` runs of equal type from 0 up to ``limit``.

        ``limit`` is 2 to the power of MAXPHYADDR unless given. A mask with holes in it repeats its
        range so often that only its first 4096 boundaries are looked at: the runs are exact for
        contiguous masks, which are what the manual recommends.
        """
        end = 1 << self._maxphyaddr if limit is None else limit
        points = sorted({0, end} | {point for point in self._boundaries() if 0 < point < end})
        start, kind = 0, self.type_of(0)
        for point in points[1:-1]:
            here = self.type_of(point)
            if here is not kind:
                yield start, point, kind
                start, kind = point, here
        yield start, end, kind

    def _boundaries(self) -> Iterator[int]:
        """Yield addresses at which the type may change."""
        if not self.is_enabled:
            return
        for first, size in FIXED_RANGES.values():
            yield from (first + size * index for index in range(9))
        for base, mask, _ in self._valid_ranges():
            yield from self._repetitions(base, mask)

    def _repetitions(self, base: int, mask: int) -> Iterator[int]:
        """Yield the bounds of the places where a variable range applies."""
        size = mask & -mask if mask else 1 << self._maxphyaddr
        size = max(size, PAGE_SIZE)
        holes = [
            position
            for position in range(size.bit_length(), self._maxphyaddr)
            if not mask >> position & 1
        ]
        for pattern in range(1 << min(len(holes), 12)):
            spread = sum(1 << hole for index, hole in enumerate(holes) if pattern >> index & 1)
            start = (base & mask) + spread
            yield start
            yield start + size
