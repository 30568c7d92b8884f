"""VMX instructions that fail with VMfailInvalid or VMfailValid."""

from collections.abc import Iterator

from turducken.address import PAGE_OFFSET_MASK
from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading
from turducken.vmx import vmcs_fields as f
from turducken.vmx.explain.fields import read_field
from turducken.vmx.explain.invalidations import explain_invept, explain_invvpid
from turducken.vmx.explain.operands import REFERENCE, Explainer, Operands
from turducken.vmx.gates import Instruction
from turducken.vmx.instruction_errors import MEANINGS, InstructionError
from turducken.vmx.instructions import (
    VmResult,
    VmxUnit,
)
from turducken.vmx.interface import VmStatus
from turducken.vmx.vmcs import REVISION_MASK, SHADOW_INDICATOR

_I = Instruction
_CONVENTIONS = 'SDM 3C, "Conventions"'
_BASIC_CHECKS = 'SDM 3C, "Basic VM-Entry Checks"'
_ENCODINGS = 'SDM 3C, "VMREAD, VMWRITE, and Encodings of VMCS Fields"'
_POINTER_OPERANDS = frozenset({_I.VMXON, _I.VMCLEAR, _I.VMPTRLD})


def failed_instruction(
    unit: VmxUnit, instruction: Instruction, operands: Operands, result: VmResult
) -> Diagnosis:
    """Explain an instruction that has just failed in ``unit``."""
    rules = tuple(
        one for explain in _EXPLAINERS[instruction] for one in explain(unit, operands, result)
    )
    # The first is what the processor's operation section tests first.
    rules = tuple(
        BrokenRule(
            one.id, one.text, one.citation, one.readings, one.allowed, is_reported=number == 0
        )
        for number, one in enumerate(rules)
    )
    return Diagnosis(Kind.VMFAIL, instruction.name, outcome_of(result), rules)


def outcome_of(result: VmResult) -> str:
    """Return how an instruction failed, in the manual's words."""
    if result.status is VmStatus.FAIL_INVALID:
        return "VMfailInvalid"
    return f"VMfailValid {result.error}: {MEANINGS[InstructionError(result.error)]}"


# Pointers


def _pointer(value: int, name: str) -> Reading:
    return Reading(name, value, 16)


def _bad_address(name: str) -> Explainer:
    def explain(unit: VmxUnit, operands: Operands, _: VmResult) -> Iterator[BrokenRule]:
        reading = _pointer(operands.value, f"operand of {name.upper()}")
        bits = unit.capabilities.cpu.physical_address_bits
        if operands.value & PAGE_OFFSET_MASK:
            yield BrokenRule(
                f"{name}.alignment",
                "bits 11:0 of the operand must be 0: a region begins at a multiple of 4 KiB",
                REFERENCE,
                (reading,),
                f"for example {operands.value & ~PAGE_OFFSET_MASK:#x}",
            )
        if operands.value & unit.capabilities.address_reserved:
            yield BrokenRule(
                f"{name}.width",
                "the operand must not set bits beyond the physical-address width",
                REFERENCE,
                (reading,),
                f"physical addresses have {bits} bits; the operand is the address of memory that "
                "holds the region's physical address",
            )

    return explain


def _is_sound(unit: VmxUnit, pointer: int) -> bool:
    return not pointer & (PAGE_OFFSET_MASK | unit.capabilities.address_reserved)


def _vmxon_pointer(name: str) -> Explainer:
    def explain(unit: VmxUnit, operands: Operands, _: VmResult) -> Iterator[BrokenRule]:
        if operands.value == unit.vmxon_pointer and _is_sound(unit, operands.value):
            yield BrokenRule(
                f"{name}.vmxon-pointer",
                "the operand must not be the VMXON pointer: a VMCS needs a region of its own",
                REFERENCE,
                (
                    _pointer(operands.value, f"operand of {name.upper()}"),
                    _pointer(unit.vmxon_pointer, "VMXON pointer"),
                ),
                "another page",
            )

    return explain


