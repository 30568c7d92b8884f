// Entering VMX operation, and the VMCS: SDM 3C, "VMCS Data" and "VM Entries".
#include "vmx.h"

#define MSR_FEATURE_CONTROL 0x3a
#define MSR_VMX_BASIC 0x480
#define MSR_CR0_FIXED 0x486
#define MSR_CR4_FIXED 0x488
#define MSR_EFER 0xc0000080
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define CR4_VMXE (1ull << 13)
#define LOCKED_WITH_VMX 5
#define TSS_SELECTOR_ENTRIES 2
#define PAGE 4096

struct pseudo {
    u16 limit;
    u64 base;
} __attribute__((packed));

struct vmx_registers vmx_guest;

static u8 vmxon_region[PAGE] __attribute__((aligned(PAGE)));
static u8 vmcs_region[PAGE] __attribute__((aligned(PAGE)));
static u8 guest_stack[PAGE] __attribute__((aligned(16)));
static u64 gdt[64] __attribute__((aligned(16)));
static u8 tss[104] __attribute__((aligned(16)));
static u64 old_cr0, old_cr4;
static struct pseudo old_gdt;
static int launched;

// Hidden: found relative to the code, not through a table, which this format has not.
#define OURS __attribute__((visibility("hidden")))
extern OURS void guest_begins(void);
extern OURS void host_continues(void);
extern OURS u64 enter_guest(int resume);

static u64 rdmsr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}

