"""``turducken zoo``: mistakes that broke real hypervisors, to look at and to run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, cast

import typer
from rich.console import Console as Terminal
from rich.status import Status

from turducken.cli import choices
from turducken.cli.errors import InputError
from turducken.cli.output import STDOUT, output_file
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with, group_with
from turducken.hypervisor import ShadowPolicyName
from turducken.report.as_json import dump
from turducken.report.printing import print_plainly
from turducken.system import Mode
from turducken.system.result import FAILURE_STATUS, SUCCESS_STATUS
from turducken.zoo import (
    SCENARIOS,
    Conditions,
    Form,
    FormResult,
    Scenario,
    UnknownScenarioError,
    find_scenario,
    options_for,
    run_form,
)
from turducken.zoo.as_json import results_as_dict, scenario_as_dict
from turducken.zoo.view import details_view, list_view, overview, result_view, story_view

EXAMPLES = """\
 Examples

   turducken zoo list
   turducken zoo run shrink-without-remote-invept      the story, the mistake, the cure
   turducken zoo run invept-type-0 --tlb transitions   what a TLB that forgets more hides
   turducken zoo run --all --json zoo.json
"""

RUN_EXAMPLES = """\
 Examples

   turducken zoo run page-reused-before-invept
   turducken zoo run entry-written-in-halves --form faulty
   turducken zoo run --all
"""

STATUSES = exit_statuses(
    {
        0: "everything behaved as expected: the faulty form was caught, the fixed one clean",
        1: "something did not",
    }
)

app = typer.Typer(
    cls=group_with(EXAMPLES, {}),
    help="Mistakes that broke real hypervisors: small, named, replayable, each with its cure.",
    add_completion=False,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A scenario of turducken zoo list.")]
JsonOption = Annotated[
    str | None, typer.Option(metavar="FILE|-", rich_help_panel=choices.SHOW, help="Write it there.")
]


@app.command("list", cls=command_with(exit_statuses()))
def list_scenarios(json: JsonOption = None) -> None:
    """List the scenarios."""
    with output_file("--json", json) as file:
        if file is not None:
            record = {"scenarios": [scenario_as_dict(one) for one in SCENARIOS.values()]}
            file.write(dump(record).encode())
    if json != STDOUT:
        print_plainly(list_view(list(SCENARIOS.values())))


@app.command("show", cls=command_with(exit_statuses()))
def show(name: Name) -> None:
    """Tell a scenario's story, and what its two forms do."""
    scenario = _find(name)
    print_plainly(story_view(scenario))
    print_plainly(details_view(scenario))


@app.command("run", cls=command_with(RUN_EXAMPLES + "\n" + STATUSES))
def run(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A scenario of turducken zoo list.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run every scenario.")] = False,
    form: Annotated[
        Form | None, typer.Option(help="Only this one; without it, the faulty and the fixed one.")
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Where L1's mistakes run (bare, unless you say); L0's run nested."),
    ] = None,
    tlb: choices.Tlb = "keep",
    shadow: choices.Shadow = "cached",
    seed: choices.Seed = 0,
    json: JsonOption = None,
) -> int:
    """Run a scenario, faulty and fixed, and tell what was seen."""
    if (name is None) is not everything:
        raise InputError("give the NAME of a scenario, or --all")
    conditions = Conditions(mode, tlb, cast(ShadowPolicyName, shadow), seed)  # checked by the run
    plan = _Plan(tuple(Form) if form is None else (form,), conditions, is_told=json != STDOUT)
    chosen = [_find(name)] if name is not None else list(SCENARIOS.values())
    options_for(chosen[0], plan.forms[0], conditions)  # complains before anything is told
    with output_file("--json", json) as file:
        pairs = _run_all(chosen, plan) if everything else [_run_one(chosen[0], plan)]
        if file is not None:
            file.write(dump(results_as_dict(pairs)).encode())
    return SUCCESS_STATUS if _all_behaved(pairs) else FAILURE_STATUS


@dataclass(frozen=True, slots=True)
class _Plan:
    """How scenarios are run."""

    forms: Sequence[Form]
    conditions: Conditions
    is_told: bool
    """People are to read of it on standard output."""


def _find(name: str) -> Scenario:
    try:
        return find_scenario(name)
    except UnknownScenarioError as error:
        raise InputError(str(error)) from None


def _run_one(scenario: Scenario, plan: _Plan) -> tuple[FormResult, ...]:
    """Run one scenario, and tell of each form when it has ended."""
    if plan.is_told:
        print_plainly(story_view(scenario))
    results = []
    for form in plan.forms:
        one = run_form(scenario, form, plan.conditions)
        results.append(one)
        if plan.is_told:
            print_plainly(result_view(one))
    return tuple(results)


def _run_all(chosen: Sequence[Scenario], plan: _Plan) -> list[tuple[FormResult, ...]]:
    """Run many, and show one row for each at the end."""
    pairs = []
    with Status("", console=Terminal(stderr=True)) as status:  # on terminals only
        for number, one in enumerate(chosen, 1):
            status.update(f"{number} of {len(chosen)}: {one.name}")
            pairs.append(_run_one(one, replace(plan, is_told=False)))
    if plan.is_told:
        print_plainly(overview(pairs))
    return pairs


def _all_behaved(pairs: Sequence[Sequence[FormResult]]) -> bool:
    return all(one.behaved for results in pairs for one in results)
