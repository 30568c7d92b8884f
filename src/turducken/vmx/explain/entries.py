"""VM entries that fail: every rule that the VMCS breaks, and what each of them read."""

from functools import partial

from turducken.arch import msr
from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks import GROUPS, Area, EntryContext, EntryFailure, Rule
from turducken.vmx.exit_information import EntryFailureQualification
from turducken.vmx.explain.allowed import allowed_by
from turducken.vmx.explain.fields import reading_of
from turducken.vmx.explain.recording import NotingContext, frozen
from turducken.vmx.instruction_errors import MEANINGS
from turducken.vmx.msr_lists import ENTRY_SIZE, MsrEntry, read_msr_area

_CONTROL_WORDS = (
    *(f.PIN_BASED_CONTROLS, f.PRIMARY_CONTROLS, f.SECONDARY_CONTROLS),
    *(f.EXIT_CONTROLS, f.ENTRY_CONTROLS),
)
_LOADING = 'SDM 3C, "Loading MSRs"'
_CONDITIONS: dict[Area, frozenset[f.VmcsField]] = {
    Area.CONTROLS: frozenset(
        {
            *(f.PIN_BASED_CONTROLS, f.PRIMARY_CONTROLS, f.SECONDARY_CONTROLS),
            *(f.EXIT_MSR_STORE_COUNT, f.EXIT_MSR_LOAD_COUNT, f.ENTRY_MSR_LOAD_COUNT),
        }
    ),
    Area.HOST: frozenset({f.EXIT_CONTROLS, f.ENTRY_CONTROLS}),
    Area.GUEST: frozenset({*_CONTROL_WORDS, f.GUEST_RFLAGS, f.ENTRY_INTERRUPTION_INFORMATION}),
}
"""Fields that say whether a rule applies, where it reads others too."""
_EVENT = frozenset({f.ENTRY_INTERRUPTION_INFORMATION})
_ALWAYS_SUBJECTS = {
    "guest.rip-rflags.rflags": frozenset({f.GUEST_RFLAGS}),
    "guest.rip-rflags.rflags-if": _EVENT,
    "guest.non-register.activity-event": _EVENT,
    "guest.non-register.interrupt-blocked": _EVENT,
    "guest.non-register.nmi-": _EVENT,
}
"""By the beginning of the rule's id."""
_NEVER_SUBJECTS = {
    "controls.injection.instruction-length": _EVENT,
    "controls.injection.error-code-reserved": _EVENT,
}
_IN_8086 = "8086"
"""The end of the ids of rules that apply only because RFLAGS.VM is 1, perhaps by mistake."""
_RELATION = ("need", "exclude")
"""Words of rules on controls that go together: all controls they read are their subject."""


def refused_entry(context: EntryContext, failure: EntryFailure, *, operation: str) -> Diagnosis:
    """Explain a VM entry that the checks refused; ``operation`` is VMLAUNCH or VMRESUME."""
    rules = partial(_broken_rules, frozen(context), failure.rule)
    if failure.error is not None:
        outcome = f"VMfailValid {failure.error}: {MEANINGS[failure.error]}"
        return Diagnosis(Kind.VMFAIL, operation, outcome, rules)
    qualification = EntryFailureQualification(failure.qualification)
    outcome = (
        f"VM-entry failure, exit reason 33: invalid guest state, qualification {qualification}"
    )
    if qualification is not EntryFailureQualification.OTHER:
        outcome += f" ({qualification.name.lower().replace('_', ' ')})"
    return Diagnosis(Kind.ENTRY_FAILURE, operation, outcome, rules)


def _broken_rules(context: EntryContext, reported: Rule) -> tuple[BrokenRule, ...]:
    found = [
        _broken(area, rule, context, is_reported=rule is reported)
        for area, rules in GROUPS
        for rule in rules
        if rule is reported or not rule.check(context)
    ]
    found.sort(key=lambda one: not one.is_reported)
    return tuple(found)


