"""Running a command and turning whatever the user got wrong into one line and a status.

Statuses: 0 success, 1 the guest (or a check) failed, 2 bad usage or input, 3 a limit was reached,
70 a bug of ours (with a traceback), 74 output could not be written, 128 and a signal's number when
one ended the command.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from turducken.cli.complaints import in_our_words
from turducken.cli.errors import (
    BUG_STATUS,
    OUTPUT_STATUS,
    USAGE_STATUS,
    OutputError,
    one_line,
)
from turducken.cli.output import discard_standard_output, name_standard_output
from turducken.cli.signals import SIGNALS, Left, leave
from turducken.errors import UserError

_FINISHING = "run"
"""The command that ends its run when a signal comes, and still tells all; others just leave."""


def main() -> None:
    """Run the command line of the process, and end it."""
    name_standard_output()
    status = run(sys.argv[1:])
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    # Everything is written. Python's own way out takes a while and no longer heeds our signals.
    os._exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status. What went wrong is one line on standard error."""
    try:
        with _attention(arguments):
            status = _run(arguments)
            sys.stdout.flush()
        return status
    except OutputError as error:
        discard_standard_output()
        return _complain(str(error), OUTPUT_STATUS)
    except (Left, KeyboardInterrupt):
        SIGNALS.rest()
        return SIGNALS.exit_status


def _attention(arguments: Sequence[str]) -> AbstractContextManager[None]:
    is_run = next(iter(arguments), "") == _FINISHING
    return nullcontext() if is_run else SIGNALS.attend(leave)


def _run(arguments: Sequence[str]) -> int:
    import typer

    from turducken.cli.app import app

    # Typer brings a Click of its own from some version on: reach its classes by what it exports.
    click_exception: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        status = typer.main.get_command(app).main(
            list(arguments), prog_name="turducken", standalone_mode=False
        )
    except click_exception as error:
        return _complain(in_our_words(error.format_message()))  # type: ignore[attr-defined]
    except OutputError:
        raise
    except UserError as error:
        return _complain(str(error))
    except Exception:
        return _confess()
    return status if isinstance(status, int) else 0


def _confess() -> int:
    import traceback

    traceback.print_exc()
    print("turducken: this is a bug of turducken's: please report it", file=sys.stderr)
    return BUG_STATUS


def _complain(message: str, status: int = USAGE_STATUS) -> int:
    if message:  # without one, the help was printed instead
        print(f"turducken: {one_line(message)}", file=sys.stderr)
    return status
