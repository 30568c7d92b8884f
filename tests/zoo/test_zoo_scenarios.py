"""Every faulty form is caught, by what it should be caught by; every fixed form is clean."""

import re
from pathlib import Path

import pytest

from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.system import Mode, System, SystemOptions, find_image
from turducken.zoo import (
    SCENARIOS,
    Conditions,
    Culprit,
    Form,
    Scenario,
    UnknownScenarioError,
    find_scenario,
    run_form,
)
from turducken.zoo.planted import PLANTED

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_faulty_form_is_caught(name: str) -> None:
    scenario = SCENARIOS[name]
    result = run_form(scenario, Form.FAULTY)
    assert result.behaved
    assert result.shows is bool(scenario.failure), result.evidence
    assert result.is_found is (scenario.rule is not None), result.findings
    assert bool(result.problems) is result.is_found


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_fixed_form_is_clean(name: str) -> None:
    result = run_form(SCENARIOS[name], Form.FIXED)
    assert result.behaved, (result.evidence, result.problems)
    assert result.passed


OF_L1 = [name for name, one in SCENARIOS.items() if one.culprit is not Culprit.L0 and one.failure]
HIDDEN_BY_SHADOWS = {"flags-turned-on-without-invept", "table-reused-before-invept"}
"""There is another EPT02 for each EPTP, and L0 walks EPT12 from its root for each page."""


@pytest.mark.slow
@pytest.mark.parametrize("shadow", ["cached", "eager"])
@pytest.mark.parametrize("name", OF_L1)
def test_l1s_mistakes_show_under_l0_too(name: str, shadow: ShadowPolicyName) -> None:
    conditions = Conditions(mode=Mode.NESTED, shadow=shadow)
    faulty = run_form(SCENARIOS[name], Form.FAULTY, conditions)
    assert faulty.shows is (name not in HIDDEN_BY_SHADOWS), faulty.evidence


@pytest.mark.slow
@pytest.mark.parametrize("tlb", ["drop", "finite", "random", "transitions", "broadcast"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_fixed_forms_are_clean_under_every_tlb_policy(name: str, tlb: str) -> None:
    result = run_form(SCENARIOS[name], Form.FIXED, Conditions(tlb=tlb, seed=5))
    assert result.behaved, result.evidence


@pytest.mark.slow
@pytest.mark.parametrize("shadow", POLICIES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_fixed_forms_are_clean_under_every_shadow_policy(
    name: str, shadow: ShadowPolicyName
) -> None:
    conditions = Conditions(mode=Mode.NESTED, shadow=shadow)
    result = run_form(SCENARIOS[name], Form.FIXED, conditions)
    assert result.behaved, result.evidence


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if one.cpus > 1])
def test_two_processors_need_no_luck(name: str, seed: int) -> None:
    for form in Form:
        result = run_form(SCENARIOS[name], form, Conditions(seed=seed))
        assert result.behaved
        assert result.shows is (form is Form.FAULTY)


def test_runs_repeat() -> None:
    scenario = find_scenario("handed-over-before-shootdown")
    first, second = (run_form(scenario, Form.FAULTY) for _ in range(2))
    assert (first.console, first.instructions) == (second.console, second.instructions)


def test_a_tlb_that_forgets_more_hides_the_mistake_but_not_from_the_sanitizer() -> None:
    result = run_form(find_scenario("invept-type-0"), Form.FAULTY, Conditions(tlb="drop"))
    assert result.passed
    assert not result.shows
    assert result.is_found


@pytest.mark.parametrize(
    "name",
    [
        "shrink-without-remote-invept",
        "handed-over-before-shootdown",
        "shootdown-waits-for-nobody",
    ],
)
def test_a_missing_shootdown_cannot_be_seen_where_invalidations_reach_everybody(name: str) -> None:
    result = run_form(find_scenario(name), Form.FAULTY, Conditions(tlb="broadcast"))
    assert result.passed
    assert result.is_found


def test_a_useless_invalidation_counts_in_the_scenario_itself_only() -> None:
    scenario = find_scenario("invept-executed-twice")
    faulty, fixed = (run_form(scenario, form) for form in Form)
    assert [one.kind for one in faulty.problems] == ["useless"]
    assert [one.kind for one in fixed.findings] == ["useless"]  # INVEPT of a new root, by lhv
    assert fixed.problems == ()


# The catalogue


def test_there_are_many_of_each_kind() -> None:
    by = [one.culprit for one in SCENARIOS.values()]
    assert len(SCENARIOS) >= 25
    assert all(by.count(one) >= 5 for one in Culprit)


def test_every_fault_of_l0_has_a_scenario() -> None:
    flags = [one.fault for one in SCENARIOS.values() if one.fault is not None]
    assert sorted(flags) == sorted(PLANTED)


def test_the_image_and_the_catalogue_have_the_same_scenarios() -> None:
    image = find_image("zoo-amd64")
    listed = System(SystemOptions(image, text="list")).run().console
    in_image = set(re.findall(r"^# zoo/(\S+)", listed, re.MULTILINE))
    own = [one for one in SCENARIOS.values() if one.image == "zoo-amd64"]
    assert in_image == {one.program or one.name for one in own}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda one: one.name)
def test_a_scenario_is_told_in_whole_sentences(scenario: Scenario) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", scenario.name)
    assert not scenario.title.endswith(".")
    for text in (scenario.story, scenario.faulty, scenario.fixed):
        assert text.endswith(".")
        assert "  " not in text
    assert len(scenario.story.split()) >= 35
    assert scenario.failure or scenario.rule


def test_the_documentation_lists_every_scenario_and_fault() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|([^|]*)\|", (DOCS / "zoo.md").read_text(), re.M)
    told = {name: fault.strip(" `") for name, fault in rows}
    assert told == {one.name: one.fault or "" for one in SCENARIOS.values()}


def test_l0s_documentation_names_the_scenario_of_every_fault() -> None:
    text = (DOCS / "hypervisor.md").read_text().split("## Faults planted in L0")[1]
    rows = re.findall(r"^\| `(\w+)` \| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert dict(rows) == {
        one.fault: one.name for one in SCENARIOS.values() if one.fault is not None
    }


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownScenarioError, match="did you mean page-above-4-gib"):
        find_scenario("page-above-4gb")
    with pytest.raises(UnknownScenarioError, match="zoo list"):
        find_scenario("qqq")
