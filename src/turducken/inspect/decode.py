"""Single values, field by field: ``turducken pt decode``."""

from dataclasses import dataclass

from turducken.arch import registers
from turducken.bits import Kind, Layout
from turducken.inspect.errors import InspectError
from turducken.paging import entries as e

LAYOUTS: dict[str, Layout | tuple[Layout, Layout]] = {
    "ept.pml4e": e.EPT_PML4E,
    "ept.pdpte": (e.EPT_PDPTE, e.EPT_PDPTE_1GIB),
    "ept.pde": (e.EPT_PDE, e.EPT_PDE_2MIB),
    "ept.pte": e.EPT_PTE,
    "eptp": e.EPTP,
    "pml5e": e.PML5E,
    "pml4e": e.PML4E,
    "pdpte": (e.PDPTE, e.PDPTE_1GIB),
    "pde": (e.PDE, e.PDE_2MIB),
    "pte": e.PTE,
    "pae.pdpte": e.PAE_PDPTE,
    "pae.pde": (e.PAE_PDE, e.PAE_PDE_2MIB),
    "pae.pte": e.PAE_PTE,
    "32.pde": (e.PDE32, e.PDE32_4MIB),
    "32.pte": e.PTE32,
    "cr0": registers.CR0,
    "cr3": registers.CR3,
    "cr4": registers.CR4,
    "efer": registers.EFER,
    "rflags": registers.RFLAGS,
}
"""What a value can be decoded as; pairs are (references a table, maps a page), by bit 7."""

_PAGE_BIT = 1 << 7


@dataclass(frozen=True, slots=True)
class DecodedField:
    """One field of a value: its bits are ``high:low``, ``text`` is what the manual calls it."""

    name: str
    high: int
    low: int
    value: int
    text: str
    doc: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A value by its layout; ``reserved`` holds the reserved bits that are set in it."""

    value: int
    layout: str
    source: str
    fields: tuple[DecodedField, ...]
    reserved: int


def layout_for(kind: str, value: int) -> Layout:
    """Return the layout called ``kind`` (a key of `LAYOUTS`) that is right for ``value``."""
    layout = LAYOUTS.get(kind.lower())
    if layout is None:
        raise InspectError(f"--as {kind}: not known; one of {', '.join(LAYOUTS)}")
    if isinstance(layout, tuple):
        return layout[1 if value & _PAGE_BIT else 0]
    return layout


def decode(value: int, kind: str) -> Decoded:
    """Decode ``value`` as ``kind``, a key of `LAYOUTS`.

    >>> [field.text for field in decode(0x1234037, "ept.pte").fields if field.name == "MT"]
    ['WB']
    """
    return decode_as(value, layout_for(kind, value))


def decode_as(value: int, layout: Layout) -> Decoded:
    """Decode ``value`` by ``layout``."""
    if value >> layout.width:
        raise InspectError(f"{value:#x} does not fit in the {layout.width} bits of {layout.name}")
    fields = tuple(
        DecodedField(
            one.name,
            one.high,
            one.low,
            # An address field's value is the address: its bits stay in their place.
            one.mask & value if one.name.startswith("ADDRESS") else one.get(value),
            f"{one.mask & value:#x}" if one.name.startswith("ADDRESS") else one.describe(value),
            one.doc,
        )
        for one in layout
        if one.kind is Kind.FIELD
    )
    return Decoded(value, layout.name, layout.source, fields, value & layout.reserved_mask)


def flags_of(value: int, layout: Layout) -> str:
    """Return the set one-bit fields and the named values of ``value``, as one short text.

    >>> flags_of(0x1234037, e.EPT_PTE)
    'R W X MT=WB'
    """
    parts = []
    for one in layout:
        if one.kind is not Kind.FIELD or one.name.startswith("ADDRESS"):
            continue
        if one.width == 1:
            parts += [one.name] if one.get(value) else []
        elif one.get(value) or one.values:
            parts.append(f"{one.name}={one.describe(value)}")
    return " ".join(parts)
