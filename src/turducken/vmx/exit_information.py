"""Layouts of the VM-exit information fields, and of guest-state fields in formats of VMX's own.

SDM 3C, "Basic VM-Exit Information", "Information for VM Exits Due to Vectored Events", "Information
for VM Exits That Occur During Event Delivery", "Information for VM Exits Due to Instruction
Execution", "Guest Non-Register State". Bits that the manual calls undefined are declared as
ignored; we write zeros there.
"""

from enum import IntEnum

from turducken.arch.registers import GPR_NAMES
from turducken.bits import Field, Layout, bit, bits, ignored, reserved

EXIT_REASON = Layout(
    "exit reason",
    32,
    bits("BASIC", 15, 0, "basic exit reason"),
    reserved(26, 16),
    bit("ENCLAVE", 27, "the VM exit was incident to enclave mode"),
    bit("PENDING_MTF", 28, "pending MTF VM exit"),
    bit("FROM_ROOT", 29, "VM exit from VMX root operation"),
    reserved(30),
    bit("ENTRY_FAILURE", 31, "the VM entry failed"),
    source='SDM 3C, "Basic VM-Exit Information"',
)


# Vectored events


class EventType(IntEnum):
    """Interruption types, shared by injection, VM-exit interruption and IDT-vectoring."""

    EXTERNAL_INTERRUPT = 0
    NMI = 2
    HARDWARE_EXCEPTION = 3
    SOFTWARE_INTERRUPT = 4
    PRIVILEGED_SOFTWARE_EXCEPTION = 5
    SOFTWARE_EXCEPTION = 6
    OTHER_EVENT = 7


SOFTWARE_EVENTS = frozenset(
    {
        EventType.SOFTWARE_INTERRUPT,
        EventType.PRIVILEGED_SOFTWARE_EXCEPTION,
        EventType.SOFTWARE_EXCEPTION,
    }
)
"""Events that an instruction caused: their delivery needs the instruction's length."""

_EVENT_TYPES = {int(one): one.name for one in EventType}


def _interruption(name: str, bit_12: Field, source: str) -> Layout:
    return Layout(
        name,
        32,
        bits("VECTOR", 7, 0, "vector"),
        bits("TYPE", 10, 8, "interruption type", values=_EVENT_TYPES),
        bit("ERROR_CODE", 11, "an error code is delivered, or valid"),
        bit_12,
        reserved(30, 13),
        bit("VALID", 31, "valid"),
        source=source,
    )


ENTRY_INTERRUPTION = _interruption(
    "VM-entry interruption information",
    reserved(12),
    'SDM 3C, "VM-Entry Controls for Event Injection"',
)
EXIT_INTERRUPTION = _interruption(
    "VM-exit interruption information",
    bit("NMI_UNBLOCKING", 12, "NMI unblocking due to IRET"),
    'SDM 3C, "Information for VM Exits Due to Vectored Events"',
)
IDT_VECTORING = _interruption(
    "IDT-vectoring information",
    ignored(12),
    'SDM 3C, "Information for VM Exits That Occur During Event Delivery"',
)
INTERRUPTION_VALID = EXIT_INTERRUPTION.mask("VALID")
INTERRUPTION_ERROR_CODE = EXIT_INTERRUPTION.mask("ERROR_CODE")
INTERRUPTION_VECTOR = EXIT_INTERRUPTION.mask("VECTOR")
INTERRUPTION_TYPE = EXIT_INTERRUPTION["TYPE"]
NMI_UNBLOCKING = EXIT_INTERRUPTION.mask("NMI_UNBLOCKING")


def interruption(vector: int, kind: EventType, *, has_error_code: bool = False) -> int:
    """Return a valid interruption-information word (of any of the three formats)."""
    word = INTERRUPTION_VALID | kind << INTERRUPTION_TYPE.low | vector
    return word | INTERRUPTION_ERROR_CODE if has_error_code else word


# Exit qualifications

