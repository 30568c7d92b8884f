"""``python -m turducken.cli.pt``."""

from turducken.cli.pt import app

app()
