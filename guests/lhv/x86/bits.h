/* Names of architectural bits (SDM 3A) and of the MSRs that lhv uses (SDM 4). */
#pragma once
#include "lib/types.h"

enum {
    CR0_PE = BIT(0),
    CR0_MP = BIT(1),
    CR0_EM = BIT(2),
    CR0_TS = BIT(3),
    CR0_ET = BIT(4),
    CR0_NE = BIT(5),
    CR0_WP = BIT(16),
    CR0_AM = BIT(18),
    CR0_NW = BIT(29),
    CR0_CD = BIT(30),
};
#define CR0_PG 0x80000000u

enum {
    CR4_VME = BIT(0),
    CR4_PVI = BIT(1),
    CR4_TSD = BIT(2),
    CR4_DE = BIT(3),
    CR4_PSE = BIT(4),
    CR4_PAE = BIT(5),
    CR4_MCE = BIT(6),
    CR4_PGE = BIT(7),
    CR4_PCE = BIT(8),
    CR4_OSFXSR = BIT(9),
    CR4_VMXE = BIT(13),
    CR4_SMXE = BIT(14),
    CR4_FSGSBASE = BIT(16),
    CR4_PCIDE = BIT(17),
    CR4_OSXSAVE = BIT(18),
    CR4_SMEP = BIT(20),
    CR4_SMAP = BIT(21),
};

enum {
    RFLAGS_FIXED = BIT(1), /* always one */
    RFLAGS_CF = BIT(0),
    RFLAGS_ZF = BIT(6),
    RFLAGS_TF = BIT(8),
    RFLAGS_IF = BIT(9),
    RFLAGS_NT = BIT(14),
    RFLAGS_RF = BIT(16),
    RFLAGS_VM = BIT(17),
    RFLAGS_AC = BIT(18),
};

enum {
    EFER_SCE = BIT(0),
    EFER_LME = BIT(8),
    EFER_LMA = BIT(10),
    EFER_NXE = BIT(11),
};

/* Entries of the guest-linear paging structures. */
enum {
    PTE_PRESENT = BIT(0),
    PTE_WRITE = BIT(1),
    PTE_USER = BIT(2),
    PTE_PWT = BIT(3),
    PTE_PCD = BIT(4),
    PTE_ACCESSED = BIT(5),
    PTE_DIRTY = BIT(6),
    PTE_LARGE = BIT(7),
    PTE_GLOBAL = BIT(8),
};

/* Exception vectors. */
enum {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
};

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_DEBUGCTL = 0x1d9,
    MSR_PAT = 0x277,
    MSR_PERF_GLOBAL_CTRL = 0x38f,
    MSR_VMX_BASIC = 0x480,
    MSR_VMX_PINBASED = 0x481,
    MSR_VMX_PROCBASED = 0x482,
    MSR_VMX_EXIT = 0x483,
    MSR_VMX_ENTRY = 0x484,
    MSR_VMX_MISC = 0x485,
    MSR_VMX_CR0_FIXED0 = 0x486,
    MSR_VMX_CR0_FIXED1 = 0x487,
    MSR_VMX_CR4_FIXED0 = 0x488,
    MSR_VMX_CR4_FIXED1 = 0x489,
    MSR_VMX_VMCS_ENUM = 0x48a,
    MSR_VMX_PROCBASED2 = 0x48b,
    MSR_VMX_EPT_VPID = 0x48c,
    MSR_VMX_TRUE_PINBASED = 0x48d,
    MSR_VMX_TRUE_PROCBASED = 0x48e,
    MSR_VMX_TRUE_EXIT = 0x48f,
    MSR_VMX_TRUE_ENTRY = 0x490,
    MSR_VMX_VMFUNC = 0x491,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

enum {
    FEATURE_CONTROL_LOCK = BIT(0),
    FEATURE_CONTROL_VMX = BIT(2), /* VMXON allowed outside SMX operation */
};