def _revision(name: str) -> Explainer:
    def explain(unit: VmxUnit, operands: Operands, _: VmResult) -> Iterator[BrokenRule]:
        pointer = operands.value
        if not _is_sound(unit, pointer) or (name != "vmxon" and pointer == unit.vmxon_pointer):
            return
        header = unit.memory.load(pointer, 4)
        wanted = unit.capabilities.revision
        readings = (
            Reading(
                f"first 4 bytes of the region at {pointer:#x}",
                0xFFFF_FFFF if header is None else header,
                8,
                "no memory there" if header is None else "",
            ),
            _pointer(pointer, f"operand of {name.upper()}"),
        )
        header = 0xFFFF_FFFF if header is None else header
        allowed = f"{wanted:#x} (IA32_VMX_BASIC bits 30:0), bit 31 clear"
        if header & REVISION_MASK != wanted:
            yield BrokenRule(
                f"{name}.revision",
                "the region must begin with the processor's VMCS revision identifier",
                'SDM 3C, "Format of the VMCS Region"',
                readings,
                allowed,
            )
        if header & SHADOW_INDICATOR:
            yield BrokenRule(
                f"{name}.shadow-indicator",
                "bit 31 of the region's first 4 bytes must be 0 "
                "(but for a shadow VMCS, where VMCS shadowing is offered)",
                'SDM 3C, "Format of the VMCS Region"',
                readings,
                allowed,
            )

    return explain


def _in_root(unit: VmxUnit, operands: Operands, _: VmResult) -> Iterator[BrokenRule]:
    if operands.was_in_operation:
        yield BrokenRule(
            "vmxon.in-root",
            "VMXON must not be executed in VMX root operation: this processor is in it already",
            REFERENCE,
            (_pointer(unit.vmxon_pointer, "VMXON pointer"),),
            "VMXOFF before it",
        )


def _vmxon(unit: VmxUnit, operands: Operands, result: VmResult) -> Iterator[BrokenRule]:
    if operands.was_in_operation:
        yield from _in_root(unit, operands, result)
        return
    yield from _bad_address("vmxon")(unit, operands, result)
    yield from _revision("vmxon")(unit, operands, result)


# The current VMCS


def _no_current(name: str) -> Explainer:
    def explain(unit: VmxUnit, _: Operands, __: VmResult) -> Iterator[BrokenRule]:
        if unit.current is None:
            yield BrokenRule(
                f"{name}.no-current-vmcs",
                "there must be a current VMCS",
                _CONVENTIONS,
                (_pointer(unit.current_pointer, "current-VMCS pointer"),),
                "VMPTRLD of a VMCS on this processor first (VMCLEAR of the current one ends it)",
            )

    return explain


def _encoding(name: str) -> Explainer:
    def explain(unit: VmxUnit, operands: Operands, result: VmResult) -> Iterator[BrokenRule]:
        if unit.current is None:
            return
        if operands.is_shadowed and result.status is VmStatus.FAIL_INVALID:
            yield _no_shadow(name, unit)
            return
        encoding = operands.value
        access = f.ACCESSES.get(encoding)
        decoded = "no field of any processor" if access is None else access.field.name
        readings = (Reading("field encoding", encoding, 8, decoded),)
        if result.error == InstructionError.VMWRITE_READ_ONLY:
            yield BrokenRule(
                f"{name}.read-only",
                "a VM-exit information field can be written only where IA32_VMX_MISC bit 29 is 1",
                REFERENCE,
                readings,
                "fields of another type (bits 11:10 of the encoding not 1)",
            )
            return
        yield BrokenRule(
            f"{name}.unsupported",
            "the encoding must be that of a field which this processor has",
            _ENCODINGS,
            readings,
            _why_unsupported(encoding),
        )

    return explain


def _no_shadow(name: str, unit: VmxUnit) -> BrokenRule:
    assert unit.current is not None
    return BrokenRule(
        f"{name}.no-shadow-vmcs",
        "under VMCS shadowing, the VMCS link pointer must name a shadow VMCS",
        REFERENCE,
        (read_field(unit.current, f.VMCS_LINK_POINTER),),
        "the physical address of a region whose first 4 bytes are the revision, with bit 31 set",
    )


