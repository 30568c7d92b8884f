"""What is wrong with an application as the user asked for it, in one line."""


class AppError(Exception):
    """The application cannot be used as asked for; the text is one clear line."""