DEBUG_QUALIFICATION = Layout(
    "exit qualification: debug exception",
    64,
    bits("B", 3, 0, "breakpoint conditions detected"),
    reserved(12, 4),
    bit("BD", 13, "debug-register access detected"),
    bit("BS", 14, "single step"),
    reserved(15),
    bit("RTM", 16, "inside an RTM region"),
    reserved(63, 17),
    source='SDM 3C, "Basic VM-Exit Information"',
)
LINEAR_ADDRESS_QUALIFICATION = Layout(
    "exit qualification: linear address", 64, bits("ADDRESS", 63, 0, "linear address")
)
SIPI_QUALIFICATION = Layout(
    "exit qualification: start-up IPI", 64, bits("VECTOR", 7, 0, "SIPI vector"), reserved(63, 8)
)
TASK_SWITCH_QUALIFICATION = Layout(
    "exit qualification: task switch",
    64,
    bits("SELECTOR", 15, 0, "selector of the TSS switched to"),
    reserved(29, 16),
    bits("SOURCE", 31, 30, values={0: "CALL", 1: "IRET", 2: "JMP", 3: "task gate in IDT"}),
    reserved(63, 32),
)


class CrAccess(IntEnum):
    """Bits 5:4 of the exit qualification of a control-register access."""

    MOV_TO = 0
    MOV_FROM = 1
    CLTS = 2
    LMSW = 3


_REGISTERS = dict(enumerate(GPR_NAMES))

CR_QUALIFICATION = Layout(
    "exit qualification: control-register access",
    64,
    bits("NUMBER", 3, 0, "control register (0 for CLTS and LMSW)"),
    bits("ACCESS", 5, 4, values={int(one): one.name for one in CrAccess}),
    bit("LMSW_MEMORY", 6, "LMSW has a memory operand"),
    reserved(7),
    bits("REGISTER", 11, 8, "general-purpose register of a MOV", values=_REGISTERS),
    reserved(15, 12),
    bits("LMSW_SOURCE", 31, 16, "LMSW source data"),
    reserved(63, 32),
)
DR_QUALIFICATION = Layout(
    "exit qualification: MOV DR",
    64,
    bits("NUMBER", 2, 0, "debug register"),
    reserved(3),
    bit("FROM", 4, "0: MOV to DR; 1: MOV from DR"),
    reserved(7, 5),
    bits("REGISTER", 11, 8, "general-purpose register", values=_REGISTERS),
    reserved(63, 12),
)
IO_QUALIFICATION = Layout(
    "exit qualification: I/O instruction",
    64,
    bits("SIZE", 2, 0, "size of the access in bytes, minus 1"),
    bit("IN", 3, "0: OUT; 1: IN"),
    bit("STRING", 4, "string instruction"),
    bit("REP", 5, "REP prefixed"),
    bit("IMMEDIATE", 6, "0: port in DX; 1: immediate"),
    reserved(15, 7),
    bits("PORT", 31, 16, "port number"),
    reserved(63, 32),
)
MWAIT_QUALIFICATION = Layout(
    "exit qualification: MWAIT", 64, bit("ARMED", 0, "address-range monitoring"), reserved(63, 1)
)


class ApicAccess(IntEnum):
    """Bits 15:12 of the exit qualification of an APIC access."""

    LINEAR_READ = 0
    LINEAR_WRITE = 1
    LINEAR_FETCH = 2
    LINEAR_EVENT_DELIVERY = 3
    PHYSICAL_EVENT_DELIVERY = 10
    PHYSICAL = 15


APIC_ACCESS_QUALIFICATION = Layout(
    "exit qualification: APIC access",
    64,
    bits("OFFSET", 11, 0, "offset in the APIC page (linear accesses)"),
    bits("ACCESS", 15, 12, values={int(one): one.name for one in ApicAccess}),
    bit("ASYNCHRONOUS", 16, "asynchronous to instruction execution"),
    reserved(63, 17),
)
APIC_WRITE_QUALIFICATION = Layout(
    "exit qualification: APIC write", 64, bits("OFFSET", 11, 0, "page offset"), reserved(63, 12)
)
VIRTUALIZED_EOI_QUALIFICATION = Layout(
    "exit qualification: virtualized EOI", 64, bits("VECTOR", 7, 0), reserved(63, 8)
)
DISPLACEMENT_QUALIFICATION = Layout(
    "exit qualification: displacement",
    64,
    bits("DISPLACEMENT", 63, 0, "of the memory operand, sign-extended"),
)
EPT_QUALIFICATION = Layout(
    "exit qualification: EPT violation",
    64,
    bit("READ", 0, "data read"),
    bit("WRITE", 1, "data write"),
    bit("FETCH", 2, "instruction fetch"),
    bit("READABLE", 3, "the address is readable"),
    bit("WRITABLE", 4, "the address is writable"),
    bit("EXECUTABLE", 5, "... executable (supervisor-mode linear addresses, if mode-based)"),
    bit("USER_EXECUTABLE", 6, "... executable for user-mode linear addresses, if mode-based"),
    bit("LINEAR_VALID", 7, "the guest-linear address field is valid"),
    bit("FINAL", 8, "access to the translation, not to a guest paging structure"),
    bit("USER", 9, "user-mode linear address (advanced information)"),
    bit("LINEAR_WRITABLE", 10, "read/write page (advanced information)"),
    bit("LINEAR_XD", 11, "execute-disable page (advanced information)"),
    bit("NMI_UNBLOCKING", 12, "NMI unblocking due to IRET"),
    reserved(15, 13),
    bit("ASYNCHRONOUS", 16, "asynchronous to instruction execution"),
    reserved(63, 17),
    source='SDM 3C, "Exit Qualification for EPT Violations"',
)
PML_QUALIFICATION = Layout(
    "exit qualification: page-modification log full",
    64,
    reserved(11, 0),
    bit("NMI_UNBLOCKING", 12, "NMI unblocking due to IRET"),
    reserved(15, 13),
    bit("ASYNCHRONOUS", 16, "asynchronous to instruction execution"),
    reserved(63, 17),
)


