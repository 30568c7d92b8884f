"""Which VM-exit information each basic exit reason saves.

SDM 3C, "Recording VM-Exit Information and Updating VM-Entry Control Fields". The exit qualification
is zero for reasons without a format here; the valid bits of the two interruption-information words
are clear where the table says no; the other fields are undefined where it says no, and we leave
them as they are.
"""

from dataclasses import dataclass

from turducken.bits import Layout
from turducken.vmx import exit_information as i
from turducken.vmx.exit_reasons import ExitReason as R


@dataclass(frozen=True, slots=True)
class ExitFields:
    """What a VM exit for one basic reason saves."""

    qualification: Layout | None = None
    """Format of the exit qualification; None where it is cleared."""
    linear: bool = False
    """Guest-linear address (for some of the reason's exits)."""
    physical: bool = False
    """Guest-physical address."""
    length: bool = False
    """VM-exit instruction length (for events: where an instruction caused the event)."""
    information: Layout | None = None
    """Format of the VM-exit instruction information."""
    interruption: bool = False
    """VM-exit interruption information and error code."""
    vectoring: bool = False
    """Can strike during event delivery: IDT-vectoring information and error code."""


_INSTRUCTION = ExitFields(length=True)


def _operand(information: Layout) -> ExitFields:
    return ExitFields(i.DISPLACEMENT_QUALIFICATION, length=True, information=information)


EXIT_FIELDS: dict[R, ExitFields] = {
    R.EXCEPTION_OR_NMI: ExitFields(
        # Page faults have LINEAR_ADDRESS_QUALIFICATION; other exceptions and NMIs none.
        i.DEBUG_QUALIFICATION,
        length=True,
        interruption=True,
        vectoring=True,
    ),
    R.EXTERNAL_INTERRUPT: ExitFields(interruption=True),
    R.TRIPLE_FAULT: ExitFields(),
    R.INIT: ExitFields(),
    R.SIPI: ExitFields(i.SIPI_QUALIFICATION),
    R.IO_SMI: ExitFields(i.IO_QUALIFICATION, linear=True),
    R.OTHER_SMI: ExitFields(),
    R.INTERRUPT_WINDOW: ExitFields(),
    R.NMI_WINDOW: ExitFields(),
    R.TASK_SWITCH: ExitFields(i.TASK_SWITCH_QUALIFICATION, length=True, vectoring=True),
    R.INVLPG: ExitFields(i.LINEAR_ADDRESS_QUALIFICATION, length=True),
    R.CR_ACCESS: ExitFields(i.CR_QUALIFICATION, linear=True, length=True),
    R.MOV_DR: ExitFields(i.DR_QUALIFICATION, length=True),
    R.IO_INSTRUCTION: ExitFields(
        i.IO_QUALIFICATION, linear=True, length=True, information=i.STRING_IO_INFORMATION
    ),
    R.MWAIT: ExitFields(i.MWAIT_QUALIFICATION, length=True),
    R.MONITOR_TRAP_FLAG: ExitFields(),
    R.TPR_BELOW_THRESHOLD: ExitFields(),
    R.APIC_ACCESS: ExitFields(i.APIC_ACCESS_QUALIFICATION, length=True, vectoring=True),
    R.APIC_WRITE: ExitFields(i.APIC_WRITE_QUALIFICATION),
    R.VIRTUALIZED_EOI: ExitFields(i.VIRTUALIZED_EOI_QUALIFICATION),
    R.GDTR_OR_IDTR_ACCESS: _operand(i.DESCRIPTOR_TABLE_INFORMATION),
    R.LDTR_OR_TR_ACCESS: _operand(i.SEGMENT_TABLE_INFORMATION),
    R.EPT_VIOLATION: ExitFields(
        # The length is undefined unless a software event was being delivered, but guest hypervisors
        # rely on it, and processors save it.
        i.EPT_QUALIFICATION,
        linear=True,
        physical=True,
        length=True,
        vectoring=True,
    ),
    R.EPT_MISCONFIGURATION: ExitFields(physical=True, length=True, vectoring=True),
    R.PREEMPTION_TIMER: ExitFields(),
    R.PML_FULL: ExitFields(i.PML_QUALIFICATION, vectoring=True),
    R.VMCLEAR: _operand(i.POINTER_INFORMATION),
    R.VMPTRLD: _operand(i.POINTER_INFORMATION),
    R.VMPTRST: _operand(i.POINTER_INFORMATION),
    R.VMXON: _operand(i.POINTER_INFORMATION),
    R.XSAVES: _operand(i.POINTER_INFORMATION),
    R.XRSTORS: _operand(i.POINTER_INFORMATION),
    R.VMREAD: _operand(i.FIELD_ACCESS_INFORMATION),
    R.VMWRITE: _operand(i.FIELD_ACCESS_INFORMATION),
    R.INVEPT: _operand(i.INVALIDATION_INFORMATION),
    R.INVVPID: _operand(i.INVALIDATION_INFORMATION),
    R.INVPCID: _operand(i.INVALIDATION_INFORMATION),
    R.RDRAND: ExitFields(length=True, information=i.RANDOM_INFORMATION),
    R.RDSEED: ExitFields(length=True, information=i.RANDOM_INFORMATION),
    R.CPUID: _INSTRUCTION,
    R.GETSEC: _INSTRUCTION,
    R.HLT: _INSTRUCTION,
    R.INVD: _INSTRUCTION,
    R.RDPMC: _INSTRUCTION,
    R.RDTSC: _INSTRUCTION,
    R.RDTSCP: _INSTRUCTION,
    R.RSM: _INSTRUCTION,
    R.VMCALL: _INSTRUCTION,
    R.VMLAUNCH: _INSTRUCTION,
    R.VMRESUME: _INSTRUCTION,
    R.VMXOFF: _INSTRUCTION,
    R.RDMSR: _INSTRUCTION,
    R.WRMSR: _INSTRUCTION,
    R.MONITOR: _INSTRUCTION,
    R.PAUSE: _INSTRUCTION,
    R.WBINVD: _INSTRUCTION,
    R.XSETBV: _INSTRUCTION,
    R.VMFUNC: _INSTRUCTION,
    R.ENCLS: _INSTRUCTION,
    R.ENTRY_FAILURE_GUEST_STATE: ExitFields(i.ENTRY_FAILURE_QUALIFICATION),
    R.ENTRY_FAILURE_MSR_LOADING: ExitFields(i.MSR_LOADING_QUALIFICATION),
    R.ENTRY_FAILURE_MACHINE_CHECK: ExitFields(),
}

_BY_NUMBER: dict[int, ExitFields] = {int(one): fields for one, fields in EXIT_FIELDS.items()}


def qualification_layout(reason: int, vector: int | None = None) -> Layout | None:
    """Return the exit qualification's format; ``vector`` is the exception's, for reason 0."""
    if reason == R.EXCEPTION_OR_NMI:
        page_fault, debug = 14, 1
        if vector == page_fault:
            return i.LINEAR_ADDRESS_QUALIFICATION
        return i.DEBUG_QUALIFICATION if vector == debug else None
    known = _BY_NUMBER.get(reason)
    return known.qualification if known else None
