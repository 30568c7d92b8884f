"""Memory types and how they combine: SDM 3A, "Memory Cache Control"."""

from enum import IntEnum


class MemoryType(IntEnum):
    """The encodings that MTRRs, the PAT and EPT leaves share."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7


EPT_MEMORY_TYPES = frozenset(
    {MemoryType.UC, MemoryType.WC, MemoryType.WT, MemoryType.WP, MemoryType.WB}
)
"""What an EPT leaf or an MTRR may hold; 2, 3 and 7 are reserved there."""

PAT_RESET = 0x0007_0406_0007_0406
"""IA32_PAT after reset: SDM 3A, "Page Attribute Table (PAT)"."""

_UC, _WC, _WT, _WP, _WB, _UC_MINUS = (
    MemoryType.UC,
    MemoryType.WC,
    MemoryType.WT,
    MemoryType.WP,
    MemoryType.WB,
    MemoryType.UC_MINUS,
)

# SDM 3A, "Effective Page-Level Memory Types for Pentium III and More Recent Processor Families":
# the row is the MTRR's type, the column the PAT entry's. Where the table says "undefined" or gives
# a model-dependent result, the weaker-cached type is chosen.
_EFFECTIVE = {
    _UC: {_UC: _UC, _UC_MINUS: _UC, _WC: _WC, _WT: _UC, _WB: _UC, _WP: _UC},
    _WC: {_UC: _UC, _UC_MINUS: _WC, _WC: _WC, _WT: _UC, _WB: _WC, _WP: _UC},
    _WT: {_UC: _UC, _UC_MINUS: _UC, _WC: _WC, _WT: _WT, _WB: _WT, _WP: _WP},
    _WB: {_UC: _UC, _UC_MINUS: _UC, _WC: _WC, _WT: _WT, _WB: _WB, _WP: _WP},
    _WP: {_UC: _UC, _UC_MINUS: _WC, _WC: _WC, _WT: _WT, _WB: _WP, _WP: _WP},
}


def effective_type(mtrr: int, pat: int) -> MemoryType:
    """Combine the MTRR's (or EPT leaf's) type with the PAT entry's into the access's type."""
    return _EFFECTIVE[MemoryType(mtrr)][MemoryType(pat)]


def is_valid_pat(value: int) -> bool:
    """Tell whether WRMSR could write ``value`` to IA32_PAT: each byte is a memory type."""
    return all(byte in _PAT_TYPES for byte in value.to_bytes(8, "little"))


_PAT_TYPES = frozenset(int(one) for one in MemoryType)