class EntryFailureQualification(IntEnum):
    """Exit qualifications of exit reason 33: SDM 3C, "VM-Entry Failures During or After ..."."""

    OTHER = 0
    PDPTE = 2
    NMI = 3
    LINK_POINTER = 4


ENTRY_FAILURE_QUALIFICATION = Layout(
    "exit qualification: VM-entry failure due to invalid guest state",
    64,
    bits("CAUSE", 63, 0, values={int(one): one.name for one in EntryFailureQualification}),
)
MSR_LOADING_QUALIFICATION = Layout(
    "exit qualification: VM-entry failure due to MSR loading",
    64,
    bits("ENTRY", 63, 0, "number, from 1, of the entry of the MSR area"),
)


# Instruction information

_SEGMENT_NAMES = dict(enumerate(("ES", "CS", "SS", "DS", "FS", "GS")))
_ADDRESS_SIZES = {0: "16-bit", 1: "32-bit", 2: "64-bit"}
_OPERAND_SIZES = {0: "16-bit", 1: "32-bit", 2: "64-bit"}


def _operand_fields() -> tuple[Field, ...]:
    """Return how the formats with a memory operand describe it."""
    return (
        bits("SCALING", 1, 0, values={0: "no scaling", 1: "by 2", 2: "by 4", 3: "by 8"}),
        bits("ADDRESS_SIZE", 9, 7, values=_ADDRESS_SIZES),
        bits("SEGMENT", 17, 15, "segment register", values=_SEGMENT_NAMES),
        bits("INDEX", 21, 18, "index register", values=_REGISTERS),
        bit("INDEX_INVALID", 22, "there is no index register"),
        bits("BASE", 26, 23, "base register", values=_REGISTERS),
        bit("BASE_INVALID", 27, "there is no base register"),
    )


def _information(name: str, *fields: Field) -> Layout:
    return Layout(
        f"instruction information: {name}",
        32,
        *fields,
        source='SDM 3C, "Information for VM Exits Due to Instruction Execution"',
    )


