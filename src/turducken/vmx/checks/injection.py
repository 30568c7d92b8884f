"""Checks on event injection; where one fails, VM entry is VMfailValid 7."""

from turducken.arch.exceptions import Vector
from turducken.arch.registers import CR0
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.controls import Primary
from turducken.vmx.exit_information import (
    ENTRY_INTERRUPTION,
    INTERRUPTION_ERROR_CODE,
    INTERRUPTION_VALID,
    SOFTWARE_EVENTS,
    EventType,
)

_ENTRY = Section("controls.injection", 'SDM 3C, "VM-Entry Control Fields"')
_PE = CR0.mask("PE")
_TYPE = ENTRY_INTERRUPTION["TYPE"]
_VECTOR = ENTRY_INTERRUPTION["VECTOR"]

# The exceptions with error codes that the manual names here (control protection came later).
_ERROR_CODE_VECTORS = frozenset(
    {Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC}
)


def _injecting(check: Check) -> Check:
    """Apply a rule only if the valid bit of the interruption-information field is 1."""
    return lambda c: not c[f.ENTRY_INTERRUPTION_INFORMATION] & INTERRUPTION_VALID or check(c)


def _type(c: EntryContext) -> int:
    return _TYPE.get(c[f.ENTRY_INTERRUPTION_INFORMATION])


def _vector(c: EntryContext) -> int:
    return _VECTOR.get(c[f.ENTRY_INTERRUPTION_INFORMATION])


def _type_is_known(c: EntryContext) -> bool:
    """Type 1 is reserved; so is 7 without the 1-setting of "monitor trap flag"."""
    kind = _type(c)
    if kind == EventType.OTHER_EVENT:
        return bool(c.capabilities.primary.allowed1 & Primary.MONITOR_TRAP_FLAG)
    return kind != 1


def _vector_fits(c: EntryContext) -> bool:
    kind, vector = _type(c), _vector(c)
    if kind == EventType.NMI:
        return vector == Vector.NMI
    if kind == EventType.HARDWARE_EXCEPTION:
        return vector <= 31
    return kind != EventType.OTHER_EVENT or vector == 0


def _delivers_error_code(c: EntryContext) -> bool:
    return bool(c[f.ENTRY_INTERRUPTION_INFORMATION] & INTERRUPTION_ERROR_CODE)


def _is_protected(c: EntryContext) -> bool:
    """Tell whether the guest will be in protected mode, which only "unrestricted guest" opens."""
    return not c.is_unrestricted or bool(c[f.GUEST_CR0] & _PE)


def _error_code_is_not_missing(c: EntryContext) -> bool:
    needed = (
        _type(c) == EventType.HARDWARE_EXCEPTION
        and _is_protected(c)
        and not c.capabilities.optional_error_codes
        and _vector(c) in _ERROR_CODE_VECTORS
    )
    return not needed or _delivers_error_code(c)


def _error_code_is_allowed(c: EntryContext) -> bool:
    if not _delivers_error_code(c):
        return True
    if _type(c) != EventType.HARDWARE_EXCEPTION or not _is_protected(c):
        return False
    return c.capabilities.optional_error_codes or _vector(c) in _ERROR_CODE_VECTORS


def _length_is_valid(c: EntryContext) -> bool:
    if _type(c) not in SOFTWARE_EVENTS:
        return True
    least = 0 if c.capabilities.injection_length_0 else 1
    return least <= c[f.ENTRY_INSTRUCTION_LENGTH] <= 15


INJECTION_RULES: tuple[Rule, ...] = (
    _ENTRY.rule("type", "the interruption type must not be reserved", _injecting(_type_is_known)),
    _ENTRY.rule(
        "vector",
        "the vector must be consistent with the interruption type",
        _injecting(_vector_fits),
    ),
    _ENTRY.rule(
        "error-code-missing",
        "the deliver-error-code bit must be 1 for exceptions with an error code",
        _injecting(_error_code_is_not_missing),
    ),
    _ENTRY.rule(
        "error-code-stray",
        "the deliver-error-code bit must be 0 for other events, and outside protected mode",
        _injecting(_error_code_is_allowed),
    ),
    _ENTRY.rule(
        "reserved",
        "bits 30:12 of the interruption-information field must be 0",
        _injecting(
            lambda c: not c[f.ENTRY_INTERRUPTION_INFORMATION] & ENTRY_INTERRUPTION.reserved_mask
        ),
    ),
    _ENTRY.rule(
        "error-code-reserved",
        "bits 31:16 of a delivered error code must be 0",
        _injecting(
            lambda c: not _delivers_error_code(c) or not c[f.ENTRY_EXCEPTION_ERROR_CODE] >> 16
        ),
    ),
    _ENTRY.rule(
        "instruction-length",
        "the instruction length of a software event must be in the range 1-15 (or 0-15)",
        _injecting(_length_is_valid),
    ),
)
