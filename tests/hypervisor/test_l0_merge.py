"""The table of VMCS12 -> VMCS02."""

import random

from nested_rig import Rig, Run

from turducken.hypervisor.merge import COPIED_CONTROL_SLOTS, RULES, How
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs_fields import FIELDS, FieldKind


def test_the_table_covers_every_field_once() -> None:
    assert set(RULES) == set(FIELDS.values())


def test_every_rule_but_copying_says_why_or_is_an_address() -> None:
    for field, rule in RULES.items():
        if rule.how in (How.COMPUTED, How.CARRIED, How.OWN):
            assert rule.why, field


def test_l0_owns_the_host_state_and_the_processor_the_exit_information() -> None:
    for field, rule in RULES.items():
        if field.kind is FieldKind.HOST:
            assert rule.how is How.OWN
        assert (field.kind is FieldKind.EXIT_INFORMATION) == (rule.how is How.PROCESSOR)


def test_the_copied_runs_are_the_copied_controls() -> None:
    slots = {slot for run in COPIED_CONTROL_SLOTS for slot in run}
    copied = {
        field.slot
        for field, rule in RULES.items()
        if rule.how is How.COPIED and field.kind is FieldKind.CONTROL
    }
    assert slots == copied


def test_an_entry_does_what_the_table_says() -> None:
    """Fill VMCS12 with noise where nothing is checked, enter, and look at VMCS02."""
    rig = Rig(Run(text="tests=ept-identity", shadow="cached"))
    rig.run()
    vcpu = rig.hypervisor.vcpus[0]
    context = vcpu.nested.current
    assert context is not None
    noise = random.Random(1)
    controls = vcpu.nested
    for field, rule in RULES.items():
        if rule.how is How.COPIED and field.kind is not FieldKind.EXIT_INFORMATION:
            context.vmcs12.write(field, noise.getrandbits(64))
    vcpu.vmcs01.write(f.GUEST_PAT, 0x0007_0406_0007_0401)
    vcpu.vmcs01.write(f.GUEST_DEBUGCTL, 0x2)
    before = {field: context.vmcs02.read(field) for field in FIELDS.values()}
    controls._prepare(context, context.vmcs12)
    controls._load_guest(context)
    for field, rule in RULES.items():
        value02, value12 = context.vmcs02.read(field), context.vmcs12.read(field)
        if rule.how is How.COPIED:
            assert value02 == value12, field
        elif rule.how in (How.OWN, How.PROCESSOR):
            assert value02 == before[field], field
    assert context.vmcs02.read(f.GUEST_PAT) == 0x0007_0406_0007_0401
    assert context.vmcs02.read(f.GUEST_DEBUGCTL) == 2
    assert context.vmcs02.read(f.VMCS_LINK_POINTER) == (1 << 64) - 1
    assert context.vmcs02.read(f.VPID) != vcpu.vmcs01.read(f.VPID)
    assert context.vmcs02.read(f.EPTP) not in (vcpu.ept01.eptp, context.vmcs12.read(f.EPTP))
