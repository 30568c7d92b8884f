"""Which changes of an entry need an invalidation, by the manual; and how findings cite it."""

from dataclasses import dataclass

from turducken.paging import entries as e
from turducken.paging.formats import BoundFormat

_P, _RW, _US, _XD = (e.PTE.mask(one) for one in ("P", "R/W", "U/S", "XD"))
_TYPE = e.PTE.mask("PWT", "PCD")
_PAT = e.PTE.mask("PAT")
_LARGE_PAT = e.PDE_2MIB.mask("PAT")
_KEY = e.PTE.mask("PK")
_EPT_RIGHTS = e.EPT_PERMISSIONS
_XU = e.EPT_PTE.mask("XU")
_EPT_TYPE = e.EPT_PTE.mask("MT", "IPAT")

INVEPT_GUIDELINES = 'SDM 3C, "Guidelines for Use of the INVEPT Instruction"'
INVVPID_GUIDELINES = 'SDM 3C, "Guidelines for Use of the INVVPID Instruction"'
RECOMMENDED = 'SDM 3A, "Recommended Invalidation"'
PROPAGATION = 'SDM 3A, "Propagation of Paging-Structure Changes to Multiple Processors"'
OPERATIONS = 'SDM 3C, "Operations that Invalidate Cached Mappings"'


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the manual's: ``what`` happened, in a form that follows "the change"."""

    id: str
    what: str
    citation: str
    missing: str
    is_lasting: bool = False
    """Every use counts, even one that comes out as it would without the change."""
    only_writes: bool = False


def _ept(id_: str, what: str, *, is_lasting: bool = False, only_writes: bool = False) -> Rule:
    return Rule(id_, what, INVEPT_GUIDELINES, "INVEPT", is_lasting, only_writes)


def _guest(id_: str, what: str) -> Rule:
    return Rule(id_, what, RECOMMENDED, "INVLPG")


EPT_RULES = {
    one.id: one
    for one in (
        _ept("permission-cleared", "takes a permission away"),
        _ept("address-changed", "leads to another address"),
        _ept("size-changed", "makes a page of a table or a table of a page", is_lasting=True),
        _ept("type-changed", "gives another memory type"),
        _ept("accessed-cleared", "clears the accessed flag", is_lasting=True),
        _ept("dirty-cleared", "clears the dirty flag", is_lasting=True, only_writes=True),
        _ept("table-reused", "puts another use into a table that was taken out of use"),
        _ept("flags-enabled", "turns accessed and dirty flags on for tables used without them"),
    )
}
GUEST_RULES = {
    one.id: one
    for one in (
        _guest("not-present", "marks the entry not present"),
        _guest("permission-cleared", "takes a permission away"),
        _guest("address-changed", "leads to another address"),
        _guest("size-changed", "makes a page of a table or a table of a page"),
        _guest("type-changed", "gives another memory type"),
        _guest("key-changed", "gives another protection key"),
        _guest("table-reused", "puts another use into a table that was taken out of use"),
    )
}
OTHER_RULES = {
    one.id: one
    for one in (
        Rule("vpid-reused", "is for another address space", INVVPID_GUIDELINES, "INVVPID"),
        Rule("pcid-reused", "is for another address space", RECOMMENDED, "INVPCID or MOV to CR3"),
        Rule("flush-left-out", "was followed by what drops it", OPERATIONS, "INVVPID"),
        Rule("shadow-left-behind", "was followed by what drops it", OPERATIONS, "update of EPT02"),
    )
}


def rule_of(stage: str, id_: str) -> Rule:
    """Return a rule by its id."""
    return OTHER_RULES.get(id_) or (GUEST_RULES if stage == "guest" else EPT_RULES)[id_]


def classify(fmt: BoundFormat, level: int, before: int, after: int, *, flags: bool) -> str | None:
    """Return the id of the rule that asks for an invalidation, or None where none is needed.

    ``before`` was cached (so it was present) from an entry of ``level``; ``flags``: EPT's accessed
    and dirty flags are in use.
    """
    if before == after:
        return None
    if fmt.is_ept:
        return _classify_ept(fmt, level, before, after, flags=flags)
    return _classify_guest(fmt, level, before, after)


def _classify_ept(
    fmt: BoundFormat, level: int, before: int, after: int, *, flags: bool
) -> str | None:
    one = fmt.levels[level]
    rights = _EPT_RIGHTS | (_XU if fmt.features.mode_based_execute else 0)
    if before & ~after & rights:
        return "permission-cleared"
    is_leaf = bool(before & one.leaf_mask)
    if is_leaf != bool(after & one.leaf_mask):
        return "size-changed"
    if (before ^ after) & (one.leaf_address if is_leaf else one.table_address):
        return "address-changed"
    if is_leaf and (before ^ after) & _EPT_TYPE:
        return "type-changed"
    if flags and before & ~after & e.EPT_A:
        return "accessed-cleared"
    if flags and is_leaf and before & ~after & e.EPT_D:
        return "dirty-cleared"
    return None


def _classify_guest(fmt: BoundFormat, level: int, before: int, after: int) -> str | None:
    """SDM 3A, "Optional Invalidation", names what is absent here: more rights, flags cleared."""
    one = fmt.levels[level]
    if not after & _P:
        return "not-present"
    is_leaf = bool(before & one.leaf_mask)
    if is_leaf != bool(after & one.leaf_mask):
        return "size-changed"
    if (before ^ after) & (one.leaf_address if is_leaf else one.table_address):
        return "address-changed"
    if before & ~after & (_RW | _US) & ~one.neutral or after & ~before & _has_xd(fmt):
        return "permission-cleared"
    if is_leaf:
        pat = _PAT if one.shift == 12 else _LARGE_PAT
        if (before ^ after) & (_TYPE | pat):
            return "type-changed"
        if (before ^ after) & _KEY and fmt.address_bits > 32:
            return "key-changed"
    return None


def _has_xd(fmt: BoundFormat) -> int:
    return _XD if fmt.entry_size == 8 and fmt.features.nx else 0
