"""Numbers as users write them."""

from turducken.inspect.errors import InspectError


def parse_number(text: str, what: str) -> int:
    """Return the number that ``text`` gives, decimal or with 0x; K, M, G and T are accepted after.

    >>> parse_number("0x10", "address"), parse_number("2M", "size")
    (16, 2097152)
    """
    clean = text.strip().replace("_", "")
    scale = 1
    if clean[-1:].upper() in ("K", "M", "G", "T") and not clean.lower().startswith("0x"):
        scale = 1 << 10 * (1 + "KMGT".index(clean[-1].upper()))
        clean = clean[:-1]
    try:
        number = int(clean, 0) * scale
    except ValueError:
        raise InspectError(f"{what} {text!r} is not a number") from None
    if not 0 <= number < 1 << 64:
        raise InspectError(f"{what} {text!r} is not a 64-bit number")
    return number
