"""The sanitizer: who uses a translation that should have been invalidated, and who left that out.

`Sanitizer` follows a whole system. It keeps for every processor what one that drops nothing early
would hold (`views`), watches the table entries that this was made from (`watch`), and judges every
use of a translation whose entries have changed (`examiner`) by the manual's rules (`rules`).
"""

from turducken.check.findings import Finding
from turducken.check.sanitizer import Sanitizer

__all__ = ["Finding", "Sanitizer"]
