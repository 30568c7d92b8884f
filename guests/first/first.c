/*
 * Your first hypervisor, in five steps: docs/first-hypervisor.md goes through it.
 *
 * `step=N` on the command line goes that far.  Of lhv it uses the way from the loader to 64-bit mode
 * (boot/), a GDT, IDT and TSS (x86/cpu.c), a console, the numbers of the VMCS's fields
 * (vmx/fields.h), and the 60 lines that exchange registers with a guest (vmx/enter.S).
 */
#include "lib/print.h"
#include "lib/string.h"
#include "pc/console.h"
#include "pc/leave.h"
#include "vmx/fields.h"
#include "vmx/vm.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

int vm_enter(struct registers *guest, bool launched); /* vmx/enter.S */
extern const u8 vm_exited[];

static u8 vmxon_region[PAGE_SIZE] ALIGNED(4096), vmcs[PAGE_SIZE] ALIGNED(4096);
static u8 guest_stack[PAGE_SIZE] ALIGNED(4096);
static struct registers guest ALIGNED(16);
static bool launched;

static void stop(const char *why)
{
    print("stopped: %s\n", why);
    leave(1);
}

/* ---- step 1: VMX operation ---- */

/* A VMX instruction says with CF and ZF that it failed: without a current VMCS, or with one. */
#define VMX(text, ...)                                                                             \
    ({                                                                                             \
        bool cf_, zf_;                                                                             \
        asm volatile(text : "=@ccc"(cf_), "=@ccz"(zf_) : __VA_ARGS__ : "memory");                  \
        cf_ || zf_;                                                                                \
    })

static void turn_vmx_on(void)
{
    if (!(cpuid(1, 0).ecx & BIT(5)))
        stop("CPUID.1:ECX.VMX is 0: this processor has no VMX");
    /* The firmware may have locked VMX out; where it has not locked anything, we decide. */
    u64 feature = rdmsr(MSR_FEATURE_CONTROL);
    if (!(feature & FEATURE_CONTROL_LOCK))
        wrmsr(MSR_FEATURE_CONTROL, feature | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX);
    else if (!(feature & FEATURE_CONTROL_VMX))
        stop("IA32_FEATURE_CONTROL is locked without VMX");
    /* Some bits of CR0 and CR4 must be 1 in VMX operation, and some must be 0. */
    write_cr0((read_cr0() | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1));
    write_cr4((read_cr4() | rdmsr(MSR_VMX_CR4_FIXED0) | CR4_VMXE) & rdmsr(MSR_VMX_CR4_FIXED1));
    /* The region begins with the number of the VMCS's format; the rest is the processor's. */
    u32 revision = rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
    *(u32 *)vmxon_region = revision;
    u64 address = (u64)vmxon_region;
    if (VMX("vmxon %2", "m"(address)))
        stop("VMXON failed");
    print("step 1: in VMX root operation, VMCS revision %x\n", revision);
}

/* ---- step 2: a VMCS ---- */

static void write_field(enum vmcs_field field, u64 value)
{
    if (VMX("vmwrite %2, %3", "r"(value), "r"((u64)field)))
        stop("VMWRITE failed: there is no such field, or no current VMCS");
}

static u64 read_field(enum vmcs_field field)
{
    u64 value;
    asm volatile("vmread %1, %0" : "=r"(value) : "r"((u64)field) : "cc");
    return value;
}

static void make_vmcs(void)
{
    u64 address = (u64)vmcs;
    *(u32 *)vmcs = *(u32 *)vmxon_region;
    if (VMX("vmclear %2", "m"(address))) /* not active, not launched, its data in memory */
        stop("VMCLEAR failed");
    if (VMX("vmptrld %2", "m"(address))) /* current: what VMREAD, VMWRITE and VMLAUNCH mean */
        stop("VMPTRLD failed");
    write_field(VMCS_GUEST_RSP, 0x1234);
    print("step 2: the VMCS at %llx is current; guest RSP %llx\n", address,
          read_field(VMCS_GUEST_RSP));
}

/* ---- step 3: a guest, and its first VM exit ---- */

/* The low half of a capability MSR: what must be 1.  The high half: what may be 1. */
static u32 allowed(u32 msr, u32 wanted)
{
    u64 capability = rdmsr(msr);
    u32 value = (wanted | (u32)capability) & (u32)(capability >> 32);
    if ((value & wanted) != wanted)
        stop("this processor lacks a control");
    return value;
}

