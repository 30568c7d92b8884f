"""Small pieces of HTML."""

from collections.abc import Iterable, Sequence
from html import escape

Row = Sequence[object]


def tag(name: str, content: str, css: str = "") -> str:
    """Return an element around content that is HTML already."""
    attribute = f' class="{css}"' if css else ""
    return f"<{name}{attribute}>{content}</{name}>"


def text(value: object) -> str:
    """Return a value as HTML text."""
    return escape(str(value))


def table(head: Sequence[str], rows: Iterable[Row], numbers: frozenset[int] = frozenset()) -> str:
    """Return a table that scrolls for itself; columns in ``numbers`` are aligned to the right.

    A cell that is a `Markup` is HTML already.
    """
    heads = "".join(_cell("th", one, at in numbers) for at, one in enumerate(head))
    body = "".join(
        "<tr>" + "".join(_cell("td", one, at in numbers) for at, one in enumerate(row)) + "</tr>"
        for row in rows
    )
    inside = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _cell(name: str, value: object, is_number: bool) -> str:
    shown = value if isinstance(value, Markup) else text(value)
    return f"<{name}{' class=n' if is_number else ''}>{shown}</{name}>"


def details(title: str, content: str) -> str:
    """Return content that is folded away at first."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"
