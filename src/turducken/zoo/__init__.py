"""The scenario zoo: mistakes that broke real hypervisors, each small, named and replayable.

`SCENARIOS` are all of them, by name; `run_form` runs one form of one and tells whether it behaved
as it should: the faulty form is caught, the fixed one clean. docs/zoo.md tells how to add one.
"""

from turducken.zoo.catalogue import SCENARIOS, UnknownScenarioError, find_scenario
from turducken.zoo.running import Conditions, FormResult, options_for, run_form
from turducken.zoo.scenario import Culprit, Form, Scenario

__all__ = [
    "SCENARIOS",
    "Conditions",
    "Culprit",
    "Form",
    "FormResult",
    "Scenario",
    "UnknownScenarioError",
    "find_scenario",
    "options_for",
    "run_form",
]
