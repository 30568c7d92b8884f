"""VM-instruction error numbers: SDM 3C, "VM Instruction Error Numbers"."""

from enum import IntEnum


class InstructionError(IntEnum):
    """What VMfailValid writes to the VM-instruction error field.

    16 to 20 and 22 to 25 belong to the dual-monitor treatment of SMIs and SMM, which is not
    modelled: they never happen.
    """

    VMCALL_IN_ROOT = 1
    VMCLEAR_INVALID_ADDRESS = 2
    VMCLEAR_VMXON_POINTER = 3
    VMLAUNCH_NON_CLEAR = 4
    VMRESUME_NON_LAUNCHED = 5
    VMRESUME_AFTER_VMXOFF = 6
    ENTRY_INVALID_CONTROLS = 7
    ENTRY_INVALID_HOST_STATE = 8
    VMPTRLD_INVALID_ADDRESS = 9
    VMPTRLD_VMXON_POINTER = 10
    VMPTRLD_WRONG_REVISION = 11
    UNSUPPORTED_COMPONENT = 12
    VMWRITE_READ_ONLY = 13
    VMXON_IN_ROOT = 15
    ENTRY_INVALID_EXECUTIVE_VMCS = 16
    ENTRY_NON_LAUNCHED_EXECUTIVE_VMCS = 17
    ENTRY_EXECUTIVE_VMCS_NOT_VMXON = 18
    VMCALL_NON_CLEAR = 19
    VMCALL_INVALID_EXIT_CONTROLS = 20
    VMCALL_WRONG_MSEG_REVISION = 22
    VMXOFF_UNDER_DUAL_MONITOR = 23
    VMCALL_INVALID_SMM_FEATURES = 24
    ENTRY_INVALID_EXECUTIVE_CONTROLS = 25
    ENTRY_BLOCKED_BY_MOV_SS = 26
    INVALID_INVEPT_INVVPID_OPERAND = 28

    @property
    def meaning(self) -> str:
        """The manual's description."""
        return MEANINGS[self]


MEANINGS = {
    InstructionError.VMCALL_IN_ROOT: "VMCALL executed in VMX root operation",
    InstructionError.VMCLEAR_INVALID_ADDRESS: "VMCLEAR with invalid physical address",
    InstructionError.VMCLEAR_VMXON_POINTER: "VMCLEAR with VMXON pointer",
    InstructionError.VMLAUNCH_NON_CLEAR: "VMLAUNCH with non-clear VMCS",
    InstructionError.VMRESUME_NON_LAUNCHED: "VMRESUME with non-launched VMCS",
    InstructionError.VMRESUME_AFTER_VMXOFF: (
        "VMRESUME after VMXOFF (VMXOFF and VMXON between VMLAUNCH and VMRESUME)"
    ),
    InstructionError.ENTRY_INVALID_CONTROLS: "VM entry with invalid control field(s)",
    InstructionError.ENTRY_INVALID_HOST_STATE: "VM entry with invalid host-state field(s)",
    InstructionError.VMPTRLD_INVALID_ADDRESS: "VMPTRLD with invalid physical address",
    InstructionError.VMPTRLD_VMXON_POINTER: "VMPTRLD with VMXON pointer",
    InstructionError.VMPTRLD_WRONG_REVISION: "VMPTRLD with incorrect VMCS revision identifier",
    InstructionError.UNSUPPORTED_COMPONENT: ("VMREAD/VMWRITE from/to unsupported VMCS component"),
    InstructionError.VMWRITE_READ_ONLY: "VMWRITE to read-only VMCS component",
    InstructionError.VMXON_IN_ROOT: "VMXON executed in VMX root operation",
    InstructionError.ENTRY_INVALID_EXECUTIVE_VMCS: ("VM entry with invalid executive-VMCS pointer"),
    InstructionError.ENTRY_NON_LAUNCHED_EXECUTIVE_VMCS: (
        "VM entry with non-launched executive VMCS"
    ),
    InstructionError.ENTRY_EXECUTIVE_VMCS_NOT_VMXON: (
        "VM entry with executive-VMCS pointer not VMXON pointer"
    ),
    InstructionError.VMCALL_NON_CLEAR: "VMCALL with non-clear VMCS",
    InstructionError.VMCALL_INVALID_EXIT_CONTROLS: "VMCALL with invalid VM-exit control fields",
    InstructionError.VMCALL_WRONG_MSEG_REVISION: ("VMCALL with incorrect MSEG revision identifier"),
    InstructionError.VMXOFF_UNDER_DUAL_MONITOR: (
        "VMXOFF under dual-monitor treatment of SMIs and SMM"
    ),
    InstructionError.VMCALL_INVALID_SMM_FEATURES: "VMCALL with invalid SMM-monitor features",
    InstructionError.ENTRY_INVALID_EXECUTIVE_CONTROLS: (
        "VM entry with invalid VM-execution control fields in executive VMCS"
    ),
    InstructionError.ENTRY_BLOCKED_BY_MOV_SS: "VM entry with events blocked by MOV SS",
    InstructionError.INVALID_INVEPT_INVVPID_OPERAND: "Invalid operand to INVEPT/INVVPID",
}
