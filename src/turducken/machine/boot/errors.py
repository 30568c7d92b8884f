"""What is wrong with an image, in one line for the user."""


class ImageError(Exception):
    """An image, a module, or the memory for them cannot be used; the text is one clear line."""
