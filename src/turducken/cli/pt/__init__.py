"""``turducken pt``: look at page tables and EPTs in dumps and stopped machines.

``python -m turducken.cli.pt`` is the same on its own. Every command opens a source and prints
either tables for people or, with ``--json``, the records that docs/pt.md describes.
"""

# Importing a module registers its commands, in the order in which ``--help`` lists them.
from turducken.cli.pt import looking, verdicts, writing  # noqa: F401
from turducken.cli.pt.session import app

__all__ = ["app"]