static void set_controls(u32 secondary)
{
    write_field(VMCS_PIN_CONTROLS, allowed(MSR_VMX_PINBASED, 0));
    write_field(VMCS_CPU_CONTROLS, allowed(MSR_VMX_PROCBASED, secondary ? CPU_SECONDARY : 0));
    if (secondary)
        write_field(VMCS_CPU2_CONTROLS, allowed(MSR_VMX_PROCBASED2, secondary));
    write_field(VMCS_EXIT_CONTROLS, allowed(MSR_VMX_EXIT, EXIT_HOST_64BIT));
    write_field(VMCS_ENTRY_CONTROLS, allowed(MSR_VMX_ENTRY, ENTRY_GUEST_64BIT));
    write_field(VMCS_EXCEPTION_BITMAP, 0xffffffff); /* the guest has no IDT: all come to us */
}

/* Where and how a VM exit arrives: in our own mode, on our own tables, behind vm_enter(). */
static void set_host_state(void)
{
    write_field(VMCS_HOST_CR0, read_cr0());
    write_field(VMCS_HOST_CR3, read_cr3());
    write_field(VMCS_HOST_CR4, read_cr4());
    write_field(VMCS_HOST_CS, SEL_CODE);
    write_field(VMCS_HOST_SS, SEL_DATA);
    write_field(VMCS_HOST_DS, SEL_DATA);
    write_field(VMCS_HOST_ES, SEL_DATA);
    write_field(VMCS_HOST_FS, SEL_DATA);
    write_field(VMCS_HOST_GS, SEL_DATA);
    write_field(VMCS_HOST_TR, SEL_TSS); /* must not be 0 */
    write_field(VMCS_HOST_GS_BASE, (u64)this_cpu());
    write_field(VMCS_HOST_TR_BASE, (u64)&this_cpu()->tss);
    write_field(VMCS_HOST_GDTR_BASE, (u64)this_cpu()->gdt);
    write_field(VMCS_HOST_IDTR_BASE, idt_base());
    write_field(VMCS_HOST_RSP, (u64)(&guest + 1) - sizeof guest.l1_stack);
    write_field(VMCS_HOST_RIP, (u64)vm_exited);
}

