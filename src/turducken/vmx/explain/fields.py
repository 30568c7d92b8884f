"""What the values of VMCS fields mean, field by field."""

from collections.abc import Callable

from turducken.arch.debug import DEBUGCTL
from turducken.arch.exceptions import Vector
from turducken.arch.memory_types import MemoryType
from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.bits import Layout
from turducken.diagnosis import Reading, decoded_text
from turducken.paging.entries import EPTP, PAE_PDPTE
from turducken.vmx import vmcs_fields as f
from turducken.vmx.controls import ENTRY, EXIT, PIN_BASED, PRIMARY, SECONDARY, VM_FUNCTIONS
from turducken.vmx.exit_information import (
    ACCESS_RIGHTS,
    ENTRY_INTERRUPTION,
    EPT_QUALIFICATION,
    EXIT_INTERRUPTION,
    IDT_VECTORING,
    INTERRUPTIBILITY,
    PENDING_DEBUG,
    UNUSABLE,
    Activity,
    EventType,
)
from turducken.vmx.exit_reasons import ENTRY_FAILURE, name_of
from turducken.vmx.instruction_errors import MEANINGS, InstructionError
from turducken.vmx.vmcs import Vmcs

_FIXED_NAMES = frozenset({"ONE"})
_LAYOUTS: dict[f.VmcsField, Layout] = {
    f.PIN_BASED_CONTROLS: PIN_BASED.layout,
    f.PRIMARY_CONTROLS: PRIMARY.layout,
    f.SECONDARY_CONTROLS: SECONDARY.layout,
    f.EXIT_CONTROLS: EXIT.layout,
    f.ENTRY_CONTROLS: ENTRY.layout,
    f.VM_FUNCTION_CONTROLS: VM_FUNCTIONS.layout,
    f.GUEST_CR0: CR0,
    f.HOST_CR0: CR0,
    f.CR0_READ_SHADOW: CR0,
    f.CR0_GUEST_HOST_MASK: CR0,
    f.GUEST_CR4: CR4,
    f.HOST_CR4: CR4,
    f.CR4_READ_SHADOW: CR4,
    f.CR4_GUEST_HOST_MASK: CR4,
    f.GUEST_EFER: EFER,
    f.HOST_EFER: EFER,
    f.GUEST_DEBUGCTL: DEBUGCTL,
    f.GUEST_INTERRUPTIBILITY: INTERRUPTIBILITY,
    f.GUEST_PENDING_DEBUG: PENDING_DEBUG,
    f.EPTP: EPTP,
    **dict.fromkeys(f.GUEST_PDPTES, PAE_PDPTE),
}
_CONTROL_WORDS = frozenset(
    {
        *(f.PIN_BASED_CONTROLS, f.PRIMARY_CONTROLS, f.SECONDARY_CONTROLS),
        *(f.EXIT_CONTROLS, f.ENTRY_CONTROLS, f.VM_FUNCTION_CONTROLS),
    }
)
_EVENTS: dict[f.VmcsField, Layout] = {
    f.ENTRY_INTERRUPTION_INFORMATION: ENTRY_INTERRUPTION,
    f.EXIT_INTERRUPTION_INFORMATION: EXIT_INTERRUPTION,
    f.IDT_VECTORING_INFORMATION: IDT_VECTORING,
}
_SELECTORS = frozenset(one for one in f.FIELDS.values() if one.name.endswith("selector"))
_PATS = frozenset({f.GUEST_PAT, f.HOST_PAT})
_CODE_TYPES = ("execute-only", "execute/read")
_DATA_TYPES = ("read-only", "read/write", "read-only, expand-down", "read/write, expand-down")
_SYSTEM_TYPES = {2: "LDT", 3: "16-bit busy TSS", 9: "available TSS", 11: "busy TSS"}
NO_LINK = (1 << 64) - 1


def read_field(vmcs: Vmcs, field: f.VmcsField, *, is_subject: bool = True) -> Reading:
    """Return a field of a VMCS as a reading."""
    return reading_of(field, vmcs.read(field), is_subject=is_subject)


def reading_of(field: f.VmcsField, value: int, *, is_subject: bool = True) -> Reading:
    """Return a field's value as a reading."""
    digits = field.width.bits // 4
    return Reading(field.name, value, digits, decode_field(field, value), is_subject)


