/* The bits of the VMX control words (SDM 3C, "VM-execution control fields" and what follows). */
#pragma once
#include "lib/types.h"

/* The five control words whose allowed settings the capability MSRs tell. */
enum control_word { PIN, CPU, CPU2, EXIT, ENTRY, CONTROL_WORDS };

/* Pin-based */
enum {
    PIN_EXTINT_EXITING = BIT(0),
    PIN_NMI_EXITING = BIT(3),
    PIN_VIRTUAL_NMIS = BIT(5),
    PIN_PREEMPTION_TIMER = BIT(6),
    PIN_POSTED_INTERRUPTS = BIT(7),
};

/* Primary processor-based */
enum {
    CPU_INTERRUPT_WINDOW = BIT(2),
    CPU_TSC_OFFSETTING = BIT(3),
    CPU_HLT_EXITING = BIT(7),
    CPU_INVLPG_EXITING = BIT(9),
    CPU_MWAIT_EXITING = BIT(10),
    CPU_RDPMC_EXITING = BIT(11),
    CPU_RDTSC_EXITING = BIT(12),
    CPU_CR3_LOAD_EXITING = BIT(15),
    CPU_CR3_STORE_EXITING = BIT(16),
    CPU_CR8_LOAD_EXITING = BIT(19),
    CPU_CR8_STORE_EXITING = BIT(20),
    CPU_TPR_SHADOW = BIT(21),
    CPU_NMI_WINDOW = BIT(22),
    CPU_MOV_DR_EXITING = BIT(23),
    CPU_IO_EXITING = BIT(24),
    CPU_IO_BITMAPS = BIT(25),
    CPU_MONITOR_TRAP = BIT(27),
    CPU_MSR_BITMAPS = BIT(28),
    CPU_MONITOR_EXITING = BIT(29),
    CPU_PAUSE_EXITING = BIT(30),
};
#define CPU_SECONDARY BIT(31)

/* Secondary processor-based */
enum {
    CPU2_APIC_ACCESSES = BIT(0),
    CPU2_EPT = BIT(1),
    CPU2_DESCRIPTOR_EXITING = BIT(2),
    CPU2_RDTSCP = BIT(3),
    CPU2_X2APIC = BIT(4),
    CPU2_VPID = BIT(5),
    CPU2_WBINVD_EXITING = BIT(6),
    CPU2_UNRESTRICTED = BIT(7),
    CPU2_APIC_REGISTERS = BIT(8),
    CPU2_VIRTUAL_INTERRUPTS = BIT(9),
    CPU2_PAUSE_LOOP = BIT(10),
    CPU2_RDRAND_EXITING = BIT(11),
    CPU2_INVPCID = BIT(12),
    CPU2_VMFUNC = BIT(13),
    CPU2_VMCS_SHADOWING = BIT(14),
    CPU2_ENCLS_EXITING = BIT(15),
    CPU2_RDSEED_EXITING = BIT(16),
    CPU2_PML = BIT(17),
    CPU2_VE = BIT(18),
    CPU2_XSAVES = BIT(20),
    CPU2_TSC_SCALING = BIT(25),
};

/* VM-exit */
enum {
    EXIT_SAVE_DEBUG = BIT(2),
    EXIT_HOST_64BIT = BIT(9),
    EXIT_LOAD_PERF = BIT(12),
    EXIT_ACK_INTERRUPT = BIT(15),
    EXIT_SAVE_PAT = BIT(18),
    EXIT_LOAD_PAT = BIT(19),
    EXIT_SAVE_EFER = BIT(20),
    EXIT_LOAD_EFER = BIT(21),
    EXIT_SAVE_TIMER = BIT(22),
};

/* VM-entry */
enum {
    ENTRY_LOAD_DEBUG = BIT(2),
    ENTRY_GUEST_64BIT = BIT(9), /* "IA-32e mode guest" */
    ENTRY_TO_SMM = BIT(10),
    ENTRY_DUAL_MONITOR = BIT(11),
    ENTRY_LOAD_PERF = BIT(13),
    ENTRY_LOAD_PAT = BIT(14),
    ENTRY_LOAD_EFER = BIT(15),
};

/* IA32_VMX_EPT_VPID_CAP */
#define EPT_CAP_EXECUTE_ONLY BIT64(0)
#define EPT_CAP_WALK_4 BIT64(6)
#define EPT_CAP_WALK_5 BIT64(7)
#define EPT_CAP_UC BIT64(8)
#define EPT_CAP_WB BIT64(14)
#define EPT_CAP_2M BIT64(16)
#define EPT_CAP_1G BIT64(17)
#define EPT_CAP_INVEPT BIT64(20)
#define EPT_CAP_AD BIT64(21)
#define EPT_CAP_INVEPT_SINGLE BIT64(25)
#define EPT_CAP_INVEPT_ALL BIT64(26)
#define VPID_CAP_INVVPID BIT64(32)
#define VPID_CAP_TYPE(type) BIT64(40 + (type))

