"""Mode and privilege: when a VMX instruction faults or exits before anything else is looked at.

SDM 3C, "VMX Instruction Reference": the first lines of each instruction's operation, as an ordered
list of rules. #UD for a register operand where the encoding demands memory is the decoder's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from turducken.arch.registers import CR0, CR4, EFER, RFLAGS
from turducken.bits import Layout, bit, bits, reserved
from turducken.vmx.capabilities import Capabilities
from turducken.vmx.capability_msrs import EPT_VPID_CAP
from turducken.vmx.exit_reasons import ExitReason

FEATURE_CONTROL = Layout(
    "IA32_FEATURE_CONTROL",
    64,
    bit("LOCK", 0, "WRMSR to this MSR causes #GP; VMXON needs it"),
    bit("VMX_IN_SMX", 1, "VMXON is allowed in SMX operation"),
    bit("VMX", 2, "VMXON is allowed outside SMX operation"),
    reserved(7, 3),
    bits("SENTER", 15, 8, "GETSEC[SENTER] enables"),
    reserved(63, 16),
    source='SDM 3C, "Enabling and Entering VMX Operation"',
)
_LOCK = FEATURE_CONTROL.mask("LOCK")
_VMX_IN_SMX, _VMX = FEATURE_CONTROL.mask("VMX_IN_SMX"), FEATURE_CONTROL.mask("VMX")
_PE, _VM, _LMA = CR0.mask("PE"), RFLAGS.mask("VM"), EFER.mask("LMA")
_VMXE = CR4.mask("VMXE")
_INVEPT, _INVVPID = EPT_VPID_CAP.mask("INVEPT"), EPT_VPID_CAP.mask("INVVPID")


class Outcome(Enum):
    """What happens instead of the instruction."""

    UD = "#UD"
    GP = "#GP(0)"
    EXIT = "VM exit"


class Instruction(Enum):
    """The VMX instructions, by the exit reason that each has in VMX non-root operation."""

    VMCALL = ExitReason.VMCALL
    VMCLEAR = ExitReason.VMCLEAR
    VMLAUNCH = ExitReason.VMLAUNCH
    VMPTRLD = ExitReason.VMPTRLD
    VMPTRST = ExitReason.VMPTRST
    VMREAD = ExitReason.VMREAD
    VMRESUME = ExitReason.VMRESUME
    VMWRITE = ExitReason.VMWRITE
    VMXOFF = ExitReason.VMXOFF
    VMXON = ExitReason.VMXON
    INVEPT = ExitReason.INVEPT
    INVVPID = ExitReason.INVVPID
    VMFUNC = ExitReason.VMFUNC

    @property
    def exit_reason(self) -> ExitReason:
        """The basic exit reason."""
        return self.value


@dataclass(slots=True)
class Mode:
    """What the rules look at of a processor's state."""

    cr0: int
    cr4: int
    rflags: int
    efer: int
    cpl: int
    is_cs_long: bool
    """CS.L."""
    in_operation: bool
    """In VMX operation, root or not."""
    in_guest: bool
    """In VMX non-root operation."""
    feature_control: int = 0
    """IA32_FEATURE_CONTROL."""
    in_smx: bool = False
    is_a20_masked: bool = False


Check = Callable[[Mode, Capabilities], bool]


@dataclass(frozen=True, slots=True)
class Gate:
    """One rule: where ``check`` is true, ``outcome`` happens instead of the instruction."""

    id: str
    outcome: Outcome
    check: Check
    instructions: frozenset[Instruction]
    text: str = ""
    """What the manual demands, in short (nothing for a VM exit, which is no failure)."""
    allowed: str = ""
    """What would let the instruction execute."""
    citation: str = 'SDM 3C, "VMX Instruction Reference"'


def _not_in_operation(mode: Mode, _: Capabilities) -> bool:
    return not mode.in_operation


def _real_mode(mode: Mode, _: Capabilities) -> bool:
    return not mode.cr0 & _PE


