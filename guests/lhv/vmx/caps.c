#include "vmx/caps.h"
#include "x86/bits.h"
#include "x86/instructions.h"

struct caps caps;

static void read_cpuid(void)
{
    u32 basic = cpuid(0, 0).eax, extended = cpuid(0x80000000, 0).eax;
    struct cpuid leaf1 = cpuid(1, 0), leaf7 = { 0 };
    if (basic >= 7)
        leaf7 = cpuid(7, 0);
    caps.vmx = leaf1.ecx & BIT(5);
    caps.monitor = leaf1.ecx & BIT(3);
    caps.pcid = leaf1.ecx & BIT(17);
    caps.xsave = leaf1.ecx & BIT(26);
    caps.smep = leaf7.ebx & BIT(7);
    caps.invpcid = leaf7.ebx & BIT(10);
    caps.smap = leaf7.ebx & BIT(20);
    caps.physical_bits = 36;
    if (extended >= 0x80000001) {
        u32 edx = cpuid(0x80000001, 0).edx;
        caps.nx = edx & BIT(20);
        caps.pages_1g = edx & BIT(26);
        caps.rdtscp = edx & BIT(27);
        caps.long_mode = edx & BIT(29);
    }
    if (extended >= 0x80000008)
        caps.physical_bits = cpuid(0x80000008, 0).eax & 0xff;
}

/* IA32_FEATURE_CONTROL must be locked with VMX on; a firmware that left it open leaves that to us. */
static void read_feature_control(void)
{
    u64 value = rdmsr(MSR_FEATURE_CONTROL);
    if (!(value & FEATURE_CONTROL_LOCK)) {
        wrmsr(MSR_FEATURE_CONTROL, value | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX);
        value = rdmsr(MSR_FEATURE_CONTROL);
    }
    caps.vmx = value & FEATURE_CONTROL_VMX;
}

static void read_control(enum control_word word, u32 msr)
{
    u64 value = rdmsr(msr);
    caps.must_be_1[word] = (u32)value;
    caps.may_be_1[word] = (u32)(value >> 32);
}

static void read_controls(void)
{
    bool t = caps.true_controls;
    read_control(PIN, t ? MSR_VMX_TRUE_PINBASED : MSR_VMX_PINBASED);
    read_control(CPU, t ? MSR_VMX_TRUE_PROCBASED : MSR_VMX_PROCBASED);
    read_control(EXIT, t ? MSR_VMX_TRUE_EXIT : MSR_VMX_EXIT);
    read_control(ENTRY, t ? MSR_VMX_TRUE_ENTRY : MSR_VMX_ENTRY);
    if (may_set(CPU, CPU_SECONDARY))
        read_control(CPU2, MSR_VMX_PROCBASED2);
}

void caps_read(void)
{
    read_cpuid();
    if (caps.vmx)
        read_feature_control();
    if (!caps.vmx)
        return;
    u64 basic = rdmsr(MSR_VMX_BASIC);
    caps.revision = basic & 0x7fffffff;
    caps.true_controls = basic & BIT64(55);
    caps.misc = rdmsr(MSR_VMX_MISC);
    caps.cr0_fixed0 = (word)rdmsr(MSR_VMX_CR0_FIXED0);
    caps.cr0_fixed1 = (word)rdmsr(MSR_VMX_CR0_FIXED1);
    caps.cr4_fixed0 = (word)rdmsr(MSR_VMX_CR4_FIXED0);
    caps.cr4_fixed1 = (word)rdmsr(MSR_VMX_CR4_FIXED1);
    read_controls();
    if (may_set(CPU2, CPU2_EPT) || may_set(CPU2, CPU2_VPID))
        caps.ept_vpid = rdmsr(MSR_VMX_EPT_VPID);
    if (may_set(CPU2, CPU2_VMFUNC))
        caps.vmfunc = rdmsr(MSR_VMX_VMFUNC);
}

bool may_set(enum control_word word, u32 bits) { return (caps.may_be_1[word] & bits) == bits; }

bool may_clear(enum control_word word, u32 bits) { return !(caps.must_be_1[word] & bits); }

bool has_ept_cap(u64 bits) { return may_set(CPU2, CPU2_EPT) && (caps.ept_vpid & bits) == bits; }
