/* What this processor's VMX offers (SDM 3D, appendix "VMX capability reporting facility"). */
#pragma once
#include "vmx/controls.h"

struct caps {
    bool vmx;     /* CPUID says VMX, and IA32_FEATURE_CONTROL lets us use it */
    u32 revision; /* of VMCS regions */
    bool true_controls;
    u32 must_be_1[CONTROL_WORDS];
    u32 may_be_1[CONTROL_WORDS];
    u64 misc, ept_vpid, vmfunc;
    word cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
    u32 max_extended_leaf;
    unsigned physical_bits; /* MAXPHYADDR */
    bool nx, long_mode, pcid, invpcid, rdtscp, monitor, xsave, pages_1g, smep, smap;
};
extern struct caps caps;

void caps_read(void);

/* May all of these bits of the control word be 1 (or 0)? */
bool may_set(enum control_word word, u32 bits);
bool may_clear(enum control_word word, u32 bits);

bool has_ept_cap(u64 bits);
