"""The command line: ``turducken COMMAND``. Each command has a module; `main` is the entry point."""

from turducken.cli.entry import main

__all__ = ["main"]
