"""The page: its sections, in the order in which somebody with a failed run wants them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from io import StringIO

from rich.console import Console, RenderableType

from turducken import __version__
from turducken.diagnosis import paragraph
from turducken.report import diagnoses
from turducken.report.page import tables
from turducken.report.page.gathering import Gathered
from turducken.report.page.markup import Markup, details, table, tag, text
from turducken.report.page.pictures import timeline, way_in_words
from turducken.report.state import state_text
from turducken.report.words import outcome_in_words, plural, short_number, short_time, visible
from turducken.system import Mode, ProcessorResult, Result, System
from turducken.vmx.exit_reasons import name_of

_PLACES_AT_ONCE, _MOST_PLACES = 15, 200
_MOST_OTHERS = 40
_STATE_WIDTH = 110
_CONSOLE_START, _CONSOLE_END = 20_000, 180_000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Extras:
    """What else there is: the command that ran, and what the sanitizer found (None: not asked)."""

    command: str = ""
    findings: Sequence[str] | None = field(default=None)


def page(system: System, result: Result, gathered: Gathered, extras: Extras) -> str:
    """Return the whole page."""
    sections = [
        ("why", "Why", _why(system, result)),
        ("state", "State at the end", _states(system)),
        ("timeline", "Timeline", timeline(gathered.bins)),
        ("exits", "Exits by reason", _exits(result)),
        ("places", "Exits by place", _places(gathered)),
        ("addresses", "Addresses", tables.ways(system, result, gathered)),
        ("tables", "Where pages landed", tables.maps(system)),
        ("sanitizer", "Sanitizer", _findings(extras.findings)),
        ("unclaimed", "Unanswered accesses", _unclaimed(system, result)),
        ("console", "Console", _console(result.console)),
        ("again", "Run it again", tag("pre", text(extras.command)) if extras.command else ""),
    ]
    there = [one for one in sections if one[2]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in there)
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{content}</section>'
        for name, title, content in there
    )
    title = f"{system.options.image.name}: {outcome_in_words(result)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_style()}</style></head>\n<body>"
        f"<header>{_head(system, result)}<nav>{links}</nav></header>\n<main>{body}</main>\n"
        f"<footer>turducken {__version__}</footer></body></html>\n"
    )


def _style() -> str:
    return resources.files(__package__).joinpath("style.css").read_text()


def _head(system: System, result: Result) -> str:
    options = system.options
    css = "outcome good" if result.exit_status == 0 else "outcome bad"
    shadow = f", EPT02 {options.shadow}" if options.mode is Mode.NESTED else ""
    facts = [
        ("system", f"{options.mode.value}, {plural(options.cpus, 'processor')}, profile "
         f"{options.profile.name}, TLB {options.tlb}{shadow}"),
        ("command line", system.boot_state.command_line),
        ("run", f"{short_number(result.instructions)} instructions, "
         f"{short_time(result.guest_nanoseconds / 1e9)} of guest time"),
    ]  # fmt: skip
    if options.apps:
        facts.append(("applications", ", ".join(one.text for one in options.apps)))
    facts += [(f"cpu{one.index}", _state(one)) for one in result.cpus[:16]]
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts)
    heading = tag("h1", text(options.image.name))
    return f"{heading}{tag('p', text(outcome_in_words(result)), css)}<dl>{rows}</dl>"


def _state(cpu: ProcessorResult) -> str:
    place = f" ({cpu.place})" if cpu.place else ""
    return f"{cpu.state}, at {cpu.rip:#x}{place}, {short_number(cpu.instructions)} instructions"


def _why(system: System, result: Result) -> str:
    fatal = diagnoses.fatal_of(result)
    describe = system.names.describe
    parts = [
        f'<pre class="fatal">{text(chr(10).join(paragraph(one, describe)))}</pre>' for one in fatal
    ]
    others = [one for one in result.diagnoses if one not in fatal]
    if others:
        shown = "".join(
            tag("pre", text("\n".join(paragraph(one, describe)))) for one in others[:_MOST_OTHERS]
        )
        more = len(others) - _MOST_OTHERS
        tail = tag("p", f"and {more:,} more (--json has all)", "note") if more > 0 else ""
        parts.append(details(f"{len(others):,} that the guest lived with", shown + tail))
    return "".join(parts)


def _states(system: System) -> str:
    """Return where each processor stands, as the summary has it, and all of the VMCSs."""
    whole = tag("pre", text(_printed(state_text(system, whole_vmcs=True))))
    return tag("pre", text(_printed(state_text(system, whole_vmcs=False)))) + details(
        "with all fields of the VMCS", whole
    )


def _printed(view: RenderableType) -> str:
    terminal = Console(file=StringIO(), width=_STATE_WIDTH, color_system=None)
    with terminal.capture() as capture:
        terminal.print(view)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())


def _exits(result: Result) -> str:
    most = max((one.count for one in result.exits), default=0)
    ordered = sorted(result.exits, key=lambda one: -one.count)
    rows = []
    for one in ordered:
        way = f"L{one.level} to {one.handler}"
        rows.append((way, name_of(one.reason), f"{one.count:,}", _bar(one.count, most)))
    return table(("way", "reason", "exits", ""), rows, frozenset({2})) if rows else ""


def _bar(value: int, most: int) -> Markup:
    width = 100 * value / most
    return Markup(f'<span class="bar" style="width:{width * 0.14:.2f}rem"></span>')


def _places(gathered: Gathered) -> str:
    if not gathered.places:
        return ""
    chosen = gathered.places.most_common(_MOST_PLACES)
    rows = [(place, way_in_words(way), f"{count:,}") for (way, place), count in chosen]
    head, numbers = ("from", "exit", "times"), frozenset({2})
    first, rest = rows[:_PLACES_AT_ONCE], rows[_PLACES_AT_ONCE:]
    more = len(gathered.places) - len(chosen)
    tail = tag("p", f"and {more:,} more places", "note") if more else ""
    folded = details(f"{len(rest):,} more", table(head, rest, numbers) + tail) if rest else ""
    return table(head, first, numbers) + folded


def _findings(findings: Sequence[str] | None) -> str:
    if findings is None:
        return ""
    if not findings:
        return tag("p", "no missing and no useless invalidations", "good")
    return "".join(tag("pre", text(one)) for one in findings)


def _unclaimed(system: System, result: Result) -> str:
    rows = [
        (one.kind.value, f"{one.address:#x}", one.size, f"{one.value:#x}", f"cpu{one.cpu}",
         system.names.describe(one.rip) or f"{one.rip:#x}")
        for one in result.unclaimed[:200]
    ]  # fmt: skip
    head = ("access", "address", "bytes", "value", "by", "from")
    return table(head, rows, frozenset({1, 2, 3})) if rows else ""


def _console(console: str) -> str:
    if not console:
        return ""
    shown = console.replace("\r\n", "\n")
    if len(shown) > _CONSOLE_START + _CONSOLE_END:
        left_out = len(shown) - _CONSOLE_START - _CONSOLE_END
        middle = f"\n[... {left_out:,} characters ...]\n"
        shown = shown[:_CONSOLE_START] + middle + shown[-_CONSOLE_END:]
    return tag("pre", text(_CONTROLS.sub(lambda found: visible(ord(found[0])), shown)))
