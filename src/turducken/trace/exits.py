"""VM exits in words: reason, decoded qualification, and the addresses that they record."""

from typing import Any

from turducken.cpu.processor import Processor
from turducken.diagnosis.records import decoded_text
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_fields import qualification_layout
from turducken.vmx.exit_information import EPT_QUALIFICATION, EXIT_INTERRUPTION
from turducken.vmx.exit_reasons import ENTRY_FAILURE, ExitReason, name_of

_LINEAR_VALID = EPT_QUALIFICATION.mask("LINEAR_VALID")
_OF_EPT = frozenset({ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION})

Described = tuple[str, int, dict[str, Any], dict[str, int]]
"""Name, RIP, details and addresses."""


def described_exit(
    p: Processor, reason: int, qualification: int, rip: int | None = None
) -> Described:
    """Describe the exit that ``p`` has just made, from its current VMCS."""
    vmcs = p.vmx.current
    assert vmcs is not None
    details: dict[str, Any] = {}
    addresses: dict[str, int] = {}
    basic, vector = reason & 0xFFFF, None
    if basic == ExitReason.EXCEPTION_OR_NMI:
        information = vmcs.read(f.EXIT_INTERRUPTION_INFORMATION)
        vector = EXIT_INTERRUPTION["VECTOR"].get(information)
        details["event"] = decoded_text(EXIT_INTERRUPTION, information)
    elif basic in _OF_EPT:
        addresses["physical"] = vmcs.read(f.GUEST_PHYSICAL_ADDRESS)
        if basic == ExitReason.EPT_VIOLATION and qualification & _LINEAR_VALID:
            addresses["linear"] = vmcs.read(f.GUEST_LINEAR_ADDRESS)
    layout = qualification_layout(basic, vector)
    if layout is not None and qualification:
        details["qualification"] = decoded_text(layout, qualification) or f"{qualification:#x}"
    elif qualification:
        details["qualification"] = f"{qualification:#x}"
    if rip is None:
        rip = vmcs.read(f.GUEST_RIP) if reason & ENTRY_FAILURE else p.state.rip
    return name_of(reason), rip, details, addresses
