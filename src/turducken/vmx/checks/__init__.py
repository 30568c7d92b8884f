"""The checks of VM entry: ordered lists of small rules, each with the manual's demand it tests."""

from turducken.vmx.checks.checker import EntryChecker
from turducken.vmx.checks.entry import (
    ALL_RULES,
    GROUPS,
    Area,
    EntryFailure,
    check_entry,
)
from turducken.vmx.checks.rules import EntryContext, Rule

__all__ = [
    "ALL_RULES",
    "GROUPS",
    "Area",
    "EntryChecker",
    "EntryContext",
    "EntryFailure",
    "Rule",
    "check_entry",
]
