"""Running a command and turning whatever the user got wrong into one line and a status.

Statuses: 0 success, 1 the guest (or a check) failed, 2 bad usage or input, 3 a limit was reached,
70 a bug of ours (with a traceback), 130 interrupted from the keyboard.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from turducken.cli.errors import BUG_STATUS, INTERRUPTED_STATUS, Interrupted, is_users, one_line
from turducken.system.result import USAGE_STATUS

# Typer brings a Click of its own from some version on: reach its classes through what it exports.
_CLICK_EXCEPTION: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line of the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status. What went wrong is one line on standard error."""
    from turducken.cli.app import app

    try:
        status = typer.main.get_command(app).main(
            list(arguments), prog_name="turducken", standalone_mode=False
        )
    except _CLICK_EXCEPTION as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # Whoever read our output has gone: what is still buffered has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _complain(str(error)) if is_users(error) else _confess()
    return status if isinstance(status, int) else 0


def _confess() -> int:
    traceback.print_exc()
    print("turducken: this is a bug of turducken's: please report it", file=sys.stderr)
    return BUG_STATUS


def _complain(message: str) -> int:
    if message:  # without one, the help was printed instead
        print(f"turducken: {one_line(message)}", file=sys.stderr)
    return USAGE_STATUS