def _why_unsupported(encoding: int) -> str:
    access = f.ACCESSES.get(encoding)
    if access is None:
        hint = "width, type and index are bits 14:13, 11:10 and 9:1"
        return f"an encoding of the manual's appendix ({hint}; bit 0: high half of 64 bits)"
    return "the field exists only on processors that offer the control it belongs to"


# VM entry


def _entry(name: str) -> Explainer:
    def explain(unit: VmxUnit, _: Operands, result: VmResult) -> Iterator[BrokenRule]:
        current = unit.current
        if current is None:
            yield from _no_current(name)(unit, Operands(), result)
            return
        launched = Reading(
            "launch state", int(current.is_launched), 1, ("clear", "launched")[current.is_launched]
        )
        pointer = _pointer(unit.current_pointer, "current-VMCS pointer")
        if result.status is VmStatus.FAIL_INVALID:
            yield BrokenRule(
                f"{name}.shadow-vmcs",
                "the current VMCS must not be a shadow VMCS",
                _BASIC_CHECKS,
                (Reading("shadow-VMCS indicator", 1, 1), pointer),
                "a VMCS whose first 4 bytes have bit 31 clear",
            )
            return
        text, allowed = _ENTRY_TEXTS[result.error]
        readings = (launched, pointer)
        if result.error == InstructionError.ENTRY_BLOCKED_BY_MOV_SS:
            readings = (Reading("blocking by MOV SS", 1, 1), pointer)
        rule = _ENTRY_RULES[result.error]
        yield BrokenRule(f"{name}.{rule}", text, _BASIC_CHECKS, readings, allowed)

    return explain


_ENTRY_RULES: dict[int, str] = {
    InstructionError.VMLAUNCH_NON_CLEAR: "launched",
    InstructionError.VMRESUME_NON_LAUNCHED: "not-launched",
    InstructionError.VMRESUME_AFTER_VMXOFF: "after-vmxoff",
    InstructionError.ENTRY_BLOCKED_BY_MOV_SS: "mov-ss",
}
_ENTRY_TEXTS: dict[int, tuple[str, str]] = {
    InstructionError.VMLAUNCH_NON_CLEAR: (
        "VMLAUNCH needs a VMCS whose launch state is clear",
        "VMRESUME, or VMCLEAR and VMPTRLD of the VMCS first",
    ),
    InstructionError.VMRESUME_NON_LAUNCHED: (
        "VMRESUME needs a VMCS whose launch state is launched",
        "VMLAUNCH (only one that passes the checks makes the VMCS launched)",
    ),
    InstructionError.VMRESUME_AFTER_VMXOFF: (
        "VMRESUME needs a VMCS that was launched since the last VMXON",
        "VMCLEAR, VMPTRLD and VMLAUNCH",
    ),
    InstructionError.ENTRY_BLOCKED_BY_MOV_SS: (
        "events must not be blocked by MOV SS",
        "another instruction between MOV SS or POP SS and the VM entry",
    ),
}


def _vmcall(unit: VmxUnit, operands: Operands, result: VmResult) -> Iterator[BrokenRule]:
    yield BrokenRule(
        "vmcall.in-root",
        "VMCALL in VMX root operation is for the dual-monitor treatment of SMIs only",
        REFERENCE,
        (Reading("in VMX non-root operation", 0, 1, "no"),),
        "VMCALL in a guest, where it causes a VM exit",
    )


_EXPLAINERS: dict[Instruction, tuple[Explainer, ...]] = {
    _I.VMXON: (_vmxon,),
    _I.VMCLEAR: (_bad_address("vmclear"), _vmxon_pointer("vmclear")),
    _I.VMPTRLD: (_bad_address("vmptrld"), _vmxon_pointer("vmptrld"), _revision("vmptrld")),
    _I.VMREAD: (_no_current("vmread"), _encoding("vmread")),
    _I.VMWRITE: (_no_current("vmwrite"), _encoding("vmwrite")),
    _I.VMLAUNCH: (_entry("vmlaunch"),),
    _I.VMRESUME: (_entry("vmresume"),),
    _I.VMCALL: (_vmcall,),
    _I.INVEPT: (explain_invept,),
    _I.INVVPID: (explain_invvpid,),
}