def _virtual_8086(mode: Mode, _: Capabilities) -> bool:
    return bool(mode.rflags & _VM)


def _compatibility_mode(mode: Mode, _: Capabilities) -> bool:
    return bool(mode.efer & _LMA) and not mode.is_cs_long


def _in_guest(mode: Mode, _: Capabilities) -> bool:
    return mode.in_guest


def _not_in_guest(mode: Mode, _: Capabilities) -> bool:
    return not mode.in_guest


def _user(mode: Mode, _: Capabilities) -> bool:
    return mode.cpl > 0


def _no_invept(_: Mode, capabilities: Capabilities) -> bool:
    return not capabilities.has(_INVEPT)


def _no_invvpid(_: Mode, capabilities: Capabilities) -> bool:
    return not capabilities.has(_INVVPID)


def _no_vmxe(mode: Mode, _: Capabilities) -> bool:
    return not mode.cr4 & _VMXE


def _entering(check: Check) -> Check:
    """Make a rule of VMXON that applies outside VMX operation only."""
    return lambda mode, capabilities: not mode.in_operation and check(mode, capabilities)


def _bad_cr0(mode: Mode, capabilities: Capabilities) -> bool:
    return not capabilities.accepts_cr0(mode.cr0)


def _bad_cr4(mode: Mode, capabilities: Capabilities) -> bool:
    return not capabilities.accepts_cr4(mode.cr4)


def _unlocked(mode: Mode, _: Capabilities) -> bool:
    return not mode.feature_control & _LOCK


def _forbidden_in_smx(mode: Mode, _: Capabilities) -> bool:
    return mode.in_smx and not mode.feature_control & _VMX_IN_SMX


def _forbidden_outside_smx(mode: Mode, _: Capabilities) -> bool:
    return not mode.in_smx and not mode.feature_control & _VMX


def _a20_masked(mode: Mode, _: Capabilities) -> bool:
    return mode.is_a20_masked


_I = Instruction
_EVERY = frozenset(Instruction)
_ON = frozenset({_I.VMXON})
_CALL = frozenset({_I.VMCALL})
_FUNC = frozenset({_I.VMFUNC})
_MOST = _EVERY - _ON - _CALL - _FUNC

_MODE = "64-bit mode, or protected mode of 32 bits"
_ENTERING = 'SDM 3C, "Enabling and Entering VMX Operation"'
_RESTRICTIONS = 'SDM 3C, "Restrictions on VMX Operation"'
_FEATURE_CONTROL = "IA32_FEATURE_CONTROL (MSR 3AH) with bits 0 and 2 set, which firmware does once"

