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
    from collections.abc import Callable

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
def progress(what: str) -> "Iterator[Callable[[float], None] | None]":
    """Show a bar on standard error, where that is a terminal, while long work goes on.

    Yields what is to be told how much is done (0 to 1); None where nobody looks.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda part: bar.update(task, completed=part)


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