def _broken(area: Area, rule: Rule, context: EntryContext, *, is_reported: bool) -> BrokenRule:
    noting = NotingContext(context)
    rule.check(noting)
    subjects = subjects_of(area, rule, noting.fields)
    names = {one.name for one in subjects}
    field_names = {one.name for one in noting.fields}
    readings = [
        one._replace(is_subject=one.name in names or one.name not in field_names)
        for one in noting.noted.values()
    ]
    allowed, culprit = allowed_by(rule, context, subjects)
    first = culprit.name if culprit is not None else ""
    readings.sort(key=lambda one: (not one.is_subject, one.name != first))
    return BrokenRule(rule.id, rule.text, rule.citation, tuple(readings), allowed, is_reported)


def subjects_of(area: Area, rule: Rule, read: dict[f.VmcsField, int]) -> list[f.VmcsField]:
    """Return which of the fields that a rule read it is about."""
    if area is Area.CONTROLS and any(word in rule.text for word in _RELATION):
        return list(read)
    named = (some for key, some in _ALWAYS_SUBJECTS.items() if rule.id.startswith(key))
    always = {one for some in named for one in some}
    if rule.id.endswith(_IN_8086):
        always.add(f.GUEST_RFLAGS)
    conditions = _CONDITIONS[area] | _NEVER_SUBJECTS.get(rule.id, frozenset())
    found = [one for one in read if one in always or one not in conditions]
    return found or list(read)


# MSR loading


def msr_loading_failed(
    context: EntryContext, number: int, *, limit: int, operation: str
) -> Diagnosis:
    """Explain a VM entry that failed as it loaded MSRs, at entry ``number`` (from 1)."""
    address = context[f.ENTRY_MSR_LOAD_ADDRESS] + ENTRY_SIZE * (number - 1)
    entry = next(read_msr_area(context.memory, address, 1))
    rule, text = loading_rule(entry, number, limit)
    readings = (
        *msr_entry_readings(entry, address),
        reading_of(f.ENTRY_MSR_LOAD_ADDRESS, context[f.ENTRY_MSR_LOAD_ADDRESS]),
        reading_of(f.ENTRY_MSR_LOAD_COUNT, context[f.ENTRY_MSR_LOAD_COUNT]),
    )
    broken = BrokenRule(f"entry.msr-load.{rule}", text, _LOADING, readings)
    outcome = f"VM-entry failure, exit reason 34: MSR loading, entry {number} of the list"
    return Diagnosis(Kind.ENTRY_FAILURE, operation, outcome, (broken,))


def msr_entry_readings(entry: MsrEntry, address: int) -> tuple[Reading, ...]:
    """Return what stands in an entry of an MSR area."""
    at = f"of the entry at {address:#x}"
    name = msr_name(entry.index)
    found = [
        Reading(f"MSR index {at}", entry.index, 8, name),
        Reading(f"MSR data {at}", entry.data, 16),
    ]
    if entry.reserved:
        found.append(Reading(f"bits 63:32 {at}", entry.reserved, 8))
    return tuple(found)


def loading_rule(entry: MsrEntry, number: int, limit: int) -> tuple[str, str]:
    """Return name and text of the rule that an entry of a load area breaks."""
    if number > limit:
        return "count", f"an MSR area can have {limit} entries, as IA32_VMX_MISC recommends"
    if entry.reserved:
        return "reserved", "bits 63:32 of an entry of an MSR-load area must be 0"
    if entry.index in (msr.IA32_FS_BASE, msr.IA32_GS_BASE):
        return "fs-gs-base", "IA32_FS_BASE and IA32_GS_BASE cannot be loaded from an MSR area"
    if msr.X2APIC_FIRST <= entry.index <= msr.X2APIC_LAST:
        return "x2apic", "the x2APIC's MSRs (800H to 8FFH) cannot be loaded from an MSR area"
    if not entry.is_loadable:
        return "smm", "an MSR that can be written only in SMM, or that loads microcode, is refused"
    return "wrmsr", "the MSR must exist, and WRMSR at CPL 0 must accept the value"


def msr_name(index: int) -> str:
    """Return the manual's name of an MSR, or nothing."""
    return _MSR_NAMES.get(index, "")


_MSR_NAMES = {
    value: name
    for name, value in vars(msr).items()
    if isinstance(value, int) and name.startswith("IA32")
}
