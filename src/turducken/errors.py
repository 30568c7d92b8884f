"""What a user can do something about, whichever layer notices it."""


class UserError(Exception):
    """Something that the user gave cannot be used; the text is one clear line."""