static u64 read_cr0(void) { u64 v; asm volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static u64 read_cr3(void) { u64 v; asm volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static u64 read_cr4(void) { u64 v; asm volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static void write_cr0(u64 v) { asm volatile("mov %0, %%cr0" ::"r"(v) : "memory"); }
static void write_cr4(u64 v) { asm volatile("mov %0, %%cr4" ::"r"(v) : "memory"); }

#define SELECTOR(name)                                                                             \
    ({                                                                                             \
        u16 value;                                                                                 \
        asm volatile("mov %%" #name ", %0" : "=r"(value));                                         \
        value;                                                                                     \
    })

int vmx_is_offered(void)
{
    u32 a = 1, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return c >> 5 & 1 && (rdmsr(MSR_FEATURE_CONTROL) & LOCKED_WITH_VMX) == LOCKED_WITH_VMX;
}

static int set(u64 field, u64 value)
{
    u8 failed;
    asm volatile("vmwrite %2, %1; setna %0" : "=r"(failed) : "r"(field), "r"(value) : "cc");
    return failed;
}

u64 vmx_read(u64 field)
{
    u64 value = 0;
    asm volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
    return value;
}

// The firmware may have no TSS, which a host must have: its GDT is copied, and one is added.
static u16 load_tss(void)
{
    asm volatile("sgdt %0" : "=m"(old_gdt));
    u32 count = (old_gdt.limit + 1u) / 8;
    if (count > sizeof(gdt) / 8 - TSS_SELECTOR_ENTRIES)
        count = sizeof(gdt) / 8 - TSS_SELECTOR_ENTRIES;
    for (u32 i = 0; i < count; i++)
        gdt[i] = ((u64 *)old_gdt.base)[i];
    u64 base = (u64)tss;
    gdt[count] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
                 (base >> 24 & 0xff) << 56;
    gdt[count + 1] = base >> 32;
    struct pseudo own = { (u16)((count + TSS_SELECTOR_ENTRIES) * 8 - 1), (u64)gdt };
    u16 selector = (u16)(count * 8);
    asm volatile("lgdt %0; ltr %1" ::"m"(own), "r"(selector) : "memory");
    return selector;
}

u64 vmx_enter(void)
{
    u64 region = (u64)vmxon_region;
    u8 failed;

    *(u32 *)vmxon_region = (u32)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
    *(u32 *)vmcs_region = *(u32 *)vmxon_region;
    old_cr0 = read_cr0();
    old_cr4 = read_cr4();
    write_cr0((old_cr0 | rdmsr(MSR_CR0_FIXED)) & rdmsr(MSR_CR0_FIXED + 1));
    write_cr4((old_cr4 | CR4_VMXE | rdmsr(MSR_CR4_FIXED)) & rdmsr(MSR_CR4_FIXED + 1));
    asm volatile("vmxon %1; setna %0" : "=r"(failed) : "m"(region) : "cc", "memory");
    return failed;
}

static u64 adjusted(u32 index, u64 wanted)
{
    u64 allowed = rdmsr(index);
    return (wanted | (u32)allowed) & allowed >> 32;
}

static int set_controls(void)
{
    u32 offset = rdmsr(MSR_VMX_BASIC) >> 55 & 1 ? 0x48d - 0x481 : 0; // the TRUE MSRs
    int failed = set(0x4000, adjusted(0x481 + offset, 0));
    failed |= set(0x4002, adjusted(0x482 + offset, 0));
    failed |= set(0x400c, adjusted(0x483 + offset, 1 << 9 | 1 << 20 | 1 << 21)); // 64-bit; EFER
    failed |= set(0x4012, adjusted(0x484 + offset, 1 << 9 | 1 << 15));
    return failed | set(0x2800, ~0ull); // no VMCS link
}

static int set_segment(u32 number, u16 selector, u64 base, u32 limit, u32 rights)
{
    int failed = set(0x800 + 2 * number, selector);
    failed |= set(0x4800 + 2 * number, limit);
    failed |= set(0x4814 + 2 * number, rights);
    return failed | set(0x6806 + 2 * number, base);
}

// Guest and host have the same segments, tables and control registers.
static int set_state(u16 task)
{
    struct pseudo gdtr, idtr;
    asm volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
    u16 code = SELECTOR(cs), data = SELECTOR(ss);
    int failed = 0;
    for (u32 number = 0; number < 6; number++)
        failed |= number == 1 ? set_segment(number, code, 0, 0xffffffff, 0xa09b)
                              : set_segment(number, data, 0, 0xffffffff, 0xc093);
    failed |= set_segment(6, 0, 0, 0, 1 << 16);
    failed |= set_segment(7, task, (u64)tss, sizeof(tss) - 1, 0x8b);
    u64 fs = rdmsr(MSR_FS_BASE), gs = rdmsr(MSR_GS_BASE), efer = rdmsr(MSR_EFER);
    failed |= set(0x680e, fs) | set(0x6810, gs);
    const u64 guest[][2] = {
        { 0x6816, gdtr.base },  { 0x4810, gdtr.limit }, { 0x6818, idtr.base },
        { 0x4812, idtr.limit }, { 0x6800, read_cr0() }, { 0x6802, read_cr3() },
        { 0x6804, read_cr4() }, { 0x681a, 0x400 },      { 0x2806, efer },
        { 0x6820, 2 },          { 0x681e, (u64)guest_begins },
        { 0x681c, (u64)(guest_stack + PAGE) },
    };
    const u64 host[][2] = {
        { 0xc00, data & ~7u },  { 0xc02, code & ~7u },  { 0xc04, data & ~7u },
        { 0xc06, data & ~7u },  { 0xc08, data & ~7u },  { 0xc0a, data & ~7u },
        { 0xc0c, task },        { 0x6c00, read_cr0() }, { 0x6c02, read_cr3() },
        { 0x6c04, read_cr4() }, { 0x6c06, fs },         { 0x6c08, gs },
        { 0x6c0a, (u64)tss },   { 0x6c0c, gdtr.base },  { 0x6c0e, idtr.base },
        { 0x2c02, efer },       { 0x6c16, (u64)host_continues },
    };
    for (u32 i = 0; i < sizeof(guest) / sizeof(*guest); i++)
        failed |= set(guest[i][0], guest[i][1]);
    for (u32 i = 0; i < sizeof(host) / sizeof(*host); i++)
        failed |= set(host[i][0], host[i][1]);
    return failed;
}

u64 vmx_prepare(void)
{
    u64 region = (u64)vmcs_region;
    u8 failed;

    asm volatile("vmclear %1; setna %0" : "=r"(failed) : "m"(region) : "cc", "memory");
    if (failed)
        return 1;
    asm volatile("vmptrld %1; setna %0" : "=r"(failed) : "m"(region) : "cc", "memory");
    if (failed)
        return 1;
    return (u64)(set_controls() | set_state(load_tss()));
}

struct vmx_exit vmx_run(void)
{
    struct vmx_exit exit = { 0, 0 };

    exit.failed = (int)enter_guest(launched);
    launched = 1;
    exit.reason = vmx_read(0x4402) & 0xffff;
    return exit;
}

void vmx_skip(void) { set(0x681e, vmx_read(0x681e) + vmx_read(0x440c)); }

void vmx_leave(void)
{
    asm volatile("vmxoff" ::: "cc");
    asm volatile("lgdt %0" ::"m"(old_gdt));
    write_cr4(old_cr4);
    write_cr0(old_cr0);
}
