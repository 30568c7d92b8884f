"""All checks of a VM entry, in order.

SDM 3C, "Checks on VMX Controls and Host-State Area" and "Checking and Loading Guest State". The
manual leaves the order within the controls and host checks, and within the guest checks, to the
processor; ours is the manual's, with what event injection and memory contribute last in its group.
"""

from dataclasses import dataclass
from enum import Enum

from turducken.vmx.checks.controls import CONTROL_RULES, VTPR_RULE
from turducken.vmx.checks.guest_registers import CR3_RULE, REGISTER_RULES
from turducken.vmx.checks.guest_segments import SEGMENT_RULES
from turducken.vmx.checks.guest_state import LINK_RULES, PDPTE_RULE, RIP_RULES, STATE_RULES
from turducken.vmx.checks.host import HOST_RULES
from turducken.vmx.checks.injection import INJECTION_RULES
from turducken.vmx.checks.rules import EntryContext, Rule, first_broken
from turducken.vmx.exit_information import EntryFailureQualification
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.instruction_errors import InstructionError


class Area(Enum):
    """What a group of checks is about, and so how VM entry fails."""

    CONTROLS = "controls"
    HOST = "host"
    GUEST = "guest"


GROUPS: tuple[tuple[Area, tuple[Rule, ...]], ...] = (
    (Area.CONTROLS, (*CONTROL_RULES, *INJECTION_RULES, VTPR_RULE)),
    (Area.HOST, HOST_RULES),
    (
        Area.GUEST,
        (
            *REGISTER_RULES,
            CR3_RULE,
            *SEGMENT_RULES,
            *RIP_RULES,
            *STATE_RULES,
            *LINK_RULES,
            PDPTE_RULE,
        ),
    ),
)
"""Every rule, in order."""

ALL_RULES: tuple[Rule, ...] = tuple(rule for _, rules in GROUPS for rule in rules)


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """A rule that VM entry broke, and what follows from it."""

    area: Area
    rule: Rule

    @property
    def error(self) -> InstructionError | None:
        """The VM-instruction error, where the instruction fails; None where a VM exit follows."""
        if self.area is Area.CONTROLS:
            return InstructionError.ENTRY_INVALID_CONTROLS
        return InstructionError.ENTRY_INVALID_HOST_STATE if self.area is Area.HOST else None

    @property
    def exit_reason(self) -> ExitReason | None:
        """The basic exit reason, where a VM exit follows."""
        return ExitReason.ENTRY_FAILURE_GUEST_STATE if self.area is Area.GUEST else None

    @property
    def qualification(self) -> EntryFailureQualification:
        """The exit qualification, where a VM exit follows."""
        return self.rule.qualification

    def __str__(self) -> str:
        return f"{self.rule.id}: {self.rule.text} ({self.rule.citation})"


def check_entry(context: EntryContext) -> EntryFailure | None:
    """Apply every rule in order; return the first failure, or None if VM entry may go on."""
    for area, rules in GROUPS:
        broken = first_broken(rules, context)
        if broken is not None:
            return EntryFailure(area, broken)
    return None