/* Basic exit reasons (SDM 3D, "VMX basic exit reasons") */
enum {
    REASON_EXCEPTION = 0, /* or NMI */
    REASON_EXTINT = 1,
    REASON_TRIPLE_FAULT = 2,
    REASON_INIT = 3,
    REASON_SIPI = 4,
    REASON_INTERRUPT_WINDOW = 7,
    REASON_NMI_WINDOW = 8,
    REASON_TASK_SWITCH = 9,
    REASON_CPUID = 10,
    REASON_GETSEC = 11,
    REASON_HLT = 12,
    REASON_INVD = 13,
    REASON_INVLPG = 14,
    REASON_RDPMC = 15,
    REASON_RDTSC = 16,
    REASON_VMCALL = 18,
    REASON_VMCLEAR = 19,
    REASON_VMLAUNCH = 20,
    REASON_VMPTRLD = 21,
    REASON_VMPTRST = 22,
    REASON_VMREAD = 23,
    REASON_VMRESUME = 24,
    REASON_VMWRITE = 25,
    REASON_VMXOFF = 26,
    REASON_VMXON = 27,
    REASON_CR = 28,
    REASON_DR = 29,
    REASON_IO = 30,
    REASON_RDMSR = 31,
    REASON_WRMSR = 32,
    REASON_BAD_GUEST = 33, /* VM-entry failure: guest state */
    REASON_BAD_MSRS = 34,  /* VM-entry failure: MSR loading */
    REASON_MWAIT = 36,
    REASON_MONITOR_TRAP = 37,
    REASON_MONITOR = 39,
    REASON_PAUSE = 40,
    REASON_TPR = 43,
    REASON_APIC_ACCESS = 44,
    REASON_EOI = 45,
    REASON_GDTR_IDTR = 46,
    REASON_LDTR_TR = 47,
    REASON_EPT_VIOLATION = 48,
    REASON_EPT_MISCONFIG = 49,
    REASON_INVEPT = 50,
    REASON_RDTSCP = 51,
    REASON_TIMER = 52,
    REASON_INVVPID = 53,
    REASON_WBINVD = 54,
    REASON_XSETBV = 55,
    REASON_APIC_WRITE = 56,
    REASON_RDRAND = 57,
    REASON_INVPCID = 58,
    REASON_VMFUNC = 59,
    REASON_RDSEED = 61,
    REASON_PML_FULL = 62,
};
#define REASON_ENTRY_FAILURE BIT(31)

/* VM-entry interruption information, VM-exit interruption information, IDT-vectoring information */
enum {
    EVENT_EXTERNAL = 0 << 8,
    EVENT_NMI = 2 << 8,
    EVENT_HARDWARE = 3 << 8,       /* hardware exception */
    EVENT_SOFTWARE = 4 << 8,       /* INT n */
    EVENT_PRIV_SOFTWARE = 5 << 8,  /* INT1 */
    EVENT_SOFT_EXCEPTION = 6 << 8, /* INT3, INTO */
    EVENT_OTHER = 7 << 8,          /* entry only: a pending monitor trap */
    EVENT_ERROR_CODE = BIT(11),
    EVENT_NMI_UNBLOCKING = BIT(12), /* exit only */
};
#define EVENT_VALID BIT(31)

/* Guest interruptibility state and activity state */
enum {
    BLOCKING_STI = BIT(0),
    BLOCKING_MOV_SS = BIT(1),
    BLOCKING_SMI = BIT(2),
    BLOCKING_NMI = BIT(3),
};
enum { ACTIVITY_ACTIVE = 0, ACTIVITY_HLT = 1, ACTIVITY_SHUTDOWN = 2, ACTIVITY_WAIT_SIPI = 3 };

/* Segment access rights */
enum {
    AR_ACCESSED = 1,
    AR_DATA = 0x93, /* present, read/write, accessed */
    AR_CODE = 0x9b, /* present, execute/read, accessed */
    AR_TSS_BUSY = 0x8b,
    AR_TSS16_BUSY = 0x83,
    AR_LDT = 0x82,
    AR_DPL3 = 0x60,
    AR_LONG = BIT(13),
    AR_32BIT = BIT(14), /* D/B */
    AR_PAGES = BIT(15), /* granularity */
    AR_UNUSABLE = BIT(16),
};
