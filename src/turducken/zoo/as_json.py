"""Scenarios and results as JSON: the keys are documented in docs/json.md."""

from collections.abc import Sequence
from typing import Any

from turducken.zoo.running import FormResult
from turducken.zoo.scenario import Scenario


def scenario_as_dict(scenario: Scenario) -> dict[str, Any]:
    """Return what is known of a scenario before it runs."""
    return {
        "name": scenario.name,
        "by": scenario.culprit.value,
        "title": scenario.title,
        "story": scenario.story,
        "faulty": scenario.faulty,
        "fixed": scenario.fixed,
        "failure": scenario.failure,
        "rule": scenario.rule,
        "fault": scenario.fault,
        "image": scenario.image,
        "cpus": scenario.cpus,
        "memory": scenario.memory,
    }


def results_as_dict(pairs: Sequence[tuple[FormResult, ...]]) -> dict[str, Any]:
    """Return what running scenarios came to."""
    return {
        "behaved": all(one.behaved for results in pairs for one in results),
        "scenarios": [
            {
                "name": results[0].scenario.name,
                "behaved": all(one.behaved for one in results),
                "forms": {one.form.value: form_as_dict(one) for one in results},
            }
            for results in pairs
        ],
    }


def form_as_dict(result: FormResult) -> dict[str, Any]:
    """Return what one form came to."""
    return {
        "behaved": result.behaved,
        "passed": result.passed,
        "skipped": result.is_skipped,
        "shows": result.shows,
        "evidence": list(result.evidence),
        "found": result.is_found,
        "findings": [one.as_dict(result.names.describe) for one in result.findings],
        "mode": result.mode.value,
        "instructions": result.instructions,
        "host_seconds": round(result.host_seconds, 6),
        "console": result.console,
    }
