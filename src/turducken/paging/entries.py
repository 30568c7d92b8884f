"""Layouts of every paging-structure entry.

SDM 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; SDM 3C, "EPT Translation
Mechanism". Address fields reach to bit 51 here; what lies above the processor's MAXPHYADDR is
reserved, and the format that is bound to a processor adds that (`turducken.paging.formats`).
"""

from turducken.arch.memory_types import MemoryType
from turducken.bits import Field, Layout, bit, bits, ignored, reserved

_TYPES = {int(one): one.name for one in MemoryType if one is not MemoryType.UC_MINUS}


def _common(*, accessed: bool = True) -> tuple[Field, ...]:
    """Return bits 5:0 of entries of ordinary paging that carry permissions."""
    last = bit("A", 5, "accessed") if accessed else ignored(5)
    return (
        bit("P", 0, "present"),
        bit("R/W", 1, "writable"),
        bit("U/S", 2, "user"),
        bit("PWT", 3, "page-level write-through"),
        bit("PCD", 4, "page-level cache disable"),
        last,
    )


def _wide_table(name: str) -> Layout:
    """Return a PML5E, PML4E, or a PDPTE or PDE that references a table (4-level and 5-level)."""
    return Layout(
        name,
        64,
        *_common(),
        ignored(6),
        bit("PS", 7, "0: references a table"),
        ignored(11, 8),
        bits("ADDRESS", 51, 12, "physical address of the next table"),
        ignored(62, 52),
        bit("XD", 63, "execute-disable"),
    )


def _wide_leaf(name: str, shift: int) -> Layout:
    """Return an entry that maps a page of ``1 << shift`` bytes (4-level and 5-level)."""
    small = shift == 12
    place = (
        (bit("PAT", 7, "page attribute"),)
        if small
        else (
            bit("PS", 7, "1: maps a page"),
            bit("PAT", 12, "page attribute"),
            reserved(shift - 1, 13),
        )
    )
    return Layout(
        name,
        64,
        *_common(),
        bit("D", 6, "dirty"),
        *place,
        bit("G", 8, "global"),
        ignored(11, 9),
        bits("ADDRESS", 51, shift, "physical address of the page"),
        ignored(58, 52),
        bits("PK", 62, 59, "protection key"),
        bit("XD", 63, "execute-disable"),
    )


PML5E = _wide_table("PML5E")
PML4E = _wide_table("PML4E")
PDPTE = _wide_table("PDPTE")
PDE = _wide_table("PDE")
PDPTE_1GIB = _wide_leaf("PDPTE 1 GiB", 30)
PDE_2MIB = _wide_leaf("PDE 2 MiB", 21)
PTE = _wide_leaf("PTE", 12)

PAE_PDPTE = Layout(
    "PAE PDPTE",
    64,
    bit("P", 0, "present"),
    reserved(2, 1),
    bit("PWT", 3, "page-level write-through"),
    bit("PCD", 4, "page-level cache disable"),
    reserved(8, 5),
    ignored(11, 9),
    bits("ADDRESS", 51, 12, "physical address of the page directory"),
    reserved(63, 52),
)


def _pae(name: str, *, shift: int | None) -> Layout:
    """Return a PAE PDE (``shift`` None), 2 MiB PDE or PTE; unlike the wide ones, 62:52 reserved."""
    if shift is None:
        middle: tuple[Field, ...] = (
            ignored(6),
            bit("PS", 7, "0: references a table"),
            ignored(11, 8),
        )
    elif shift == 12:
        middle = (bit("D", 6), bit("PAT", 7), bit("G", 8), ignored(11, 9))
    else:
        middle = (
            bit("D", 6),
            bit("PS", 7, "1: maps a page"),
            bit("G", 8),
            ignored(11, 9),
            bit("PAT", 12),
            reserved(shift - 1, 13),
        )
    return Layout(
        name,
        64,
        *_common(),
        *middle,
        bits("ADDRESS", 51, shift or 12),
        reserved(62, 52),
        bit("XD", 63, "execute-disable"),
    )


PAE_PDE = _pae("PAE PDE", shift=None)
PAE_PDE_2MIB = _pae("PAE PDE 2 MiB", shift=21)
PAE_PTE = _pae("PAE PTE", shift=12)

