"""From attributes to entries: the inverse of `turducken.paging.rights.leaf_attributes`."""

from functools import lru_cache

from turducken.arch.memory_types import PAT_RESET, MemoryType
from turducken.errors import UserError
from turducken.paging import entries as e
from turducken.paging import rights
from turducken.paging.formats import BoundFormat

EPT_TABLE = e.EPT_PERMISSIONS
PAGING_TABLE = e.PTE.mask("P", "R/W", "U/S")
_BY_LETTER = (("G", e.PTE.mask("G")), ("A", e.PTE.mask("A")), ("D", e.PTE.mask("D")))


class CannotEncodeError(UserError, ValueError):
    """The format has no entry with such attributes."""


def table_entry(fmt: BoundFormat, number: int, address: int) -> int:
    """Return the entry of level ``number`` that references the table at ``address``, unrestricted.

    Permissions are left to the leaves, so that changing a leaf is enough to change a page.
    """
    level = fmt.levels[number]
    if address & ~level.table_address:
        raise CannotEncodeError(f"no {level.name} can reference a table at {address:#x}")
    if fmt.is_ept:
        by_user = e.EPT_PTE.mask("XU") if fmt.features.mode_based_execute else 0
        return address | EPT_TABLE | by_user
    plain = level.layout_table is e.PAE_PDPTE
    return address | (e.PAE_PDPTE.mask("P") if plain else PAGING_TABLE)


def leaf_entry(
    fmt: BoundFormat, number: int, target: int, attributes: int, *, pat: int = PAT_RESET
) -> int:
    """Return the entry of level ``number`` that maps the page at ``target`` with ``attributes``.

    Raises `CannotEncodeError` if the level maps no pages, or none at that address or with those
    attributes.
    """
    return leaf_address(fmt, number, target) | leaf_flags(fmt, number, attributes, pat)


def leaf_address(fmt: BoundFormat, number: int, target: int) -> int:
    """Return the address bits of a leaf of level ``number`` for the page at ``target``."""
    level = fmt.levels[number]
    if not level.leaf_mask:
        raise CannotEncodeError(f"a {level.name} cannot map a page here")
    word = target & level.leaf_address
    rest = target & ~level.leaf_address
    if level.pse36:
        word |= (target >> 32 & 0xFF) << 13
        rest &= ~(0xFF << 32)
    if rest or word & level.leaf_reserved:
        raise CannotEncodeError(f"no {level.name} can map a page at {target:#x}")
    return word


@lru_cache(maxsize=1024)
def leaf_flags(fmt: BoundFormat, number: int, attributes: int, pat: int = PAT_RESET) -> int:
    """Return all bits of a leaf of level ``number`` but its address."""
    level = fmt.levels[number]
    word = level.leaf_mask if level.leaf_mask != -1 else 0
    flags = _ept_flags(fmt, attributes) if fmt.is_ept else _flags(fmt, number, attributes, pat)
    return word | flags


def leaf_flags_mask(fmt: BoundFormat, number: int, mask: int) -> int:
    """Return the bits of a leaf of level ``number`` that express the attributes in ``mask``."""
    if fmt.is_ept:
        return _ept_mask(fmt, mask)
    bits = 0
    bits |= e.PTE.mask("P") if mask & rights.R else 0
    bits |= e.PTE.mask("R/W") if mask & rights.W else 0
    bits |= e.PTE.mask("U/S") if mask & rights.U else 0
    bits |= _letters(mask)
    if mask & rights.X and fmt.entry_size == 8 and fmt.features.nx:
        bits |= e.PTE.mask("XD")
    if mask & rights.MEMORY_TYPE.mask:
        bits |= e.PTE.mask("PWT", "PCD") | _pat_bit(fmt, number)
    if mask & rights.PROTECTION_KEY.mask and fmt.address_bits >= 48:
        bits |= e.PTE.mask("PK")
    return bits


def _letters(attributes: int) -> int:
    word = 0
    for name, mask in _BY_LETTER:
        word |= mask if attributes & rights.ATTRIBUTES.mask(name) else 0
    return word


def _ept_flags(fmt: BoundFormat, attributes: int) -> int:
    word = attributes & (rights.R | rights.W | rights.X)
    if fmt.features.mode_based_execute and attributes & rights.XU:
        word |= e.EPT_PTE.mask("XU")
    word = e.EPT_MEMORY_TYPE.put(word, rights.MEMORY_TYPE.get(attributes))
    for mask, bit in (
        (rights.IPAT, e.EPT_IPAT),
        (rights.A, e.EPT_A),
        (rights.D, e.EPT_D),
        (rights.SVE, e.EPT_PTE.mask("SVE")),
    ):
        word |= bit if attributes & mask else 0
    return word


def _ept_mask(fmt: BoundFormat, mask: int) -> int:
    word = _ept_flags(fmt, mask & ~rights.MEMORY_TYPE.mask)
    return word | (e.EPT_MEMORY_TYPE.mask if mask & rights.MEMORY_TYPE.mask else 0)


def _flags(fmt: BoundFormat, number: int, attributes: int, pat: int) -> int:
    word = _letters(attributes)
    word |= e.PTE.mask("P") if attributes & rights.R else 0
    word |= e.PTE.mask("R/W") if attributes & rights.W else 0
    word |= e.PTE.mask("U/S") if attributes & rights.U else 0
    if not attributes & rights.X:
        if fmt.entry_size == 4 or not fmt.features.nx:
            raise CannotEncodeError(f"{fmt.name} paging cannot deny execution here")
        word |= e.PTE.mask("XD")
    key = rights.PROTECTION_KEY.get(attributes)
    if key:
        if fmt.address_bits < 48:
            raise CannotEncodeError(f"{fmt.name} paging has no protection keys")
        word = e.PTE["PK"].put(word, key)
    index = index_of_type(pat, MemoryType(rights.MEMORY_TYPE.get(attributes)))
    word |= (index & 3) << 3
    return word | (_pat_bit(fmt, number) if index & 4 else 0)


def _pat_bit(fmt: BoundFormat, number: int) -> int:
    return e.PTE.mask("PAT") if number == len(fmt.levels) - 1 else e.PDE_2MIB.mask("PAT")


def index_of_type(pat: int, kind: MemoryType) -> int:
    """Return the first entry of the IA32_PAT value ``pat`` that holds ``kind``."""
    for index in range(8):
        if pat >> 8 * index & 0xFF == kind:
            return index
    raise CannotEncodeError(f"no entry of IA32_PAT {pat:#x} holds {kind.name}")


def eptp(
    root: int, *, memory_type: MemoryType = MemoryType.WB, accessed_dirty: bool = False
) -> int:
    """Return the EPTP for the 4-level EPT whose PML4 table is at ``root``.

    >>> hex(eptp(0x14674000))
    '0x1467401e'
    """
    return root | e.EPTP.make(MT=memory_type, WALK=3, AD=int(accessed_dirty))
