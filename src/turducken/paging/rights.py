"""What a page's mapping allows: permissions, memory type and flags of all levels, as one word.

Every format's result is expressed in the same `ATTRIBUTES` layout, so that ranges of guest tables,
of EPTs and of compositions of them can be merged, compared and printed by the same code.

SDM 3A, "Access Rights"; SDM 3A, "Paging and Memory Typing"; SDM 3C, "EPT Translation Mechanism" and
"EPT and Memory Typing".
"""

from turducken.arch.memory_types import PAT_RESET, MemoryType, effective_type
from turducken.bits import Layout, bit, bits, reserved
from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat
from turducken.paging.walker import ALL_ONES, Stop, Walk

_TYPES = {int(one): one.name.replace("_MINUS", "-") for one in MemoryType}

ATTRIBUTES = Layout(
    "attributes",
    32,
    bit("R", 0, "readable"),
    bit("W", 1, "writable"),
    bit("X", 2, "executable (EPT: for supervisor-mode linear addresses)"),
    bit(
        "XU", 3, "executable for user-mode linear addresses; equals X where there is no difference"
    ),
    bit("U", 4, "reachable from user mode; always set for EPT, which does not distinguish"),
    bit("G", 5, "global"),
    bit("A", 6, "accessed"),
    bit("D", 7, "dirty"),
    bits("MT", 10, 8, "memory type", values=_TYPES),
    bit("IPAT", 11, "the guest's PAT is ignored"),
    bits("PK", 15, 12, "protection key"),
    bit("SVE", 16, "suppress #VE"),
    bit("PAGING", 17, "the innermost stage is ordinary paging, not EPT"),
    reserved(31, 18),
)

R, W, X, XU, U, G = (ATTRIBUTES.mask(one) for one in ("R", "W", "X", "XU", "U", "G"))
A, D, IPAT, SVE, PAGING = (ATTRIBUTES.mask(one) for one in ("A", "D", "IPAT", "SVE", "PAGING"))
RWX = R | W | X | XU
MEMORY_TYPE = ATTRIBUTES["MT"]
PROTECTION_KEY = ATTRIBUTES["PK"]

_ACCESSED_DIRTY = {True: (e.EPT_A, e.EPT_D), False: (e.PTE.mask("A"), e.PTE.mask("D"))}
_XD = e.PTE.mask("XD")
_EPT_XU, _EPT_SVE = e.EPT_PTE.mask("XU"), e.EPT_PTE.mask("SVE")
_RW, _US, _PK = e.PTE.mask("R/W"), e.PTE.mask("U/S"), e.PTE["PK"]


def make_attributes(
    rights: str = "RWX",
    memory_type: MemoryType = MemoryType.WB,
    *,
    user: bool = True,
    ignore_pat: bool = False,
    global_: bool = False,
    protection_key: int = 0,
) -> int:
    """Return the attribute word for ``rights`` (letters of RWX) and the given type and flags.

    >>> describe(make_attributes("RX"))
    'R-X WB'
    """
    word = 0
    for letter in rights.upper():
        if letter == "-":
            continue
        if letter not in "RWX":
            raise ValueError(f"rights {rights!r}: only the letters R, W and X")
        word |= {"R": R, "W": W, "X": X | XU}[letter]
    word = PROTECTION_KEY.put(MEMORY_TYPE.put(word, memory_type), protection_key)
    word |= U if user else 0
    word |= IPAT if ignore_pat else 0
    return word | (G if global_ else 0)


def pat_type(pat: int, index: int) -> MemoryType:
    """Return the memory type in entry ``index`` of the IA32_PAT value ``pat``.

    Reserved encodings (which the processor refuses to load) count as UC.
    """
    encoding = pat >> 8 * index & 7
    return MemoryType(encoding) if encoding not in (2, 3) else MemoryType.UC


def pat_index(fmt: BoundFormat, shift: int, entry: int) -> int:
    """Return the PAT entry that an ordinary leaf selects: PAT, PCD and PWT as bits 2, 1, 0.

    SDM 3A, "Determining the Memory Type Used for an Access".
    """
    pat_bit = 7 if shift == fmt.levels[-1].shift else 12
    return (entry >> pat_bit & 1) << 2 | entry >> 3 & 3


def attributes_of(fmt: BoundFormat, walk: Walk, pat: int = PAT_RESET) -> int:
    """Return the effective attributes of a walk; without any right where it found no page."""
    if walk.stop is not Stop.PAGE:
        return 0 if fmt.is_ept else PAGING
    return leaf_attributes(fmt, walk.shift, walk.leaf, walk.all_of, walk.any_of, pat=pat)


