"""A decoded value for people and as a record: nothing is imported that only whole tables need."""

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turducken.inspect.decode import Decoded


def decoded_view(one: Decoded) -> RenderableType:
    """Show a value field by field."""
    view = _table()
    for each in one.fields:
        bits = str(each.low) if each.high == each.low else f"{each.high}:{each.low}"
        style = "bold" if each.value else "dim"
        view.add_row(bits, Text(each.name, style), Text(each.text, style), each.doc)
    parts: list[RenderableType] = [Text(f"{one.value:#x} as {one.layout}", "bold"), view]
    parts += [Text(note, _style(note)) for note in one.notes]
    if one.reserved:
        places = ", ".join(str(bit) for bit in range(64) if one.reserved >> bit & 1)
        parts.append(Text(f"reserved bits set: {places}", "bold red"))
    return Group(*parts)


def _style(note: str) -> str:
    return "bold red" if note.startswith(("misconfigured:", "VM entry refuses")) else "bold"


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("bits", justify="right", no_wrap=True)
    for name in ("field", "value"):
        table.add_column(name, no_wrap=True)
    table.add_column("meaning")
    return table


def decoded_record(one: Decoded) -> dict[str, Any]:
    """Return a decoded value."""
    return {
        "value": f"{one.value:#x}",
        "layout": one.layout,
        "source": one.source,
        "fields": [
            {
                "name": each.name,
                "bits": [each.high, each.low],
                "value": f"{each.value:#x}",
                "text": each.text,
                "doc": each.doc,
            }
            for each in one.fields
        ],
        "notes": list(one.notes),
        "reserved_bits_set": [bit for bit in range(64) if one.reserved >> bit & 1],
    }
