"""Which exceptions are the user's mistakes, and how they are told."""

from turducken.errors import UserError

USAGE_STATUS, BUG_STATUS, OUTPUT_STATUS = 2, 70, 74


class InputError(UserError):
    """Something that the user gave to a command cannot be used; the text is one clear line."""


class OutputError(Exception):
    """Something could not be written; the text is one line that names it."""


def one_line(text: str) -> str:
    """Return the text with line breaks and runs of blanks made single blanks."""
    return " ".join(text.split())
