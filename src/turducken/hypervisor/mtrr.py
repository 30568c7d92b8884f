"""What type of memory is where: SDM 3A, "Memory Type Range Registers (MTRRs)".

EPT01's leaves take the MTRRs' role for L1 (under EPT the processor does not look at them), so L0
reads them, follows L1's writes, and gives each leaf the type that its range has.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable

from turducken.address import MIB, PAGE_SIZE
from turducken.arch import msr
from turducken.arch.memory_types import MemoryType

_ENABLED, _FIXED_ENABLED = 1 << 11, 1 << 10
_VALID = 1 << 11
_HAS_FIXED = 1 << 8
_TYPE = 0xFF

FIXED_RANGES: dict[int, tuple[int, int]] = {
    msr.IA32_MTRR_FIX64K_00000: (0, 64 << 10),
    msr.IA32_MTRR_FIX16K_80000: (0x80000, 16 << 10),
    msr.IA32_MTRR_FIX16K_A0000: (0xA0000, 16 << 10),
    **{
        msr.IA32_MTRR_FIX4K_C0000 + number: (0xC0000 + 0x8000 * number, 4 << 10)
        for number in range(8)
    },
}
"""Each fixed-range MTRR's first address and the size of each of its eight ranges."""


def mtrr_numbers(variable: int) -> list[int]:
    """Return the MSRs that decide memory types, with ``variable`` pairs of variable ranges."""
    pairs = range(msr.IA32_MTRR_PHYSBASE0, msr.IA32_MTRR_PHYSBASE0 + 2 * variable)
    return [*pairs, *FIXED_RANGES, msr.IA32_MTRR_DEF_TYPE]


class TypeMap:
    """Memory types of all host-physical addresses: ascending ``starts``, each with its type."""

    def __init__(self, starts: list[int], types: list[int]) -> None:
        self._starts = starts
        self._types = types

    def type_of(self, address: int) -> int:
        """Return the type at ``address``."""
        return self._types[bisect_right(self._starts, address) - 1]

    def uniform_type(self, address: int, size: int) -> int | None:
        """Return the type of all of ``size`` bytes at ``address``, or None where they differ."""
        first = bisect_right(self._starts, address) - 1
        if first + 1 < len(self._starts) and self._starts[first + 1] < address + size:
            return None
        return self._types[first]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypeMap) and (self._starts, self._types) == (
            other._starts,
            other._types,
        )

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterable[tuple[int, int]]:
        return iter(zip(self._starts, self._types, strict=True))


def combined(types: Iterable[int]) -> int:
    """Return the type where variable ranges overlap: SDM 3A, "MTRR Precedences"."""
    found = set(types)
    if len(found) == 1:
        return found.pop()
    if MemoryType.UC not in found and found == {MemoryType.WT, MemoryType.WB}:
        return MemoryType.WT
    return MemoryType.UC  # also where the manual says "undefined"


class Mtrrs:
    """One processor's MTRRs; ``read`` is its RDMSR (None for #GP)."""

    def __init__(self, read: Callable[[int], int | None], physical_bits: int) -> None:
        self._read = read
        self._limit = 1 << physical_bits
        capabilities = read(msr.IA32_MTRRCAP) or 0
        self.variable = capabilities & 0xFF
        self._has_fixed = bool(capabilities & _HAS_FIXED)
        self.numbers = frozenset(mtrr_numbers(self.variable))

    def map(self) -> TypeMap:
        """Return the types as the registers are now."""
        default = self._read(msr.IA32_MTRR_DEF_TYPE)
        if default is None:
            return TypeMap([0], [MemoryType.WB])
        if not default & _ENABLED:
            return TypeMap([0], [MemoryType.UC])
        fixed = self._fixed() if default & _FIXED_ENABLED and self._has_fixed else []
        return self._combine(fixed, self._ranges(), default & _TYPE)

    def _fixed(self) -> list[tuple[int, int, int]]:
        ranges = []
        for number, (base, size) in FIXED_RANGES.items():
            value = self._read(number) or 0
            for index in range(8):
                start = base + index * size
                ranges.append((start, start + size, value >> 8 * index & _TYPE))
        return ranges

    def _ranges(self) -> list[tuple[int, int, int]]:
        ranges = []
        for number in range(self.variable):
            base = self._read(msr.IA32_MTRR_PHYSBASE0 + 2 * number) or 0
            mask = self._read(msr.IA32_MTRR_PHYSBASE0 + 2 * number + 1) or 0
            if not mask & _VALID:
                continue
            bits = mask & (self._limit - 1) & -PAGE_SIZE
            if not bits:
                ranges.append((0, self._limit, base & _TYPE))
                continue
            # A mask with holes describes several ranges; its lowest set bit is each one's size.
            size = bits & -bits
            start = base & bits
            ranges.append((start, start + size, base & _TYPE))
        return ranges

    def _combine(
        self,
        fixed: list[tuple[int, int, int]],
        variable: list[tuple[int, int, int]],
        default: int,
    ) -> TypeMap:
        edges = {0}
        for start, end, _ in (*fixed, *variable):
            edges |= {start, end}
        if fixed:
            edges.add(MIB)
        starts: list[int] = []
        types: list[int] = []
        for edge in sorted(edges):
            if edge >= self._limit:
                break
            kind = self._type_at(edge, fixed, variable, default)
            if not types or types[-1] != kind:
                starts.append(edge)
                types.append(kind)
        return TypeMap(starts, types)

    @staticmethod
    def _type_at(
        address: int,
        fixed: list[tuple[int, int, int]],
        variable: list[tuple[int, int, int]],
        default: int,
    ) -> int:
        for start, end, kind in fixed:
            if start <= address < end:
                return kind
        over = [kind for start, end, kind in variable if start <= address < end]
        return combined(over) if over else default
