"""The one exception that tools raise for their user's input."""

from turducken.errors import UserError


class InspectError(UserError):
    """Something the user gave cannot be used; the message is one complete line."""
