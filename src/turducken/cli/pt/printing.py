"""How the commands of ``turducken pt`` print results and mistakes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turducken.cli.errors import USAGE_STATUS
from turducken.cli.output import STDOUT, output_file
from turducken.errors import UserError
from turducken.memory import MemoryHoleError

if TYPE_CHECKING:
    from rich.console import RenderableType


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE|-", help="Write the result there; -: on standard output, alone."
    ),
]


def print_result(
    record: dict[str, Any], views: "tuple[RenderableType, ...]", json_to: str | None
) -> None:
    """Print a result for people, and write it as JSON where `--json` says."""
    with output_file("--json", json_to) as file:
        if file is not None:
            file.write((json.dumps(record, indent=2) + "\n").encode())
    if json_to == STDOUT:
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
    print(f"turducken: {message}", file=sys.stderr)
    raise typer.Exit(USAGE_STATUS)
