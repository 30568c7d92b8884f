"""The remembering checker gives the answers of the plain list of rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entry_checks import ROWS
from vmx_support import BASELINES, LINKED, PDPT, VIRTUAL_APIC, Case, long_mode, pae_without_ept

from turducken.address import Hpa
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import EntryChecker, check_entry
from turducken.vmx.checks.checker import STABLE_GROUPS, changing_rules
from turducken.vmx.checks.entry import ALL_RULES
from turducken.vmx.checks.guest_registers import CR3_RULE
from turducken.vmx.checks.guest_state import LINK_RULES, RIP_RULES, STATE_RULES
from turducken.vmx.checks.injection import INJECTION_RULES
from turducken.vmx.checks.rules import EntryContext
from turducken.vmx.controls import Primary, Secondary
from turducken.vmx.vmcs import Vmcs
from turducken.vmx.vmcs_fields import FIELDS, FieldKind


def checked(checker, case):
    return checker.check(
        case.vmcs, case.memory, is_ia32e_mode=case.ia32e_mode, pointer=case.pointer
    )


def same(checker, case):
    """Check both ways; the failures must be of one area, and pass together."""
    plain, remembered = check_entry(case.context()), checked(checker, case)
    assert (plain and plain.area) == (remembered and remembered.area)
    if remembered is not None:
        assert not remembered.rule.check(case.context())
    return remembered


class RecordingContext(EntryContext):
    """Notes which fields a rule reads."""

    __slots__ = ("read",)

    def __init__(self, case):
        self.read = set()
        super().__init__(case.vmcs, case.capabilities, case.memory, is_ia32e_mode=case.ia32e_mode)
        self.read = set()

    def __getitem__(self, field):
        self.read.add(field)
        return super().__getitem__(field)


EXTRA_FIELDS = {
    "host": set(),
    "guest.segments": {f.GUEST_RFLAGS, f.GUEST_CR0},
    "guest.registers": set(),
    "guest.descriptor-tables": set(),
    "controls.execution": set(),
    "controls.exit": set(),
    "controls.entry": set(),
}
"""What a stable group's ``context_of`` answers for, beyond its slots and the control words."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_stable_rules_read_only_what_their_group_remembers(row):
    case = row.base()
    row.fault(case)
    for group in STABLE_GROUPS:
        for rule in group.rules:
            context = RecordingContext(case)
            rule.check(context)
            prefix = next(key for key in EXTRA_FIELDS if rule.id.startswith(key))
            outside = {one for one in context.read if one.slot not in group.run}
            assert outside <= EXTRA_FIELDS[prefix], rule


def test_every_rule_is_in_a_group_or_changing():
    stable = [rule for group in STABLE_GROUPS for rule in group.rules]
    changing = [*INJECTION_RULES, CR3_RULE, *RIP_RULES, *STATE_RULES, *LINK_RULES]
    rest = [rule.id for rule in ALL_RULES if rule not in stable and rule not in changing]
    assert rest == ["controls.execution.tpr-threshold-vtpr", "guest.pdptes.reserved"]


def test_the_run_of_checked_slots_holds_what_rules_read():
    free = {
        f.GUEST_RIP,
        f.GUEST_RFLAGS,
        f.GUEST_CR3,
        f.ENTRY_INTERRUPTION_INFORMATION,
        f.ENTRY_EXCEPTION_ERROR_CODE,
        f.ENTRY_INSTRUCTION_LENGTH,
    }
    seen = set()
    for row in ROWS:
        case = row.base()
        row.fault(case)
        for rule in ALL_RULES:
            context = RecordingContext(case)
            rule.check(context)
            seen |= context.read
    assert {one for one in seen if one.slot not in f.CHECKED_SLOTS} == free
    assert not {one for one in seen if one.kind is FieldKind.EXIT_INFORMATION}


@pytest.mark.parametrize("base", BASELINES, ids=lambda base: base.__name__)
def test_passes_again_and_again(base):
    case = base()
    checker = EntryChecker(case.capabilities)
    for _ in range(3):
        assert same(checker, case) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_fault_is_seen_after_a_pass_and_a_pass_after_a_fault(row):
    good, bad = row.base(), row.base()
    row.fault(bad)
    checker = EntryChecker(bad.capabilities)
    if bad.capabilities is good.capabilities:
        assert checked(checker, good) is None
    assert same(checker, bad) is not None
    assert same(checker, bad) is not None
    if bad.capabilities is good.capabilities:
        assert checked(checker, good) is None


