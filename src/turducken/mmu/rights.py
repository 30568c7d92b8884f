"""May this access use this mapping? SDM 3A, "Access Rights"; SDM 3C, "EPT Violations"."""

from dataclasses import dataclass

from turducken.paging import entries as e

READ, WRITE, FETCH = 0, 1, 2

_RW, _US, _XD = e.PTE.mask("R/W"), e.PTE.mask("U/S"), e.PTE.mask("XD")
_PK = e.PTE["PK"]

ERROR_P, ERROR_W, ERROR_U, ERROR_RSVD, ERROR_ID, ERROR_PK = (1 << n for n in range(6))
"""Bits of the page-fault error code: SDM 3A, "Page-Fault Exceptions"."""

EPT_NEEDED = e.EPT_PTE.mask("R"), e.EPT_PTE.mask("W"), e.EPT_PTE.mask("X")
"""The permission bit of an EPT entry that each kind of access needs."""

EPT_USER_FETCH = e.EPT_PTE.mask("XU")
"""What a fetch from a user-mode linear address needs, with mode-based execute control."""

EPT_RIGHTS = e.EPT_PERMISSIONS | EPT_USER_FETCH


@dataclass(slots=True)
class AccessMode:
    """The registers that decide access rights: CR0.WP, CR4.SMEP, SMAP, PKE, EFER.NXE, PKRU."""

    wp: bool = False
    smep: bool = False
    smap: bool = False
    nx: bool = False
    pke: bool = False
    pkru: int = 0


def is_allowed(
    mode: AccessMode, all_of: int, any_of: int, leaf: int, kind: int, *, user: bool, ac: bool
) -> bool:
    """Tell whether ordinary paging allows an access of ``kind``.

    ``all_of`` and ``any_of`` are the entries' intersection and union. ``user`` is a user-mode
    access (CPL 3 and not implicit); ``ac`` is RFLAGS.AC for explicit supervisor-mode data accesses.
    """
    user_page = all_of & _US
    if kind == FETCH:
        if mode.nx and any_of & _XD:
            return False
        return bool(user_page) if user else not (user_page and mode.smep)
    if user:
        if not user_page or (kind == WRITE and not all_of & _RW):
            return False
    else:
        if user_page and mode.smap and not ac:
            return False
        if kind == WRITE and mode.wp and not all_of & _RW:
            return False
    return not (mode.pke and user_page) or key_allows(mode, leaf, kind, user=user)


def key_allows(mode: AccessMode, leaf: int, kind: int, *, user: bool) -> bool:
    """Tell whether PKRU allows a data access to the user-mode address that ``leaf`` maps.

    SDM 3A, "Protection Keys": AD forbids data accesses, WD writes (supervisor ones with CR0.WP).
    """
    bits = mode.pkru >> 2 * _PK.get(leaf)
    if bits & 1:
        return False
    return not (bits & 2 and kind == WRITE and (user or mode.wp))


def not_present_error(mode: AccessMode, kind: int, *, user: bool, reserved: bool) -> int:
    """Return the error code of an access without a translation: an entry not present, or malformed.

    "If a reserved bit is set ... the P flag is 1."
    """
    code = ERROR_P | ERROR_RSVD if reserved else 0
    return code | _access_bits(mode, kind, user=user)


def rights_error(mode: AccessMode, all_of: int, leaf: int, kind: int, *, user: bool) -> int:
    """Return the error code of an access that `is_allowed` refuses.

    The PK flag says that PKRU forbids the access, whatever else does.
    """
    code = ERROR_P | _access_bits(mode, kind, user=user)
    if mode.pke and kind != FETCH and all_of & _US and not key_allows(mode, leaf, kind, user=user):
        code |= ERROR_PK
    return code


def _access_bits(mode: AccessMode, kind: int, *, user: bool) -> int:
    code = ERROR_W if kind == WRITE else 0
    code |= ERROR_U if user else 0
    if kind == FETCH and (mode.nx or mode.smep):
        code |= ERROR_ID
    return code
