"""The one exception that tools raise for their user's input."""


class InspectError(Exception):
    """Something the user gave cannot be used; the message is one complete line."""