def test_memory_outside_the_vmcs_is_read_every_time():
    case = long_mode()
    checker = EntryChecker(case.capabilities)
    case.set_bits(f.PRIMARY_CONTROLS, Primary.USE_TPR_SHADOW)
    case[f.VIRTUAL_APIC_ADDRESS], case[f.TPR_THRESHOLD] = VIRTUAL_APIC, 5
    case.memory.write(VIRTUAL_APIC + 0x80, b"\x50")
    assert same(checker, case) is None
    case.memory.write(VIRTUAL_APIC + 0x80, b"\x40")
    assert same(checker, case).rule.id == "controls.execution.tpr-threshold-vtpr"

    case = long_mode()
    case[f.VMCS_LINK_POINTER] = LINKED
    case.memory.store(LINKED, 4, case.capabilities.revision)
    assert same(checker, case) is None
    case.memory.store(LINKED, 4, 0)
    assert same(checker, case).rule.id == "guest.non-register.link-revision"

    case = pae_without_ept()
    assert same(checker, case) is None
    case.memory.store(PDPT, 8, 3)
    assert same(checker, case).rule.id == "guest.pdptes.reserved"


def test_the_mode_of_the_processor_counts():
    case = long_mode()
    checker = EntryChecker(case.capabilities)
    assert same(checker, case) is None
    case.ia32e_mode = False
    assert same(checker, case).rule.id.startswith("host.address-space.")


def test_many_vmcss_are_remembered_apart():
    case = long_mode()
    checker = EntryChecker(case.capabilities)
    for number in range(600):
        other = Vmcs(case.memory, Hpa(0x10000 + 0x1000 * (number % 200)))
        for run in f.SLOT_RUNS.values():
            other.unpack(run, case.vmcs.pack(run))
        other.write(f.GUEST_RIP, number)
        other.write(f.VPID, number + 1)
        assert checker.check(other, case.memory, is_ia32e_mode=True) is None
        other.write(f.VPID, 0)
        assert checker.check(other, case.memory, is_ia32e_mode=True) is not None


INTERESTING = st.sampled_from(
    [0, 1, 2, 3, 0x10, 0x202, 0x302, 0x1000, 0x2_0002, 0x8000_0031, 0x8000_0202, 0x8000_0B0E,
     1 << 32, 1 << 46, 1 << 47, 0xFFFF_8000_0000_0000, 2**64 - 1]
)  # fmt: skip
EDIT = st.tuples(st.sampled_from(list(FIELDS.values())), INTERESTING, st.booleans())


@settings(max_examples=300)
@given(st.sampled_from(BASELINES), st.lists(EDIT, max_size=12))
def test_random_edits_follow_the_plain_list(base, edits):
    case: Case = base()
    checker = EntryChecker(case.capabilities)
    same(checker, case)
    for field, value, restore in edits:
        before = case[field]
        case[field] = value
        same(checker, case)
        if restore:
            case[field] = before
            same(checker, case)


def test_what_is_skipped_cannot_fail():
    """The rules that `changing_rules` leaves out hold whenever it leaves them out."""
    for base in BASELINES:
        for row in ROWS:
            case = base()
            row.fault(case)
            context = case.context()
            kept = {rule for _, rules in changing_rules(context) for rule in rules}
            stable = {rule for group in STABLE_GROUPS for rule in group.rules}
            for rule in ALL_RULES:
                if rule not in kept | stable:
                    assert rule.check(context), rule


def test_injections_are_remembered_with_what_they_depend_on():
    case = long_mode()
    checker = EntryChecker(case.capabilities)
    case[f.GUEST_RFLAGS] = 0x202
    assert same(checker, case) is None
    case[f.ENTRY_INTERRUPTION_INFORMATION] = 0x8000_0030
    for _ in range(3):
        assert same(checker, case) is None
    case[f.GUEST_RFLAGS] = 2
    assert same(checker, case).rule.id == "guest.rip-rflags.rflags-if"
    case[f.ENTRY_INTERRUPTION_INFORMATION] = 0
    assert same(checker, case) is None
    case[f.ENTRY_INTERRUPTION_INFORMATION] = 0x8000_0B0E
    assert same(checker, case) is None
    case[f.ENTRY_EXCEPTION_ERROR_CODE] = 1 << 16
    assert same(checker, case).rule.id == "controls.injection.error-code-reserved"


def test_inactive_secondary_controls_do_not_count():
    """A secondary control that the primary control does not activate is as good as 0."""
    case = long_mode()
    case.clear_bits(f.PRIMARY_CONTROLS, Primary.ACTIVATE_SECONDARY_CONTROLS)
    case.set_bits(f.SECONDARY_CONTROLS, Secondary.UNRESTRICTED_GUEST)
    assert case.context().secondary == 0
    assert not case.context().is_unrestricted
