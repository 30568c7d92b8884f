"""Basic exit reasons: SDM 3C, "VMX Basic Exit Reasons"."""

from enum import IntEnum


class ExitReason(IntEnum):
    """Bits 15:0 of the exit-reason field."""

    EXCEPTION_OR_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT = 3
    SIPI = 4
    IO_SMI = 5
    OTHER_SMI = 6
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    GETSEC = 11
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    RSM = 17
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CR_ACCESS = 28
    MOV_DR = 29
    IO_INSTRUCTION = 30
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILURE_GUEST_STATE = 33
    ENTRY_FAILURE_MSR_LOADING = 34
    MWAIT = 36
    MONITOR_TRAP_FLAG = 37
    MONITOR = 39
    PAUSE = 40
    ENTRY_FAILURE_MACHINE_CHECK = 41
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    VIRTUALIZED_EOI = 45
    GDTR_OR_IDTR_ACCESS = 46
    LDTR_OR_TR_ACCESS = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    RDRAND = 57
    INVPCID = 58
    VMFUNC = 59
    ENCLS = 60
    RDSEED = 61
    PML_FULL = 62
    XSAVES = 63
    XRSTORS = 64


ENTRY_FAILURE = 1 << 31
"""Bit 31 of the exit-reason field: the VM entry failed after its checks of controls and host."""

ENTRY_FAILURES = frozenset(
    {
        ExitReason.ENTRY_FAILURE_GUEST_STATE,
        ExitReason.ENTRY_FAILURE_MSR_LOADING,
        ExitReason.ENTRY_FAILURE_MACHINE_CHECK,
    }
)

NAMES = {
    ExitReason.EXCEPTION_OR_NMI: "exception or NMI",
    ExitReason.IO_SMI: "I/O SMI",
    ExitReason.OTHER_SMI: "other SMI",
    ExitReason.INIT: "INIT signal",
    ExitReason.SIPI: "start-up IPI",
    ExitReason.NMI_WINDOW: "NMI window",
    ExitReason.CR_ACCESS: "control-register access",
    ExitReason.MOV_DR: "MOV DR",
    ExitReason.IO_INSTRUCTION: "I/O instruction",
    ExitReason.ENTRY_FAILURE_GUEST_STATE: "VM-entry failure: invalid guest state",
    ExitReason.ENTRY_FAILURE_MSR_LOADING: "VM-entry failure: MSR loading",
    ExitReason.ENTRY_FAILURE_MACHINE_CHECK: "VM-entry failure: machine-check event",
    ExitReason.TPR_BELOW_THRESHOLD: "TPR below threshold",
    ExitReason.APIC_ACCESS: "APIC access",
    ExitReason.VIRTUALIZED_EOI: "virtualized EOI",
    ExitReason.GDTR_OR_IDTR_ACCESS: "access to GDTR or IDTR",
    ExitReason.LDTR_OR_TR_ACCESS: "access to LDTR or TR",
    ExitReason.EPT_VIOLATION: "EPT violation",
    ExitReason.EPT_MISCONFIGURATION: "EPT misconfiguration",
    ExitReason.PREEMPTION_TIMER: "VMX-preemption timer expired",
    ExitReason.APIC_WRITE: "APIC write",
    ExitReason.PML_FULL: "page-modification log full",
    **{
        one: one.name.lower().replace("_", " ")
        for one in (
            ExitReason.EXTERNAL_INTERRUPT,
            ExitReason.TRIPLE_FAULT,
            ExitReason.INTERRUPT_WINDOW,
            ExitReason.TASK_SWITCH,
            ExitReason.MONITOR_TRAP_FLAG,
        )
    },
}


def name_of(reason: int) -> str:
    """Return a name for people of an exit-reason field's value (whatever is in it)."""
    basic = reason & 0xFFFF
    try:
        known = ExitReason(basic)
    except ValueError:
        return f"exit reason {basic}"
    return NAMES.get(known, known.name)
