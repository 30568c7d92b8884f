"""What of VMX ``turducken pt decode`` knows, by the names that ``--as`` takes."""

import re
from collections.abc import Iterator
from dataclasses import replace

from turducken.arch import registers
from turducken.bits import Layout, bits
from turducken.vmx import exit_information as i
from turducken.vmx.capability_msrs import BASIC, EPT_VPID_CAP, MISC
from turducken.vmx.controls import CONTROL_SETS, ControlSet
from turducken.vmx.exit_fields import EXIT_FIELDS
from turducken.vmx.exit_reasons import NAMES, ExitReason, name_of
from turducken.vmx.gates import FEATURE_CONTROL
from turducken.vmx.instruction_errors import MEANINGS
from turducken.vmx.vmcs_fields import ENCODING

CONTROLS = {f"controls.{key}": one for key, one in CONTROL_SETS.items()}
"""Words of controls."""

CAPABILITIES = {
    f"msr.vmx-{name}": CONTROL_SETS[key]
    for name, key in (
        ("pinbased-ctls", "pin"),
        ("procbased-ctls", "primary"),
        ("procbased-ctls2", "secondary"),
        ("exit-ctls", "exit"),
        ("entry-ctls", "entry"),
        ("true-pinbased-ctls", "pin"),
        ("true-procbased-ctls", "primary"),
        ("true-exit-ctls", "exit"),
        ("true-entry-ctls", "entry"),
    )
}
"""MSRs whose halves say which controls may be 0 and which may be 1."""

_REASON_NAMES = {int(one): name_of(one) for one in ExitReason} | {
    int(one): text for one, text in NAMES.items()
}
_EXIT_REASON = Layout(
    i.EXIT_REASON.name,
    32,
    *(
        replace(one, values=_REASON_NAMES) if one.name == "BASIC" else one
        for one in i.EXIT_REASON.fields
    ),
    source=i.EXIT_REASON.source,
)
_INSTRUCTION_ERROR = Layout(
    "VM-instruction error",
    32,
    bits("NUMBER", 31, 0, values={int(one): text for one, text in MEANINGS.items()}),
    source='SDM 3C, "VM Instruction Error Numbers"',
)
_VMX_ABORT = Layout(
    "VMX-abort indicator",
    32,
    bits("NUMBER", 31, 0, values={int(one): one.name for one in i.VmxAbort}),
    source='SDM 3C, "VMX Aborts"',
)


def _slug(reason: ExitReason) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name_of(reason).lower()).strip("-")


def _of_exits() -> Iterator[tuple[str, Layout]]:
    """Yield the formats of qualification and instruction information, by name and by number."""
    for reason, fields in EXIT_FIELDS.items():
        name = "debug-exception" if reason is ExitReason.EXCEPTION_OR_NMI else _slug(reason)
        if fields.qualification is not None:
            yield f"qualification.{name}", fields.qualification
        if fields.information is not None:
            yield f"information.{name}", fields.information


LAYOUTS: dict[str, Layout] = {
    "exit-reason": _EXIT_REASON,
    "qualification.page-fault": i.LINEAR_ADDRESS_QUALIFICATION,
    **dict(_of_exits()),
    "interruption.entry": i.ENTRY_INTERRUPTION,
    "interruption.exit": i.EXIT_INTERRUPTION,
    "interruption.idt-vectoring": i.IDT_VECTORING,
    "access-rights": i.ACCESS_RIGHTS,
    "interruptibility": i.INTERRUPTIBILITY,
    "pending-debug": i.PENDING_DEBUG,
    **{name: one.layout for name, one in CONTROLS.items()},
    "instruction-error": _INSTRUCTION_ERROR,
    "vmx-abort": _VMX_ABORT,
    "vmcs-encoding": ENCODING,
    "msr.feature-control": FEATURE_CONTROL,
    "msr.vmx-basic": BASIC,
    "msr.vmx-misc": MISC,
    "msr.vmx-ept-vpid-cap": EPT_VPID_CAP,
    "msr.vmx-vmfunc": CONTROL_SETS["vm_functions"].layout,
    "msr.vmx-cr0-fixed0": registers.CR0,
    "msr.vmx-cr0-fixed1": registers.CR0,
    "msr.vmx-cr4-fixed0": registers.CR4,
    "msr.vmx-cr4-fixed1": registers.CR4,
}
"""Formats of whole values."""

BY_NUMBER = {
    f"{what}.{int(reason)}": f"{what}.{_slug(reason)}"
    for reason, fields in EXIT_FIELDS.items()
    for what, layout in (
        ("qualification", fields.qualification),
        ("information", fields.information),
    )
    if layout is not None and reason is not ExitReason.EXCEPTION_OR_NMI
}
"""The same by the basic exit reason's number, as ``qualification.48``."""

KINDS = (*LAYOUTS, *CAPABILITIES)
"""All names."""


def permitted(capability: int, controls: ControlSet) -> Iterator[tuple[int, str, str]]:
    """Yield bit, name and permitted settings of each control, by a capability MSR.

    SDM 3D, "VM-Execution Controls": a bit of the low half that is 1 must be 1; one of the high half
    that is 0 must be 0.
    """
    for name, mask in sorted(controls.masks.items(), key=lambda one: one[1]):
        must, may = bool(capability & mask), bool(capability >> 32 & mask)
        setting = ("0 or 1" if not must else "must be 1") if may else "must be 0"
        if must and not may:
            setting = "neither 0 nor 1: no processor has this"
        yield mask.bit_length() - 1, name, setting
