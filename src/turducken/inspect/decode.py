"""Single values, field by field: ``turducken pt decode``."""

from dataclasses import dataclass, replace
from difflib import get_close_matches

from turducken.arch import registers
from turducken.bits import Kind, Layout
from turducken.inspect import entry_layouts as wide
from turducken.inspect.errors import InspectError
from turducken.paging import entries as e

LAYOUTS: dict[str, Layout | tuple[Layout, Layout]] = {
    "ept.pml5e": e.EPT_PML5E,
    "ept.pml4e": e.EPT_PML4E,
    "ept.pdpte": (e.EPT_PDPTE, wide.EPT_PDPTE_1GIB),
    "ept.pde": (e.EPT_PDE, wide.EPT_PDE_2MIB),
    "ept.pte": wide.EPT_PTE,
    "eptp": e.EPTP,
    "pml5e": wide.PML5E,
    "pml4e": wide.PML4E,
    "pdpte": (wide.PDPTE, wide.PDPTE_1GIB),
    "pde": (wide.PDE, wide.PDE_2MIB),
    "pte": wide.PTE,
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
"""Entries and registers; pairs are (references a table, maps a page), by bit 7."""

ANY_PHYSICAL_ADDRESS = 52
"""Physical-address bits that reserve nothing."""

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
    notes: tuple[str, ...] = ()
    """What it means for the processor, in sentences."""


def all_kinds() -> tuple[str, ...]:
    """Return everything that a value can be decoded as."""
    from turducken.inspect import vmx_kinds

    return (*LAYOUTS, *vmx_kinds.KINDS)


def layout_for(kind: str, value: int) -> Layout:
    """Return the layout called ``kind`` that is right for ``value``."""
    from turducken.inspect import vmx_kinds

    layout = LAYOUTS.get(kind) or vmx_kinds.LAYOUTS.get(vmx_kinds.BY_NUMBER.get(kind, kind))
    if layout is None:
        close = get_close_matches(kind, all_kinds(), 4, 0.5) or list(LAYOUTS)[:4]
        raise InspectError(f"--as {kind}: not known; --help lists all: {', '.join(close)} ...")
    if isinstance(layout, tuple):
        return layout[1 if value & _PAGE_BIT else 0]
    return layout


def decode(value: int, kind: str, maxphyaddr: int = ANY_PHYSICAL_ADDRESS) -> Decoded:
    """Decode ``value`` as ``kind``, one of `all_kinds` (or ``qualification.48`` and the like).

    >>> [field.text for field in decode(0x1234037, "ept.pte").fields if field.name == "MT"]
    ['WB']
    >>> decode(0x1234032, "ept.pte").notes[0].split(" (")[0]
    'misconfigured: writable but not readable'
    """
    from turducken.inspect import judgement, vmx_kinds

    kind = kind.lower()
    if kind in vmx_kinds.CAPABILITIES:
        return _decode_capability(value, kind)
    layout = layout_for(kind, value)
    found = decode_as(value, layout)
    notes = tuple(judgement.notes_on(kind, value, layout, maxphyaddr))
    # What must be 1 is no mistake where it is.
    right = vmx_kinds.CONTROLS[kind].default1 if kind in vmx_kinds.CONTROLS else 0
    return replace(found, notes=notes, reserved=found.reserved & ~right)


def _decode_capability(value: int, kind: str) -> Decoded:
    from turducken.inspect import vmx_kinds

    controls = vmx_kinds.CAPABILITIES[kind]
    fields = tuple(
        DecodedField(name, place, place, value >> 32 >> place & 1, setting, "")
        for place, name, setting in vmx_kinds.permitted(value, controls)
    )
    source = 'SDM 3D, "VMX Capability Reporting Facility"'
    return Decoded(value, kind.removeprefix("msr."), source, fields, 0)


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