def decode_field(field: f.VmcsField, value: int) -> str:
    """Return what a field's value means; nothing where it is just a number or an address."""
    layout = _LAYOUTS.get(field)
    if layout is not None:
        return _flags(field, layout, value)
    if field in _EVENTS:
        return describe_event(_EVENTS[field], value)
    if field in _SELECTORS:
        table = "LDT" if value & 4 else "GDT"
        return f"{table} entry {value >> 3}, RPL {value & 3}"
    if field in _PATS:
        return " ".join(_type_name(byte) for byte in value.to_bytes(8, "little"))
    if field.name.endswith("access rights"):
        return describe_rights(value)
    special = _SPECIAL.get(field)
    return "" if special is None else special(value)


def _flags(field: f.VmcsField, layout: Layout, value: int) -> str:
    text = decoded_text(layout, value)
    if field in _CONTROL_WORDS:
        # The bits without a name that must be 1 say nothing.
        text = ", ".join(name.replace("_", " ").lower() for name in layout.flags(value))
        return text or "only bits without a name" if value else "0"
    return text or "nothing set"


def _type_name(value: int) -> str:
    known = value in MemoryType._value2member_map_
    return MemoryType(value).name if known else f"{value:#x} (reserved)"


def describe_event(layout: Layout, value: int) -> str:
    """Return what an interruption-information word of VM entry, VM exit or IDT-vectoring says."""
    if not value & layout.mask("VALID"):
        return "not valid"
    vector, kind = layout["VECTOR"].get(value), layout["TYPE"].get(value)
    known = kind in EventType._value2member_map_
    type_name = EventType(kind).name.lower().replace("_", " ") if known else f"reserved type {kind}"
    is_exception = known and kind in _EXCEPTION_TYPES and vector in Vector._value2member_map_
    name = f"#{Vector(vector).name}" if is_exception else f"vector {vector}"
    code = ", with error code" if value & layout.mask("ERROR_CODE") else ""
    wrong = value & layout.reserved_mask
    return f"{type_name}, {name}{code}" + (f", reserved bits {wrong:#x}" if wrong else "")


_EXCEPTION_TYPES = frozenset({EventType.HARDWARE_EXCEPTION, EventType.SOFTWARE_EXCEPTION})


def describe_rights(value: int) -> str:
    """Return what a segment's access rights say."""
    if value & UNUSABLE:
        return "unusable"
    kind = value & 0xF
    if value & ACCESS_RIGHTS.mask("S"):
        is_code = bool(kind & 8)
        if is_code:
            name = "code, " + _CODE_TYPES[kind >> 1 & 1] + (", conforming" if kind & 4 else "")
        else:
            name = "data, " + _DATA_TYPES[kind >> 1 & 3]
        name += "" if kind & 1 else ", not accessed"
    else:
        name = _SYSTEM_TYPES.get(kind, "system")
    flags = [one for one in ("L", "D/B", "G") if value & ACCESS_RIGHTS.mask(one)]
    present = "" if value & ACCESS_RIGHTS.mask("P") else ", not present"
    wrong = value & ACCESS_RIGHTS.reserved_mask
    parts = [f"type {kind} ({name}), DPL {ACCESS_RIGHTS['DPL'].get(value)}{present}", *flags]
    return " ".join(parts) + (f", reserved bits {wrong:#x}" if wrong else "")


def _activity(value: int) -> str:
    known = value in Activity._value2member_map_
    return Activity(value).name.lower().replace("_", "-") if known else "no activity state"


def _reason(value: int) -> str:
    failure = " (VM-entry failure)" if value & ENTRY_FAILURE and value & 0xFFFF < 33 else ""
    return name_of(value) + failure


def _error(value: int) -> str:
    known = value in InstructionError._value2member_map_
    return MEANINGS[InstructionError(value)] if known else ""


def _rflags(value: int) -> str:
    words = decoded_text(RFLAGS, value).split(" ")
    return " ".join(one for one in words if one not in _FIXED_NAMES and one != "IOPL=0")


_SPECIAL: dict[f.VmcsField, Callable[[int], str]] = {
    f.GUEST_ACTIVITY: _activity,
    f.EXIT_REASON: _reason,
    f.VM_INSTRUCTION_ERROR: _error,
    f.GUEST_RFLAGS: _rflags,
    f.VMCS_LINK_POINTER: lambda value: "none" if value == NO_LINK else "",
}


def decode_qualification(reason: int, value: int) -> str:
    """Return what an exit qualification says, where its reason gives it a format we name here."""
    return decoded_text(EPT_QUALIFICATION, value) if reason & 0xFFFF == _EPT_VIOLATION else ""


_EPT_VIOLATION = 48
