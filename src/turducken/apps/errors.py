"""What is wrong with an application as the user asked for it, in one line."""

from turducken.errors import UserError


class AppError(UserError):
    """The application cannot be used as asked for; the text is one clear line."""
