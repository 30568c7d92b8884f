"""The view of a run in progress on a terminal: the console scrolls, the machine stands below it."""

import re
import time

from rich import box
from rich.columns import Columns
from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from turducken.report.words import short_number, short_time, visible
from turducken.system import System
from turducken.system.assembly import level_of, state_name
from turducken.vmx.exit_reasons import name_of

_INTERVAL = 0.125
_UP_AND_ERASE = "\x1b[1A\x1b[2K"
_MOST_CPUS = 8
_MOST_REASONS = 8
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class LiveView:
    """Follows a system; use as a context manager and call `turn` after each turn of the machine."""

    def __init__(self, terminal: Terminal, system: System) -> None:
        self._terminal = terminal
        self._system = system
        self._live = Live(console=terminal, auto_refresh=False, transient=True)
        self._next = 0.0
        self._began = time.perf_counter()
        self._rates = _Rates(system)
        self._drawn: tuple[int, RenderableType] | None = None

    def __enter__(self) -> "LiveView":
        self._handler = self._system.console.subscribe(self._line)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update("", refresh=True)
        self._live.stop()
        self._system.console.unsubscribe(self._handler)
        if self._system.console.unfinished:
            self._line(self._system.console.unfinished)

    def _line(self, line: str) -> None:
        self._live.console.print(console_line(line), soft_wrap=True)

    def tell(self, text: str) -> None:
        """Show a paragraph among the console's lines."""
        self._live.console.print(Text(text, style="yellow"))

    def turn(self) -> None:
        """Draw, if it is time."""
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._rates.measure(now)
            self._leave_old_width()
            view = self._view(now - self._began)
            self._drawn = self._terminal.width, view
            self._live.update(view, refresh=True)

    def _leave_old_width(self) -> None:
        """Erase what a terminal that became narrower has made of the last frame: longer lines wrap.

        The frame's own lines are erased when the next one is drawn.
        """
        width = self._terminal.width
        if self._drawn is None or width >= self._drawn[0]:
            return
        before, view = self._drawn
        options = self._terminal.options.update(width=before)
        height = len(self._terminal.render_lines(view, options))
        wrapped = height * (-(-before // width) - 1)
        self._terminal.file.write(_UP_AND_ERASE * wrapped)

    def _view(self, seconds: float) -> RenderableType:
        system, rates = self._system, self._rates
        options = system.options
        head = Text.assemble(
            (options.image.name, "bold"),
            f"  {options.mode.value}   {short_time(seconds)}   ",
            f"{short_number(system.machine.instructions)} instructions at "
            f"{short_number(rates.instructions)}/s   {short_number(rates.exits)} exits/s",
        )
        parts: list[RenderableType] = [head, Columns([_processors(system), _exits(system)])]
        if system.console.unfinished:
            parts.insert(0, console_line(system.console.unfinished))
        return Panel(Group(*parts), box=box.ROUNDED, border_style="dim")


class _Rates:
    """Instructions and exits for each second of the host's, over the last interval."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._last = (time.perf_counter(), 0, 0)
        self.instructions = self.exits = 0.0

    def measure(self, now: float) -> None:
        machine = self._system.machine
        executed = machine.instructions
        exits = sum(sum(one.statistics.exits.values()) for one in machine.processors)
        then, executed_then, exits_then = self._last
        passed = max(now - then, 1e-6)
        self.instructions = (executed - executed_then) / passed
        self.exits = (exits - exits_then) / passed
        self._last = (now, executed, exits)


def console_line(line: str) -> Text:
    """Return a line of the guest's as it is shown: TAP results coloured, control codes visible.

    A guest's escape sequences would move the cursor out of the view, or worse.
    """
    text = Text(_CONTROLS.sub(lambda found: visible(ord(found[0])), line))
    if line.startswith("ok "):
        text.stylize("green", 0, 2)
    elif line.startswith(("not ok ", "Bail out!")):
        text.stylize("bold red")
    elif line.startswith("#"):
        text.stylize("dim")
    return text


def _processors(system: System) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cpu", "level", "state", "instructions"):
        table.add_column(name, justify="right" if name == "instructions" else "left")
    processors = system.machine.processors
    for one in processors[:_MOST_CPUS]:
        executed = short_number(one.engine.executed)
        table.add_row(str(one.index), level_of(system, one), state_name(one), executed)
    if len(processors) > _MOST_CPUS:
        table.add_row("...", "", f"and {len(processors) - _MOST_CPUS} more", "")
    return table


def _exits(system: System) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("VM exits")
    table.add_column("", justify="right")
    counts = sorted(system.exit_counts(), key=lambda one: -one.count)
    for one in counts[:_MOST_REASONS]:
        way = f"L{one.level} to {one.handler}"
        table.add_row(f"{way}  {name_of(one.reason)}", f"{one.count:,}")
    return table