def leaf_attributes(
    fmt: BoundFormat,
    shift: int,
    leaf: int,
    all_of: int = ALL_ONES,
    any_of: int = 0,
    *,
    pat: int = PAT_RESET,
) -> int:
    """Return the attributes of ``leaf`` under upper entries with ``all_of`` and ``any_of`` bits."""
    all_of, any_of = all_of & leaf, any_of | leaf
    word = 0
    accessed, dirty = _ACCESSED_DIRTY[fmt.is_ept]
    word |= A if leaf & accessed else 0
    word |= D if leaf & dirty else 0
    if fmt.is_ept:
        word |= all_of & (R | W | X) | U
        by_user = all_of & _EPT_XU if fmt.features.mode_based_execute else all_of & X
        word |= XU if by_user else 0
        word = MEMORY_TYPE.put(word, e.EPT_MEMORY_TYPE.get(leaf))
        word |= IPAT if leaf & e.EPT_IPAT else 0
        return word | (SVE if leaf & _EPT_SVE else 0)
    word |= R | PAGING
    word |= W if all_of & _RW else 0
    word |= U if all_of & _US else 0
    if fmt.entry_size == 4 or not any_of & _XD or not fmt.features.nx:
        word |= X | XU
    word |= G if leaf & e.PTE.mask("G") else 0
    if fmt.address_bits >= 48:
        word = PROTECTION_KEY.put(word, _PK.get(leaf))
    return MEMORY_TYPE.put(word, pat_type(pat, pat_index(fmt, shift, leaf)))


def _combined_type(outer: int, inner: int) -> int:
    try:
        return int(effective_type(outer, inner))
    except (KeyError, ValueError):
        return int(MemoryType.UC)  # no leaf with such an encoding gets this far


COMBINED_TYPES = tuple(_combined_type(index >> 3, index & 7) for index in range(64))
"""The memory type under ``outer << 3 | inner``: SDM 3C, "EPT and Memory Typing"."""


def combine(inner: int, outer: int) -> int:
    """Return the attributes of a page that ``inner`` maps in the output of ``outer``.

    Permissions are those that both give. For a guest's tables under an EPT the memory type is the
    manual's; for EPT12 under EPT01 the manual has no rule, and EPT01's type takes the same role
    towards EPT12's as an EPT's towards the PAT: ignore-PAT in EPT01 forces its type, otherwise the
    two combine. Ignore-PAT in either is ignore-PAT in the result. Compose the outer stages first:
    that is what a processor does under the shadow table.
    """
    rights = inner & outer & RWX
    if inner & PAGING:
        execute = outer & (XU if inner & U else X)
        rights = rights & (R | W) | (X | XU if inner & X and execute else 0)
    if outer & IPAT:
        kind = MEMORY_TYPE.get(outer)
    else:
        kind = COMBINED_TYPES[MEMORY_TYPE.get(outer) << 3 | MEMORY_TYPE.get(inner)]
    word = inner & ~(RWX | MEMORY_TYPE.mask) | rights
    if not inner & PAGING:
        word |= outer & IPAT
    return MEMORY_TYPE.put(word, kind)


def rights_text(attributes: int) -> str:
    """Return the permissions as three letters, plus U (user page) or the mode-based execute right.

    >>> rights_text(make_attributes("RW", user=True) | PAGING)
    'RW-U'
    """
    text = "".join(
        letter if attributes & mask else "-" for letter, mask in (("R", R), ("W", W), ("X", X))
    )
    if attributes & PAGING:
        return text + ("U" if attributes & U else "")
    return (
        text
        + ("+XU" if attributes & XU and not attributes & X else "")
        + ("-XU" if attributes & X and not attributes & XU else "")
    )


def type_text(attributes: int) -> str:
    """Return the memory type, with ``!`` where the guest's PAT is ignored."""
    return MEMORY_TYPE.describe(attributes) + ("!" if attributes & IPAT else "")


def flags_text(attributes: int) -> str:
    """Return the flags that are neither permission nor type, by the manual's letters."""
    names = [
        name for name, mask in (("G", G), ("A", A), ("D", D), ("SVE", SVE)) if attributes & mask
    ]
    key = PROTECTION_KEY.get(attributes)
    return " ".join(names + ([f"PK{key}"] if key else []))


def describe(attributes: int) -> str:
    """Return permissions, type and flags as one short text."""
    parts = (rights_text(attributes), type_text(attributes), flags_text(attributes))
    return " ".join(part for part in parts if part)
