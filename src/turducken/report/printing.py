"""Printing what Rich lays out, on terminals and elsewhere."""

import sys

from rich.console import Console as Terminal
from rich.console import RenderableType

_WIDTH = 120
"""Where standard output is no terminal."""


def make_terminal() -> Terminal:
    """Return standard output, as it is."""
    terminal = Terminal(highlight=False)
    if terminal.is_terminal and not terminal.is_dumb_terminal:
        return terminal
    return Terminal(highlight=False, width=_WIDTH, file=sys.stdout)


def print_plainly(view: RenderableType, terminal: Terminal | None = None) -> None:
    """Print; without blanks at the ends of lines where nobody can see them."""
    terminal = terminal or make_terminal()
    if terminal.is_terminal:
        terminal.print(view)
        return
    with terminal.capture() as capture:
        terminal.print(view)
    for line in capture.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")
