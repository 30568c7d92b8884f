import dataclasses

import pytest
from vmx_support import capabilities

from turducken.vmx.gates import GATES, Instruction, Mode, Outcome, find_gate

ROOT = Mode(
    cr0=0x8000_0031,
    cr4=0x2020,
    rflags=2,
    efer=0xD00,
    cpl=0,
    is_cs_long=True,
    in_operation=True,
    in_guest=False,
    feature_control=5,
)
OUTSIDE = dataclasses.replace(ROOT, in_operation=False)
GUEST = dataclasses.replace(ROOT, in_guest=True)
I = Instruction  # noqa: E741 - the table below is about instructions
ORDINARY = [one for one in Instruction if one not in (I.VMXON, I.VMFUNC)]


def outcome(instruction, mode, profile="default", **changes):
    gate = find_gate(instruction, dataclasses.replace(mode, **changes), capabilities(profile))
    return gate and (gate.id, gate.outcome)


@pytest.mark.parametrize("instruction", ORDINARY, ids=lambda one: one.name)
def test_in_root_operation_at_cpl_0_they_execute(instruction):
    assert outcome(instruction, ROOT) is None


def test_vmxon_and_vmfunc():
    assert outcome(I.VMXON, OUTSIDE) is None
    assert outcome(I.VMXON, ROOT) is None
    assert outcome(I.VMFUNC, GUEST) is None
    assert outcome(I.VMFUNC, GUEST, cpl=3) is None
    assert outcome(I.VMFUNC, ROOT) == ("vmx.not-in-non-root", Outcome.UD)


@pytest.mark.parametrize("instruction", ORDINARY, ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"in_operation": False}, ("vmx.not-in-operation", Outcome.UD)),
        ({"in_operation": False, "cpl": 3}, ("vmx.not-in-operation", Outcome.UD)),
        ({"rflags": 0x2_0002, "efer": 0, "cpl": 3}, ("vmx.virtual-8086", Outcome.UD)),
        ({"is_cs_long": False}, ("vmx.compatibility-mode", Outcome.UD)),
        ({"is_cs_long": False, "efer": 0}, None),
        ({"cpl": 3}, ("vmx.cpl", Outcome.GP)),
        ({"cpl": 1}, ("vmx.cpl", Outcome.GP)),
    ],
)
def test_ordinary_instructions(instruction, changes, expected):
    assert outcome(instruction, ROOT, **changes) == expected


@pytest.mark.parametrize(
    "instruction", [one for one in ORDINARY if one is not I.VMCALL], ids=lambda one: one.name
)
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("vmx.non-root", Outcome.EXIT)),
        ({"cpl": 3}, ("vmx.non-root", Outcome.EXIT)),
        ({"cr0": 0x20}, ("vmx.real-mode", Outcome.UD)),
        ({"rflags": 0x2_0002}, ("vmx.virtual-8086", Outcome.UD)),
        ({"is_cs_long": False}, ("vmx.compatibility-mode", Outcome.UD)),
    ],
)
def test_in_non_root_operation(instruction, changes, expected):
    assert outcome(instruction, GUEST, **changes) == expected


def test_vmcall_exits_in_every_guest_mode():
    for changes in ({}, {"cpl": 3}, {"cr0": 0x20}, {"rflags": 0x2_0002}, {"is_cs_long": False}):
        assert outcome(I.VMCALL, GUEST, **changes) == ("vmcall.non-root", Outcome.EXIT)


def test_invalidations_need_their_capability():
    assert outcome(I.INVEPT, ROOT, "minimal") == ("invept.unsupported", Outcome.UD)
    assert outcome(I.INVVPID, GUEST, "minimal") == ("invvpid.unsupported", Outcome.UD)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cr0": 0x30, "cr4": 0}, ("vmx.real-mode", Outcome.UD)),
        ({"cr4": 0x20, "cpl": 3}, ("vmxon.cr4-vmxe", Outcome.UD)),
        ({"rflags": 0x2_0002, "cpl": 3}, ("vmx.virtual-8086", Outcome.UD)),
        ({"is_cs_long": False}, ("vmx.compatibility-mode", Outcome.UD)),
        ({"cpl": 3, "feature_control": 0}, ("vmxon.cpl", Outcome.GP)),
        ({"is_a20_masked": True}, ("vmxon.a20", Outcome.GP)),
        ({"cr0": 0x8000_0011}, ("vmxon.cr0", Outcome.GP)),
        ({"cr0": 0x31}, ("vmxon.cr0", Outcome.GP)),
        ({"cr4": 0x80_2020}, ("vmxon.cr4", Outcome.GP)),
        ({"feature_control": 0}, ("vmxon.feature-control-lock", Outcome.GP)),
        ({"feature_control": 4}, ("vmxon.feature-control-lock", Outcome.GP)),
        ({"feature_control": 1}, ("vmxon.outside-smx", Outcome.GP)),
        ({"feature_control": 3}, ("vmxon.outside-smx", Outcome.GP)),
        ({"in_smx": True}, ("vmxon.in-smx", Outcome.GP)),
        ({"in_smx": True, "feature_control": 3}, None),
        ({"in_operation": True, "feature_control": 0}, None),
        ({"in_operation": True, "cpl": 3}, ("vmx.cpl", Outcome.GP)),
        ({"in_operation": True, "in_guest": True, "cpl": 3}, ("vmx.non-root", Outcome.EXIT)),
    ],
)
def test_vmxon(changes, expected):
    assert outcome(I.VMXON, OUTSIDE, **changes) == expected


def test_gates_have_ids_of_their_own_and_instructions_their_exit_reason():
    assert len({gate.id for gate in GATES}) == len(GATES)
    assert {one.exit_reason.name for one in Instruction} == {one.name for one in Instruction}
