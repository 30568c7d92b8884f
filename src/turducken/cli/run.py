"""``turducken run``: run an image, show what it does, and say how it ended."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import IO, Annotated

import typer

from turducken.cli import choices
from turducken.cli.errors import InputError, Interrupted
from turducken.cli.teaching import command_with
from turducken.report import as_json
from turducken.system import DEFAULT_IMAGE, DEFAULT_MODE, Result, Stops, System

_STDOUT = "-"

EXAMPLES = """\
 Examples

   turducken run                                    lhv-amd64, with all its tests
   turducken run lhv-i386-pae --cpus 2 --tlb random --seed 7
   turducken run lhv-amd64 --cmdline "tests=ept" --json result.json
   turducken run xen-4.17-amd64.gz --module any-file --memory 1G \\
       --cmdline "com1=115200 console=com1" --until "VMX enabled" --fail-on "Panic on CPU"

 Exit status

   0  the guest said success (debug-exit 0), or --until matched
   1  the guest failed: another debug-exit value, --fail-on, triple fault, all halted for good
   2  bad usage, image or profile
   3  --max-instructions was reached
"""

ConsoleOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write the guest's console there."
    ),
]
JsonOption = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write the result there."),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=choices.SHOW, help="Neither console nor summary."
    ),
]


def mount(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", cls=command_with(EXAMPLES))(run)


def run(
    image: choices.Image = DEFAULT_IMAGE,
    mode: choices.ModeOption = DEFAULT_MODE,
    cpus: choices.Cpus = 1,
    memory: choices.Memory = "256M",
    cmdline: choices.Cmdline = "",
    module: choices.Modules = [],  # noqa: B006 - Typer copies it
    profile: choices.ProfileOption = "default",
    tlb: choices.Tlb = "keep",
    shadow: choices.Shadow = "cached",
    seed: choices.Seed = 0,
    until: choices.Until = None,
    fail_on: choices.FailOn = None,
    max_instructions: choices.MaxInstructions = None,
    console: ConsoleOption = None,
    json: JsonOption = None,
    quiet: Quiet = False,
    watch: choices.Watch = [],  # noqa: B006 - Typer copies it
) -> int:
    """Run an image on the machine."""
    chosen = choices.SystemChoices(
        image, mode, cpus, memory, cmdline, tuple(module), profile, tlb, shadow, seed, tuple(watch)
    )
    stops = choices.make_stops(until, fail_on, max_instructions)
    if console == json == _STDOUT:
        raise InputError("--console - and --json -: standard output can take only one of them")
    options = chosen.resolve()
    with ExitStack() as files:
        console_file = files.enter_context(_output("--console", console))
        json_file = files.enter_context(_output("--json", json))
        system = System(options)
        if console_file is not None:
            system.console.on_byte = _byte_writer(console_file)
        shown = not quiet and _STDOUT not in (console, json)
        result = _run_shown(system, stops) if shown else _run(system, stops, _nothing)
        if json_file is not None:
            text = as_json.dump(as_json.result_as_dict(system, result))
            json_file.write(text.encode())
        return result.exit_status


def _nothing() -> None:
    """Show nothing."""


def _byte_writer(file: IO[bytes]) -> Callable[[int], None]:
    def write(byte: int) -> None:
        file.write(bytes((byte,)))
        if byte == ord("\n"):
            file.flush()

    return write


@contextmanager
def _output(option: str, where: str | None) -> Iterator[IO[bytes] | None]:
    """Open what an option names for writing, before anything runs."""
    if where is None:
        yield None
    elif where == _STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        try:
            file = open(where, "wb")  # noqa: SIM115 - closed below
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{option} {where}: {reason}") from None
        with file:
            yield file


def _run_shown(system: System, stops: Stops) -> Result:
    """Run with the console on standard output, and a live view where that is a terminal."""
    from rich.console import Console as Terminal

    from turducken.report.live import LiveView
    from turducken.report.plain import PlainView
    from turducken.report.summary import print_summary

    terminal = Terminal(highlight=False)
    if terminal.is_terminal and not terminal.is_dumb_terminal:
        with LiveView(terminal, system) as view:
            result = _run(system, stops, view.turn)
    else:
        terminal = Terminal(highlight=False, width=100, file=sys.stdout)
        with PlainView(system):
            result = _run(system, stops, _nothing)
    print_summary(terminal, system, result)
    return result


def _run(system: System, stops: Stops, on_turn: Callable[[], None]) -> Result:
    """Run; the interrupt key ends the run between two turns, so that views are left in order."""
    pressed = False

    def press(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def turn() -> None:
        if pressed:
            raise Interrupted
        on_turn()

    before = signal.signal(signal.SIGINT, press)
    try:
        return system.run(stops, turn)
    finally:
        signal.signal(signal.SIGINT, before)
