"""Scenarios and what their forms came to, for people."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from turducken.address import MIB
from turducken.report.words import plural, short_number, short_time
from turducken.system import DEFAULT_MODE, Mode
from turducken.zoo.running import FormResult
from turducken.zoo.scenario import Form, Scenario

_INDENT = (0, 0, 0, 2)
_MOST_LINES = 12


def list_view(scenarios: Sequence[Scenario]) -> Table:
    """Return one row for each scenario."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("scenario", "by", "the mistake"):
        table.add_column(name, no_wrap=name != "the mistake")
    for one in scenarios:
        table.add_row(one.name, one.culprit.value, one.title)
    return table


def story_view(scenario: Scenario) -> RenderableType:
    """Return the story: what went wrong, in whose software."""
    heading = Text(scenario.name, style="bold") + Text(f" ({scenario.culprit.value}): ")
    return Group(heading + Text(scenario.title), "", _paragraph(scenario.story), "")


def details_view(scenario: Scenario) -> RenderableType:
    """Return what the two forms do and how to run them."""
    parts: list[RenderableType] = [
        _form_text(scenario, Form.FAULTY),
        _form_text(scenario, Form.FIXED),
        "",
        *_caught_by(scenario),
        Text("runs as    ", style="bold") + Text(command_for(scenario, Form.FAULTY)),
    ]
    if scenario.fault is not None:
        flag = Text(f"{scenario.fault} (zoo/planted.py), which turducken zoo run plants in L0")
        parts.append(Text("with       ", style="bold") + flag)
    return Group(*parts)


def _caught_by(scenario: Scenario) -> list[Text]:
    heading, lines = Text("caught by  ", style="bold"), []
    if scenario.failure:
        lines.append(heading + Text(f"a line with: {scenario.failure}"))
    if scenario.rule is not None:
        lines.append(heading + Text(f"the sanitizer's finding: {scenario.rule}"))
    return lines


def command_for(scenario: Scenario, form: Form) -> str:
    """Return the command that runs the guest of a form by itself."""
    mode = "nested" if scenario.fault is not None else "bare"
    words = ["turducken run", scenario.image, f'--cmdline "{scenario.command_line(form)}"']
    words += [f"--mode {mode}"] if Mode(mode) is not DEFAULT_MODE else []
    words += [f"--cpus {scenario.cpus}"] if scenario.cpus > 1 else []
    words += [f"--memory {scenario.memory // MIB}M", "--sanitize"]
    return " ".join(words)


def result_view(result: FormResult) -> RenderableType:
    """Return what one form did, and what it was seen by."""
    parts: list[RenderableType] = [_form_text(result.scenario, result.form)]
    style = "green" if result.behaved else "bold red"
    parts.append(Padding(Text(verdict(result), style=style), _INDENT))
    shown = result.evidence[:_MOST_LINES]
    parts += [Padding(Text(line), (0, 0, 0, 4)) for line in shown]
    left = len(result.evidence) - len(shown)
    if left:
        parts.append(Padding(Text(f"and {plural(left, 'line')} more"), (0, 0, 0, 4)))
    for one in result.problems:
        parts.append(Padding(f"sanitizer: {one.text(result.names.describe)}", (0, 0, 0, 4)))
    parts += [Padding(Text(_facts(result), style="dim"), _INDENT), ""]
    return Group(*parts)


def verdict(result: FormResult) -> str:
    """Return in a word or two whether a form did what it should."""
    if result.is_skipped:
        return "could not run on this processor"
    if result.form is Form.FIXED:
        return "clean" if result.behaved else "NOT CLEAN"
    if result.shows:
        return "caught"
    if result.is_found:
        return "caught by the sanitizer"
    is_other = result.evidence or result.problems
    return "caught, but by something else" if is_other else "NOT CAUGHT"


def overview(pairs: Sequence[tuple[FormResult, ...]]) -> RenderableType:
    """Return one row for each scenario that was run, and a last line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("scenario", "by", *_forms_of(pairs), "sanitizer", "seen by"):
        table.add_column(name, no_wrap=name != "seen by")
    for results in pairs:
        scenario = results[0].scenario
        cells = [_verdict_cell(one) for one in results]
        seen = next((one.evidence[0] for one in results if one.evidence), "")
        rules = next((_rules_of(one) for one in results if one.problems), "")
        row = scenario.name, scenario.culprit.value, *cells, Text(rules), Text(seen)
        table.add_row(*row)
    good = sum(all(one.behaved for one in results) for results in pairs)
    style = "green" if good == len(pairs) else "bold red"
    text = f"{good} of {plural(len(pairs), 'scenario')} behaved as expected"
    return Group(table, Text(text, style=style))


def _forms_of(pairs: Sequence[tuple[FormResult, ...]]) -> list[str]:
    return [one.form.value for one in pairs[0]] if pairs else []


def _rules_of(result: FormResult) -> str:
    return ", ".join(dict.fromkeys(one.rule for one in result.problems))


def _verdict_cell(result: FormResult) -> Text:
    return Text(verdict(result), style="green" if result.behaved else "bold red")


def _form_text(scenario: Scenario, form: Form) -> RenderableType:
    text = scenario.faulty if form is Form.FAULTY else scenario.fixed
    return _paragraph(Text(f"{form.value}: ", style="bold") + Text(text), indent=0)


def _paragraph(text: str | Text, indent: int = 2) -> RenderableType:
    return Padding(text, (0, 0, 0, indent), expand=False)


def _facts(result: FormResult) -> str:
    scenario = result.scenario
    mode = f"{result.mode.value}, {plural(scenario.cpus, 'processor')}"
    count = short_number(result.instructions)
    return f"({mode}; {count} instructions in {short_time(result.host_seconds)})"
