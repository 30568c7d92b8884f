"""``python -m turducken.cli.pt``."""

import sys

from turducken.cli import main

sys.argv.insert(1, "pt")
main()
