"""Layouts of paging entries with the bits that a processor of ours ignores and others do not.

They have a meaning only where a control gives it to them: mode-based execution, sub-page write
permissions, guest-paging verification, paging-write, supervisor shadow stacks, HLAT.
"""

from turducken.bits import Field, Kind, Layout, bit, ignored
from turducken.paging import entries as e

_LEAF = (
    bit("VGP", 57, "verify guest paging, where that control is 1"),
    bit("PW", 58, "paging-write access, where EPT paging-write control is 1"),
    bit("SSS", 60, "supervisor shadow stack, where EPTP bit 7 is 1"),
)
_PTE = (*_LEAF, bit("SPP", 61, "sub-page write permissions, where that control is 1"))
_RESTART = bit("RESTART", 11, "HLAT paging is restarted as ordinary paging")


def with_bits(layout: Layout, *named: Field) -> Layout:
    """Return a layout in which bits that are ignored otherwise have names."""
    taken = sum(one.mask for one in named)
    fields: list[Field] = []
    for one in layout:
        if one.kind is Kind.IGNORED and one.mask & taken:
            places = range(one.low, one.high + 1)
            fields += [ignored(place) for place in places if not taken >> place & 1]
        else:
            fields.append(one)
    return Layout(layout.name, layout.width, *fields, *named, source=layout.source)


EPT_PDPTE_1GIB = with_bits(e.EPT_PDPTE_1GIB, *_LEAF)
EPT_PDE_2MIB = with_bits(e.EPT_PDE_2MIB, *_LEAF)
EPT_PTE = with_bits(e.EPT_PTE, *_PTE)
PML5E, PML4E, PDPTE, PDPTE_1GIB, PDE, PDE_2MIB, PTE = (
    with_bits(one, _RESTART)
    for one in (e.PML5E, e.PML4E, e.PDPTE, e.PDPTE_1GIB, e.PDE, e.PDE_2MIB, e.PTE)
)
