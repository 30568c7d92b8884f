"""INVEPT and INVVPID that fail: their types and descriptors."""

from collections.abc import Iterator

from turducken.diagnosis import BrokenRule, Reading, decoded_text
from turducken.paging.entries import EPTP
from turducken.vmx.explain.operands import REFERENCE, Operands
from turducken.vmx.instructions import (
    INVEPT_SINGLE_CONTEXT,
    INVVPID_ALL_CONTEXTS,
    INVVPID_INDIVIDUAL_ADDRESS,
    VmResult,
    VmxUnit,
)


def _type_reading(name: str, value: int) -> Reading:
    return Reading(f"type of {name}", value, 16)


def explain_invept(unit: VmxUnit, operands: Operands, result: VmResult) -> Iterator[BrokenRule]:
    """Explain a failed INVEPT."""
    kind = operands.value
    if unit.refuse_invept_type(kind) is not None:
        yield _bad_type("invept", kind, "1 (single context) and 2 (all contexts), as offered")
        return
    if operands.descriptor is None:
        return
    eptp, reserved = operands.descriptor
    reading = Reading("EPTP in the descriptor", eptp, 16, decoded_text(EPTP, eptp))
    if kind == INVEPT_SINGLE_CONTEXT and not unit.capabilities.accepts_eptp(eptp):
        yield BrokenRule(
            "invept.eptp",
            "the EPTP in the descriptor must be one that VM entry would accept",
            REFERENCE,
            (reading, _type_reading("INVEPT", kind)),
            f"for example {eptp & ~0xFFF & ~unit.capabilities.physical_reserved | 0x1E:#x}: the "
            "whole EPTP, memory type and walk length included, not the address of the table alone",
        )
    if reserved:
        yield BrokenRule(
            "invept.reserved",
            "bits 127:64 of the descriptor must be 0",
            REFERENCE,
            (Reading("bits 127:64 of the descriptor", reserved, 16),),
            "0",
        )


def _bad_type(name: str, kind: int, known: str) -> BrokenRule:
    return BrokenRule(
        f"{name}.type",
        "the type in the register operand must be one that IA32_VMX_EPT_VPID_CAP offers",
        REFERENCE,
        (_type_reading(name.upper(), kind),),
        known,
    )


def explain_invvpid(unit: VmxUnit, operands: Operands, result: VmResult) -> Iterator[BrokenRule]:
    """Explain a failed INVVPID."""
    kind = operands.value
    if unit.refuse_invvpid_type(kind) is not None:
        known = "0 (address), 1 (single context), 2 (all contexts), 3 (retaining globals)"
        yield _bad_type("invvpid", kind, known + ", as offered")
        return
    if operands.descriptor is None:
        return
    word, address = operands.descriptor
    kind_reading = _type_reading("INVVPID", kind)
    vpid = Reading("VPID in the descriptor", word & 0xFFFF, 4)
    if word >> 16:
        yield BrokenRule(
            "invvpid.reserved",
            "bits 63:16 of the descriptor must be 0",
            REFERENCE,
            (Reading("bits 63:16 of the descriptor", word >> 16, 12),),
            "0",
        )
    if kind != INVVPID_ALL_CONTEXTS and not word & 0xFFFF:
        yield BrokenRule(
            "invvpid.vpid",
            "the VPID must not be 0000H",
            REFERENCE,
            (vpid, kind_reading),
            "1-FFFFH",
        )
    if kind == INVVPID_INDIVIDUAL_ADDRESS and not unit.capabilities.is_canonical(address):
        yield BrokenRule(
            "invvpid.address",
            "the linear address in the descriptor must be canonical",
            REFERENCE,
            (Reading("linear address in the descriptor", address, 16), kind_reading),
            f"linear addresses have {unit.capabilities.linear_width} bits",
        )
