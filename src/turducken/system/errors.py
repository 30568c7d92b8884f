"""What is wrong with a request for a system, in one line for the user."""


class SetupError(Exception):
    """A system cannot be made as asked for; the text is one clear line."""
