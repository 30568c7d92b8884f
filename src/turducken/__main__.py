"""``python -m turducken`` is the command ``turducken``."""

from turducken.cli import main

main()