/* The guest runs in 64-bit mode too, on the same page tables, at `code`. */
static void set_guest_state(void (*code)(void))
{
    enum { CODE = 0xa09b, DATA = 0xc093, UNUSABLE = 0x10000, BUSY_TSS = 0x8b };
    for (unsigned segment = ES; segment <= TR; segment++) { /* their fields follow each other */
        u32 rights = segment == CS ? CODE : segment == TR ? BUSY_TSS : DATA;
        write_field(VMCS_GUEST_ES + 2 * segment, segment == CS ? SEL_CODE : 0);
        write_field(VMCS_GUEST_ES_LIMIT + 2 * segment, 0xffffffff);
        write_field(VMCS_GUEST_ES_AR + 2 * segment, segment == LDTR ? UNUSABLE : rights);
        write_field(VMCS_GUEST_ES_BASE + 2 * segment, 0);
    }
    write_field(VMCS_GUEST_TR_LIMIT, 0x67);
    write_field(VMCS_GUEST_CR0, read_cr0());
    write_field(VMCS_GUEST_CR3, read_cr3());
    write_field(VMCS_GUEST_CR4, read_cr4());
    write_field(VMCS_GUEST_DR7, 0x400);
    write_field(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    write_field(VMCS_GUEST_RSP, (u64)guest_stack + sizeof guest_stack - 64);
    write_field(VMCS_GUEST_RIP, (u64)code);
    write_field(VMCS_VMCS_LINK, ~0ull); /* no shadow VMCS */
}

enum { CPUID = 10, VMCALL = 18, EPT_VIOLATION = 48 };

/* Let the guest run until its next VM exit; return the exit's reason. */
static u32 run(void)
{
    if (vm_enter(&guest, launched)) {
        print("VM entry failed: VM-instruction error %u\n",
              (u32)read_field(VMCS_INSTRUCTION_ERROR));
        leave(1);
    }
    u32 reason = (u32)read_field(VMCS_EXIT_REASON);
    if (reason >> 31)
        stop("VM entry failed: the guest state is invalid");
    launched = true;
    return reason;
}

/* Go on behind the instruction that caused the exit. */
static void skip_instruction(void)
{
    write_field(VMCS_GUEST_RIP, read_field(VMCS_GUEST_RIP) + read_field(VMCS_EXIT_LENGTH));
}

static void says_42(void)
{
    asm volatile("vmcall" : : "a"(42));
    for (;;)
        ;
}

static void run_a_guest(void)
{
    set_controls(0);
    set_host_state();
    set_guest_state(says_42);
    u32 reason = run();
    print("step 3: exit reason %u at %llx, RAX %u\n", reason, read_field(VMCS_GUEST_RIP),
          (u32)guest.ax);
}

/* ---- step 4: handle exits, and let the guest go on ---- */

static void asks_who_this_is(void)
{
    u32 a = 0x40000000, b, c, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    asm volatile("vmcall" : : "a"(b));
    for (;;)
        ;
}

static void handle_exits(void)
{
    set_guest_state(asks_who_this_is);
    for (;;) {
        u32 reason = run();
        if (reason == VMCALL)
            break;
        if (reason != CPUID)
            stop("an exit that nobody expects");
        print("step 4: CPUID leaf %x\n", (u32)guest.ax);
        guest.bx = 0x73726966; /* "firs" */
        skip_instruction();
    }
    print("step 4: the guest has read %x\n", (u32)guest.ax);
}

/* ---- step 5: a memory of its own ---- */

enum { PAGE = 0x40000000 }; /* guest-physical: mapped by the guest's page tables, by EPT not yet */
static u64 tables[4][512] ALIGNED(4096);
static u64 first_page[512] ALIGNED(4096) = { 0x11111111 };
static u64 second_page[512] ALIGNED(4096) = { 0x22222222 };

static void reads_twice(void)
{
    volatile u32 *page = (volatile u32 *)PAGE;
    asm volatile("vmcall" : : "a"(*page));
    asm volatile("vmcall" : : "a"(*page));
    for (;;)
        ;
}

static void map(u64 *table, u64 index, void *to, u64 flags) { table[index] = (u64)to | flags; }

/* The first 1 GiB to itself with 2-MiB pages, and one 4-KiB page behind it that is not present. */
static u64 make_ept(void)
{
    map(tables[0], 0, tables[1], EPT_RWX);
    map(tables[1], 0, tables[2], EPT_RWX);
    map(tables[1], 1, tables[3], EPT_RWX);
    for (u64 i = 0; i < 512; i++)
        map(tables[2], i, (void *)(i << 21), EPT_RWX | EPT_WB | EPT_LARGE);
    static u64 leaves[512] ALIGNED(4096);
    map(tables[3], 0, leaves, EPT_RWX);
    return (u64)tables[0] | EPTP_WALK_4 | TYPE_WB;
}

static void forget(u64 eptp)
{
    struct {
        u64 eptp, zero;
    } operand = { eptp, 0 };
    enum { SINGLE_CONTEXT = 1 };
    if (VMX("invept %2, %3", "m"(operand), "r"((u64)SINGLE_CONTEXT)))
        stop("INVEPT failed");
}

static void use_ept(void)
{
    u64 eptp = make_ept();
    u64 *leaf = (u64 *)(tables[3][0] & EPT_ADDRESS);
    set_controls(CPU2_EPT);
    write_field(VMCS_EPT_POINTER, eptp);
    set_guest_state(reads_twice);
    for (unsigned calls = 0; calls < 2;) {
        u32 reason = run();
        if (reason == EPT_VIOLATION) {
            print("step 5: EPT violation at %llx, qualification %llx\n",
                  read_field(VMCS_GUEST_PHYSICAL), read_field(VMCS_EXIT_QUALIFICATION));
            map(leaf, 0, first_page, EPT_RWX | EPT_WB); /* was not present: nothing to forget */
        } else if (reason == VMCALL) {
            print("step 5: the guest has read %x\n", (u32)guest.ax);
            map(leaf, 0, second_page, EPT_RWX | EPT_WB);
            forget(eptp); /* the processor may remember the first page */
            skip_instruction();
            calls++;
        } else {
            stop("an exit that nobody expects");
        }
    }
}

/* ---- all of it ---- */

static void (*const steps[])(void) = {
    turn_vmx_on, make_vmcs, run_a_guest, handle_exits, use_ept,
};

struct multiboot_info {
    u32 flags, memory_lower, memory_upper, boot_device, command_line;
};

/* The digit behind "step=", or all steps. */
static unsigned steps_wanted(const struct multiboot_info *info)
{
    const char *text = info->flags & BIT(2) ? (const char *)(u64)info->command_line : "";
    for (; *text; text++)
        if (!memcmp(text, "step=", 5) && text[5] >= '1' && text[5] <= '5')
            return (unsigned)(text[5] - '0');
    return ARRAY_LEN(steps);
}

void lhv_main(u32 magic, const struct multiboot_info *info);
void lhv_main(u32 magic __attribute__((unused)), const struct multiboot_info *info)
{
    console_start();
    idt_build();
    cpu_set_up(&cpus[0], 0);
    unsigned wanted = steps_wanted(info);
    for (unsigned i = 0; i < wanted; i++)
        steps[i]();
    leave(0);
}