STRING_IO_INFORMATION = _information(
    "INS and OUTS",
    ignored(6, 0),
    bits("ADDRESS_SIZE", 9, 7, values=_ADDRESS_SIZES),
    ignored(14, 10),
    bits("SEGMENT", 17, 15, "segment register (OUTS)", values=_SEGMENT_NAMES),
    ignored(31, 18),
)
INVALIDATION_INFORMATION = _information(
    "INVEPT, INVPCID and INVVPID",
    *_operand_fields(),
    ignored(6, 2),
    reserved(10),
    ignored(14, 11),
    bits("REG2", 31, 28, "register operand", values=_REGISTERS),
)
DESCRIPTOR_TABLE_INFORMATION = _information(
    "LIDT, LGDT, SIDT and SGDT",
    *_operand_fields(),
    ignored(6, 2),
    reserved(10),
    bit("OPERAND_SIZE", 11, "0: 16-bit; 1: 32-bit; undefined in 64-bit mode"),
    ignored(14, 12),
    bits("INSTRUCTION", 29, 28, values={0: "SGDT", 1: "SIDT", 2: "LGDT", 3: "LIDT"}),
    ignored(31, 30),
)
SEGMENT_TABLE_INFORMATION = _information(
    "LLDT, LTR, SLDT and STR",
    *_operand_fields(),
    ignored(2),
    bits("REG1", 6, 3, "register operand", values=_REGISTERS),
    bit("IS_REGISTER", 10, "0: memory operand; 1: register operand"),
    ignored(14, 11),
    bits("INSTRUCTION", 29, 28, values={0: "SLDT", 1: "STR", 2: "LLDT", 3: "LTR"}),
    ignored(31, 30),
)
RANDOM_INFORMATION = _information(
    "RDRAND and RDSEED",
    ignored(2, 0),
    bits("REG1", 6, 3, "destination register", values=_REGISTERS),
    ignored(10, 7),
    bits("OPERAND_SIZE", 12, 11, values=_OPERAND_SIZES),
    ignored(31, 13),
)
POINTER_INFORMATION = _information(
    "VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS and XSAVES",
    *_operand_fields(),
    ignored(6, 2),
    reserved(10),
    ignored(14, 11),
    ignored(31, 28),
)
FIELD_ACCESS_INFORMATION = _information(
    "VMREAD and VMWRITE",
    *_operand_fields(),
    ignored(2),
    bits("REG1", 6, 3, "register operand with the data", values=_REGISTERS),
    bit("IS_REGISTER", 10, "0: memory operand; 1: register operand"),
    ignored(14, 11),
    bits("REG2", 31, 28, "register operand with the encoding", values=_REGISTERS),
)

# Guest state


class Activity(IntEnum):
    """SDM 3C, "Guest Non-Register State": activity states."""

    ACTIVE = 0
    HLT = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3


INTERRUPTIBILITY = Layout(
    "interruptibility state",
    32,
    bit("STI", 0, "blocking by STI"),
    bit("MOV_SS", 1, "blocking by MOV SS"),
    bit("SMI", 2, "blocking by SMI"),
    bit("NMI", 3, "blocking by NMI (virtual-NMI blocking)"),
    bit("ENCLAVE", 4, "enclave interruption"),
    reserved(31, 5),
    source='SDM 3C, "Guest Non-Register State"',
)
BLOCKING_BY_STI = INTERRUPTIBILITY.mask("STI")
BLOCKING_BY_MOV_SS = INTERRUPTIBILITY.mask("MOV_SS")
BLOCKING_BY_SMI = INTERRUPTIBILITY.mask("SMI")
BLOCKING_BY_NMI = INTERRUPTIBILITY.mask("NMI")
ENCLAVE_INTERRUPTION = INTERRUPTIBILITY.mask("ENCLAVE")

PENDING_DEBUG = Layout(
    "pending debug exceptions",
    64,
    bits("B", 3, 0, "breakpoint conditions met"),
    reserved(11, 4),
    bit("ENABLED", 12, "an enabled data or I/O breakpoint was met"),
    reserved(13),
    bit("BS", 14, "a single-step trap is pending"),
    reserved(15),
    bit("RTM", 16, "occurred inside an RTM region"),
    reserved(63, 17),
    source='SDM 3C, "Guest Non-Register State"',
)

ACCESS_RIGHTS = Layout(
    "segment access rights",
    32,
    bits("TYPE", 3, 0, "segment type"),
    bit("S", 4, "0: system; 1: code or data"),
    bits("DPL", 6, 5, "descriptor privilege level"),
    bit("P", 7, "present"),
    reserved(11, 8),
    bit("AVL", 12, "available for use by system software"),
    bit("L", 13, "64-bit mode active (CS)"),
    bit("D/B", 14, "default operation size"),
    bit("G", 15, "granularity"),
    bit("UNUSABLE", 16, "segment unusable"),
    reserved(31, 17),
    source='SDM 3C, "Guest Register State"',
)
UNUSABLE = ACCESS_RIGHTS.mask("UNUSABLE")


# VMX aborts


class VmxAbort(IntEnum):
    """SDM 3C, "VMX Aborts": values of the VMX-abort indicator."""

    SAVING_GUEST_MSRS = 1
    HOST_PDPTE_CHECK = 2
    CORRUPTED_VMCS = 3
    LOADING_HOST_MSRS = 4
    MACHINE_CHECK = 5
    IA32E_HOST_IN_32_BIT = 6
