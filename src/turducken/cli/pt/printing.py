"""How the commands of ``turducken pt`` print results and mistakes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from turducken.cli.errors import USAGE_STATUS
from turducken.errors import UserError
from turducken.memory import MemoryHoleError

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_result(
    record: dict[str, Any], views: "tuple[RenderableType, ...]", *, as_json: bool
) -> None:
    """Print a result as JSON, or for people."""
    if as_json:
        print(json.dumps(record, indent=2))
        return
    from rich.console import Console

    # Not cut to 80 columns where nobody's terminal is.
    console = Console() if sys.stdout.isatty() else Console(width=240)
    for view in views:
        console.print(view)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user did wrong into one line on stderr and the status for it."""
    try:
        yield
    except MemoryHoleError as hole:
        _fail(f"the source has no memory at {hole.address:#x}")
    except (UserError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"turducken pt: {message}", file=sys.stderr)
    raise typer.Exit(USAGE_STATUS)
