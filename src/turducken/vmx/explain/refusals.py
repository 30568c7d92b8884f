"""VMX instructions that fault because of the processor's mode or privilege."""

from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.diagnosis import BrokenRule, Diagnosis, Kind, Reading, decoded_text
from turducken.vmx import vmcs_fields as f
from turducken.vmx.capabilities import UNRESTRICTED_CR0, Capabilities
from turducken.vmx.explain.allowed import fixed_bits
from turducken.vmx.explain.fields import read_field
from turducken.vmx.explain.recording import NotingMode
from turducken.vmx.gates import FEATURE_CONTROL, Gate, Instruction, Mode
from turducken.vmx.instructions import VmxUnit

_LAYOUTS = {
    "cr0": CR0,
    "cr4": CR4,
    "efer": EFER,
    "rflags": RFLAGS,
    "feature_control": FEATURE_CONTROL,
}
_WORDS = frozenset({"is_cs_long", "in_operation", "in_guest", "in_smx", "is_a20_masked"})


def refused_by_gate(
    gate: Gate, instruction: Instruction, mode: Mode, capabilities: Capabilities
) -> Diagnosis:
    """Explain a #UD or #GP instead of a VMX instruction."""
    noting = NotingMode(mode)
    gate.check(noting, capabilities)  # type: ignore[arg-type]
    readings = []
    for name, text, value, digits in noting.readings():
        layout = _LAYOUTS.get(name)
        decoded = decoded_text(layout, value) or "nothing set" if layout is not None else ""
        if name in _WORDS:
            decoded = "yes" if value else "no"
        readings.append(Reading(text, value, digits, decoded))
    # What is looked at last decides: the others are why it is looked at.
    readings = [one._replace(is_subject=one is readings[-1]) for one in readings]
    readings.sort(key=lambda one: not one.is_subject)
    rule = BrokenRule(
        gate.id, gate.text, gate.citation, tuple(readings), _allowed(gate, mode, capabilities)
    )
    return Diagnosis(Kind.EXCEPTION, instruction.name, gate.outcome.value, (rule,))


def refused_control_register(
    number: int, value: int, capabilities: Capabilities, *, unrestricted: bool
) -> Diagnosis:
    """Explain the #GP of a MOV to CR0 or CR4 that VMX operation does not support."""
    layout = CR0 if number == 0 else CR4
    if number == 0:
        free = UNRESTRICTED_CR0 if unrestricted else 0
        fixed0, fixed1 = capabilities.cr0_fixed0 & ~free, capabilities.cr0_fixed1
    else:
        fixed0, fixed1 = capabilities.cr4_fixed0, capabilities.cr4_fixed1
    name = f"CR{number}"
    rule = BrokenRule(
        f"vmx.{name.lower()}-fixed",
        f"in VMX operation, {name} must not get any bit at a value that is not supported",
        'SDM 3C, "Restrictions on VMX Operation"',
        (Reading(f"value for {name}", value, 16, decoded_text(layout, value)),),
        fixed_bits(f"IA32_VMX_{name}_FIXED", fixed0, fixed1, value),
    )
    return Diagnosis(Kind.EXCEPTION, f"MOV to {name}", "#GP(0)", (rule,))


def refused_vmfunc(unit: VmxUnit, function: int) -> Diagnosis:
    """Explain the #UD of a VMFUNC in non-root operation."""
    assert unit.current is not None
    if function >= _FUNCTIONS:
        text, allowed = "the function in EAX must be less than 64", "0 (EPTP switching)"
        readings = [Reading("EAX", function, 8)]
    else:
        text = 'the "enable VM functions" VM-execution control must be 1'
        allowed = "the control set (and that which activates the secondary controls)"
        fields = (f.SECONDARY_CONTROLS, f.PRIMARY_CONTROLS)
        readings = [read_field(unit.current, one) for one in fields]
    rule = BrokenRule(
        "vmfunc.function" if function >= _FUNCTIONS else "vmfunc.not-enabled",
        text,
        'SDM 3C, "General Operation of the VMFUNC Instruction"',
        tuple(readings),
        allowed,
    )
    return Diagnosis(Kind.EXCEPTION, "VMFUNC", "#UD", (rule,))


_FUNCTIONS = 64


def _allowed(gate: Gate, mode: Mode, capabilities: Capabilities) -> str:
    if gate.id == "vmxon.cr0":
        return fixed_bits(
            "IA32_VMX_CR0_FIXED", capabilities.cr0_fixed0, capabilities.cr0_fixed1, mode.cr0
        )
    if gate.id == "vmxon.cr4":
        return fixed_bits(
            "IA32_VMX_CR4_FIXED", capabilities.cr4_fixed0, capabilities.cr4_fixed1, mode.cr4
        )
    return gate.allowed
