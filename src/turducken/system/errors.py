"""What keeps a system from being made, and what takes a run from its course."""

from turducken.errors import UserError


class SetupError(UserError):
    """A system cannot be made as asked for; the text is one clear line."""


class CutShort(BaseException):
    """Raised by whoever ends a run from outside, where `Machine.end` alone has not sufficed.

    `System.run` ends there with the outcome that was asked for. It is no `Exception`, so that
    nothing on its way takes it for a failure of its own.
    """
