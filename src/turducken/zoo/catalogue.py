"""All scenarios by name, in the order in which they are told."""

import difflib

from turducken.zoo import by_guest, by_l0_state, by_l0_tables, by_l1
from turducken.zoo.scenario import Scenario

_GROUPS = (
    by_l1.SCENARIOS,
    by_guest.SCENARIOS,
    by_l0_tables.SCENARIOS,
    by_l0_state.SCENARIOS,
)

SCENARIOS: dict[str, Scenario] = {one.name: one for group in _GROUPS for one in group}


class UnknownScenarioError(Exception):
    """There is no scenario of that name; the text is one clear line."""


def find_scenario(name: str) -> Scenario:
    """Return a scenario by name; `UnknownScenarioError` suggests names that are close."""
    found = SCENARIOS.get(name)
    if found is not None:
        return found
    close = difflib.get_close_matches(name, SCENARIOS, n=3, cutoff=0.5)
    close = close or [one for one in SCENARIOS if name and name in one][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else "turducken zoo list shows them"
    raise UnknownScenarioError(f"{name}: no scenario of the zoo; {hint}")
