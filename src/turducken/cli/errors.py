"""Which exceptions are the user's mistakes, and how they are told."""

from turducken.apps import AppError
from turducken.cpu.engine.library import EngineError
from turducken.machine.boot import ImageError
from turducken.system import SetupError
from turducken.vmx.profile import ProfileError

BUG_STATUS = 70
INTERRUPTED_STATUS = 130


class InputError(Exception):
    """Something that the user gave cannot be used; the text is one clear line."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The user pressed the interrupt key."""


_USERS = (InputError, AppError, ImageError, SetupError, ProfileError, EngineError)


def is_users(error: Exception) -> bool:
    """Tell whether the text of ``error`` tells the user what to change."""
    return isinstance(error, _USERS)


def one_line(text: str) -> str:
    """Return the text with line breaks and runs of blanks made single blanks."""
    return " ".join(text.split())
