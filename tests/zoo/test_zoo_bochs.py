"""The zoo's image on Bochs, a processor that none of us wrote: a third opinion on the scenarios."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from turducken.system import shipped_images
from turducken.zoo import SCENARIOS, Conditions, Culprit, Form, Scenario, run_form

pytestmark = [pytest.mark.slow, pytest.mark.bochs]

GUESTS = Path(__file__).parents[2] / "guests"
OF_LITTLE_MEMORY = [
    one for one in SCENARIOS.values() if one.culprit is not Culprit.L0 and one.memory < 1 << 30
]
NEEDS_L0 = [one.program or one.name for one in SCENARIOS.values() if one.needs_app]
FORGETS_PCIDS = "pcid-reused-without-flush"
"""Bochs drops all but global translations at MOV to CR3, whatever bit 63 says."""


def run_on_bochs(form: Form) -> set[str]:
    """Return the names of the scenarios that pass."""
    if not all(shutil.which(one) for one in ("bochs", "xorriso", "grub-mkimage")):
        pytest.skip("needs bochs, xorriso and GRUB")
    command = [
        str(GUESTS / "bochs" / "run"),
        str(shipped_images()["zoo-amd64"]),
        *("2", "corei7_haswell_4770", "240"),
        f"form={form.value} skip={','.join(NEEDS_L0)}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "1.." in done.stdout, done.stdout + done.stderr
    return set(re.findall(r"^ok \d+ - (\S+) cpu0$", done.stdout.replace("\r", ""), re.MULTILINE))


def test_fixed_forms_pass_on_bochs() -> None:
    passed = run_on_bochs(Form.FIXED)
    assert {one.name for one in OF_LITTLE_MEMORY} <= passed


def is_hidden_by_transitions(scenario: Scenario) -> bool:
    return run_form(scenario, Form.FAULTY, Conditions(tlb="transitions")).passed


def test_bochs_hides_what_flushes_at_every_transition_hide() -> None:
    hidden = {one.name for one in OF_LITTLE_MEMORY if is_hidden_by_transitions(one)}
    passed = run_on_bochs(Form.FAULTY) & {one.name for one in OF_LITTLE_MEMORY}
    assert passed - {FORGETS_PCIDS} == hidden