PDE32 = Layout(
    "32-bit PDE",
    32,
    *_common(),
    ignored(6),
    bit("PS", 7, "0: references a table"),
    ignored(11, 8),
    bits("ADDRESS", 31, 12, "physical address of the page table"),
)
PDE32_4MIB = Layout(
    "32-bit PDE 4 MiB",
    32,
    *_common(),
    bit("D", 6, "dirty"),
    bit("PS", 7, "1: maps a page"),
    bit("G", 8, "global"),
    ignored(11, 9),
    bit("PAT", 12, "page attribute"),
    bits("ADDRESS_HIGH", 20, 13, "bits 39:32 of the page's physical address (PSE-36)"),
    reserved(21),
    bits("ADDRESS", 31, 22, "bits 31:22 of the page's physical address"),
)
PTE32 = Layout(
    "32-bit PTE",
    32,
    *_common(),
    bit("D", 6, "dirty"),
    bit("PAT", 7, "page attribute"),
    bit("G", 8, "global"),
    ignored(11, 9),
    bits("ADDRESS", 31, 12, "physical address of the page"),
)


def _ept_table(name: str, *, has_leaf_form: bool) -> Layout:
    """Return an EPT entry that references a table."""
    size = (reserved(6, 3), bit("LEAF", 7, "0: references a table"))
    return Layout(
        name,
        64,
        bit("R", 0, "read"),
        bit("W", 1, "write"),
        bit("X", 2, "execute (supervisor-mode linear addresses, with mode-based execute control)"),
        *(size if has_leaf_form else (reserved(7, 3),)),
        bit("A", 8, "accessed, if EPTP bit 6 is set"),
        ignored(9),
        bit("XU", 10, "execute for user-mode linear addresses, with mode-based execute control"),
        ignored(11),
        bits("ADDRESS", 51, 12, "physical address of the next table"),
        ignored(63, 52),
        source='SDM 3C, "EPT Translation Mechanism"',
    )


def _ept_leaf(name: str, shift: int) -> Layout:
    """Return an EPT entry that maps a page of ``1 << shift`` bytes."""
    return Layout(
        name,
        64,
        bit("R", 0, "read"),
        bit("W", 1, "write"),
        bit("X", 2, "execute (supervisor-mode linear addresses, with mode-based execute control)"),
        bits("MT", 5, 3, "memory type", values=_TYPES),
        bit("IPAT", 6, "ignore PAT"),
        *((ignored(7),) if shift == 12 else (bit("LEAF", 7, "1: maps a page"),)),
        bit("A", 8, "accessed, if EPTP bit 6 is set"),
        bit("D", 9, "dirty, if EPTP bit 6 is set"),
        bit("XU", 10, "execute for user-mode linear addresses, with mode-based execute control"),
        ignored(11),
        *((reserved(shift - 1, 12),) if shift > 12 else ()),
        bits("ADDRESS", 51, shift, "physical address of the page"),
        ignored(62, 52),
        bit("SVE", 63, "suppress #VE"),
        source='SDM 3C, "EPT Translation Mechanism"',
    )


EPT_PML5E = _ept_table("EPT PML5E", has_leaf_form=False)
EPT_PML4E = _ept_table("EPT PML4E", has_leaf_form=False)
EPT_PDPTE = _ept_table("EPT PDPTE", has_leaf_form=True)
EPT_PDE = _ept_table("EPT PDE", has_leaf_form=True)
EPT_PDPTE_1GIB = _ept_leaf("EPT PDPTE 1 GiB", 30)
EPT_PDE_2MIB = _ept_leaf("EPT PDE 2 MiB", 21)
EPT_PTE = _ept_leaf("EPT PTE", 12)

EPTP = Layout(
    "EPTP",
    64,
    bits("MT", 2, 0, "memory type of the EPT paging structures", values=_TYPES),
    bits("WALK", 5, 3, "page-walk length minus 1"),
    bit("AD", 6, "enable accessed and dirty flags"),
    bit("SSS", 7, "enforce access rights of supervisor shadow-stack pages"),
    reserved(11, 8),
    bits("ADDRESS", 51, 12, "physical address of the EPT PML4 table"),
    reserved(63, 52),
    source='SDM 3C, "Extended-Page-Table Pointer (EPTP)"',
)
EP4TA_MASK = EPTP.mask("ADDRESS")
"""EPTP bits 51:12: all that tags guest-physical and combined mappings."""
EPTP_AD = EPTP.mask("AD")
EPT_PERMISSIONS = EPT_PTE.mask("R", "W", "X")
EPT_MEMORY_TYPE = EPT_PTE["MT"]
EPT_IPAT = EPT_PTE.mask("IPAT")
EPT_A, EPT_D = EPT_PTE.mask("A"), EPT_PTE.mask("D")
