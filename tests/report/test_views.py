"""The views of a run in progress: what a terminal shows, and what a pipe gets."""

import io

import pytest
from rich.console import Console as Terminal
from tiny_images import SPIN, say, tiny

from turducken.report.live import LiveView, console_line
from turducken.report.plain import PlainView
from turducken.system import Mode, Stops, System, SystemOptions

ERASED = "\x1b[1A\x1b[2K"


def system(code: bytes = SPIN) -> System:
    return System(SystemOptions(tiny(code), Mode.BARE, memory=16 << 20))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
        ("\x1b]0;title\x07", "^[]0;title^G"),
        ("a\rb\x7f\x9b2J", "a^Mb^?M-^[2J"),
        ("tab\tand é", "tab\tand é"),
    ],
)
def test_a_guests_escape_sequences_are_shown_and_not_obeyed(line: str, shown: str) -> None:
    assert console_line(line).plain == shown


def test_the_live_view_erases_what_a_narrower_terminal_has_wrapped() -> None:
    output = io.StringIO()
    terminal = Terminal(file=output, force_terminal=True, width=100, height=50)
    view = LiveView(terminal, system())
    with view:
        view.turn()
        height = output.getvalue().count("\n") + 1
        view._next = 0.0
        start = output.tell()
        terminal.width = 40
        view.turn()
    drawn = output.getvalue()[start:]
    assert drawn.startswith(ERASED * 2 * height)  # each line of 100 columns is now three lines


def test_the_live_view_draws_a_run() -> None:
    output = io.StringIO()
    terminal = Terminal(file=output, force_terminal=True, width=100, height=50)
    one = system(say("hello\x1b[2J\n") + SPIN)
    with LiveView(terminal, one) as view:
        one.run(Stops(max_instructions=10_000), view.turn)
        view.tell("told")
    assert "hello^[[2J" in output.getvalue()
    assert "told" in output.getvalue()


def test_progress_is_told_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    one = system(say("hello\n") + SPIN)
    with PlainView(one, interval=0.0) as view:
        one.run(Stops(max_instructions=2_000_000), view.turn)
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert "M instructions, " in err.splitlines()[0]
