"""Why a VMX instruction or a VM entry failed, as diagnoses.

Nothing here decides anything: it looks again at what `turducken.vmx.gates`, `instructions` and
`checks` have decided, and says which rule it was and what that rule read.
"""

from turducken.vmx.explain.entries import msr_loading_failed, refused_entry
from turducken.vmx.explain.ept import misconfigured, refused_access
from turducken.vmx.explain.exits import forgets_event, lost_event, refused_msr, vmx_aborted
from turducken.vmx.explain.fields import decode_field, read_field
from turducken.vmx.explain.instructions import failed_instruction
from turducken.vmx.explain.operands import Operands
from turducken.vmx.explain.refusals import (
    refused_by_gate,
    refused_control_register,
    refused_vmfunc,
)

__all__ = [
    "Operands",
    "decode_field",
    "failed_instruction",
    "forgets_event",
    "lost_event",
    "misconfigured",
    "msr_loading_failed",
    "read_field",
    "refused_access",
    "refused_by_gate",
    "refused_control_register",
    "refused_entry",
    "refused_msr",
    "refused_vmfunc",
    "vmx_aborted",
]
