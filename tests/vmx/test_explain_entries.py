"""What a failed VM entry is told to have failed for: the rules, and the fields that they are about.

The faults are those of test_entry_checks: each is planted in a VMCS that passes.
"""

import random

import pytest
from test_entry_checks import ROWS
from vmx_support import BASELINES, long_mode

from turducken.diagnosis import Place, Sighting, as_dict, one_line, paragraph
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import check_entry
from turducken.vmx.explain import refused_entry

SUBJECTS_ELSEWHERE = {
    "host.address-space.legacy-processor-host": "IA-32e mode of the processor",
    "host.address-space.ia32e-processor-host": "IA-32e mode of the processor",
    "host.address-space.legacy-processor-guest": "IA-32e mode of the processor",
    "guest.non-register.link-current": "current-VMCS pointer",
    "guest.pdptes.reserved": "memory at",
    "guest.non-register.link-revision": "memory at",
    "guest.non-register.link-shadow": "memory at",
    "controls.execution.tpr-threshold-vtpr": "TPR threshold",
    "controls.execution.tsc-multiplier": "TSC multiplier",
}
"""Where the fault is in no field, or in one that turns on what another field lacks."""


def explained(row):
    before, case = row.base(), row.base()
    row.fault(case)
    context = case.context()
    failure = check_entry(context)
    changed = {one.name for one in f.FIELDS.values() if before[one] != case[one]}
    return failure, refused_entry(context, failure, operation="VMLAUNCH"), changed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_rule_and_field_of_every_planted_fault(row):
    failure, diagnosis, changed = explained(row)
    rule = diagnosis.rule
    assert rule.id == failure.rule.id
    assert diagnosis.rules[0] is rule
    subjects = {one.name for one in rule.readings if one.is_subject}
    known = SUBJECTS_ELSEWHERE.get(rule.id, "")
    assert subjects & changed or any(known and one.startswith(known) for one in subjects)
    section, _, names = row.broken.rpartition(".")
    assert {one.id for one in diagnosis.rules} == {f"{section}.{one}" for one in names.split()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_what_would_have_been_allowed_is_told(row):
    _, diagnosis, _ = explained(row)
    assert diagnosis.rule.allowed


def test_a_diagnosis_is_about_the_vmcs_as_it_was():
    case = long_mode()
    case[f.VPID] = 0
    context = case.context()
    diagnosis = refused_entry(context, check_entry(context), operation="VMLAUNCH")
    case[f.VPID] = 1
    case[f.HOST_CR0] = 0
    assert [one.id for one in diagnosis.rules] == ["controls.execution.vpid"]
    assert diagnosis.rule.readings[0].value == 0


def test_whatever_is_in_a_vmcs_can_be_told():
    choose = random.Random(11)
    for _ in range(60):
        case = choose.choice(BASELINES)()
        for one in choose.sample(list(f.FIELDS.values()), choose.choice((1, 20, 150))):
            case[one] = choose.getrandbits(64)
        context = case.context()
        failure = check_entry(context)
        if failure is None:
            continue
        diagnosis = refused_entry(context, failure, operation="VMRESUME")
        sighting = Sighting(diagnosis, Place(0, 1, 0, 0), 0, 1, 1)
        assert failure.rule.id in one_line(sighting, lambda _: None)
        assert len(paragraph(sighting, lambda _: "name")) > 2
        assert as_dict(sighting, lambda _: None)["rules"]
