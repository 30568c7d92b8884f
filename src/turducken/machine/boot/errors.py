"""What is wrong with an image, in one line for the user."""

from turducken.errors import UserError


class ImageError(UserError):
    """An image, a module, or the memory for them cannot be used; the text is one clear line."""