GATES: tuple[Gate, ...] = (
    Gate(
        "vmx.not-in-operation",
        Outcome.UD,
        _not_in_operation,
        _MOST | _CALL,
        "the processor must be in VMX operation",
        "a VMXON that succeeded on this processor, and no VMXOFF since",
    ),
    Gate(
        "vmx.not-in-non-root",
        Outcome.UD,
        _not_in_guest,
        _FUNC,
        "VMFUNC needs VMX non-root operation: it is an instruction of guests",
    ),
    # VMCALL in non-root operation exits in every mode.
    Gate("vmcall.non-root", Outcome.EXIT, _in_guest, _CALL),
    Gate(
        "vmx.real-mode",
        Outcome.UD,
        _real_mode,
        _MOST | _ON,
        "the processor must be in protected mode (CR0.PE)",
        _MODE,
    ),
    Gate(
        "vmxon.cr4-vmxe",
        Outcome.UD,
        _no_vmxe,
        _ON,
        "CR4.VMXE must be 1",
        "CR4 with bit 13 (VMXE) set",
        _ENTERING,
    ),
    Gate(
        "vmx.virtual-8086",
        Outcome.UD,
        _virtual_8086,
        _EVERY - _FUNC,
        "the processor must not be in virtual-8086 mode (RFLAGS.VM)",
        _MODE,
    ),
    Gate(
        "vmx.compatibility-mode",
        Outcome.UD,
        _compatibility_mode,
        _EVERY - _FUNC,
        "in IA-32e mode, the processor must be in 64-bit mode (CS.L)",
        _MODE,
    ),
    Gate(
        "invept.unsupported",
        Outcome.UD,
        _no_invept,
        frozenset({_I.INVEPT}),
        "the processor must offer INVEPT (IA32_VMX_EPT_VPID_CAP bit 20)",
    ),
    Gate(
        "invvpid.unsupported",
        Outcome.UD,
        _no_invvpid,
        frozenset({_I.INVVPID}),
        "the processor must offer INVVPID (IA32_VMX_EPT_VPID_CAP bit 32)",
    ),
    Gate("vmxon.cpl", Outcome.GP, _entering(_user), _ON, "CPL must be 0", "CPL 0"),
    Gate(
        "vmxon.a20",
        Outcome.GP,
        _entering(_a20_masked),
        _ON,
        "A20M must not be asserted",
        citation=_RESTRICTIONS,
    ),
    Gate(
        "vmxon.cr0",
        Outcome.GP,
        _entering(_bad_cr0),
        _ON,
        "CR0 must not have any bit at a value that VMX operation does not support",
        citation=_RESTRICTIONS,
    ),
    Gate(
        "vmxon.cr4",
        Outcome.GP,
        _entering(_bad_cr4),
        _ON,
        "CR4 must not have any bit at a value that VMX operation does not support",
        citation=_RESTRICTIONS,
    ),
    Gate(
        "vmxon.feature-control-lock",
        Outcome.GP,
        _entering(_unlocked),
        _ON,
        "the lock bit of IA32_FEATURE_CONTROL must be 1",
        _FEATURE_CONTROL,
        _ENTERING,
    ),
    Gate(
        "vmxon.in-smx",
        Outcome.GP,
        _entering(_forbidden_in_smx),
        _ON,
        "in SMX operation, bit 1 of IA32_FEATURE_CONTROL must be 1",
        _FEATURE_CONTROL,
        _ENTERING,
    ),
    Gate(
        "vmxon.outside-smx",
        Outcome.GP,
        _entering(_forbidden_outside_smx),
        _ON,
        "outside SMX operation, bit 2 of IA32_FEATURE_CONTROL must be 1",
        _FEATURE_CONTROL,
        _ENTERING,
    ),
    # In non-root operation the exit comes before the check of CPL.
    Gate("vmx.non-root", Outcome.EXIT, _in_guest, _MOST | _ON),
    Gate("vmx.cpl", Outcome.GP, _user, _EVERY - _FUNC, "CPL must be 0", "CPL 0"),
)
"""In the order in which the manual's operation sections test."""

_BY_INSTRUCTION = {
    instruction: tuple(gate for gate in GATES if instruction in gate.instructions)
    for instruction in Instruction
}


def find_gate(instruction: Instruction, mode: Mode, capabilities: Capabilities) -> Gate | None:
    """Return the first rule that keeps the instruction from executing, or None.

    For VMREAD and VMWRITE in non-root operation under VMCS shadowing, "vmx.non-root" is not the
    last word: where `VmxUnit.shadow_access_exits` says no, only the CPL is left to check. For
    VMFUNC, the rest is in `VmxUnit.vmfunc`.
    """
    for gate in _BY_INSTRUCTION[instruction]:
        if gate.check(mode, capabilities):
            return gate
    return None


def ungated(capabilities: Capabilities) -> frozenset[Instruction]:
    """Return the instructions that execute in 64-bit mode at CPL 0 in VMX root operation."""
    mode = Mode(
        cr0=_PE,
        cr4=_VMXE,
        rflags=0,
        efer=_LMA,
        cpl=0,
        is_cs_long=True,
        in_operation=True,
        in_guest=False,
    )
    return frozenset(one for one in Instruction if find_gate(one, mode, capabilities) is None)
