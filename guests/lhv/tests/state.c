/* What VM entries load and VM exits save and load (SDM 3C, "Loading guest state", "Saving guest
   state", "Loading host state"). */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

/* ---- general registers pass through both ways ---- */

#ifdef __x86_64__
L2_CODE(l2_swap,
        "xchg %rax, %r15; xchg %rbx, %r14; xchg %rcx, %r13; xchg %rdx, %r12;"
        "xchg %rsi, %r11; xchg %rdi, %r10; xchg %rbp, %r9; not %r8",
        "vmcall");
#else
L2_CODE(l2_swap, "xchg %eax, %edi; xchg %ebx, %esi; xchg %ecx, %ebp; not %edx", "vmcall");
#endif

TEST("state", registers, "state-general-registers", 0)
{
    word *regs = (word *)&vm->regs, n = sizeof(struct registers) / sizeof(word) - 1;
    vm_start(vm, l2_swap.start, 0);
    for (word i = 0; i < n; i++)
        regs[i] = 0x1010101 * (i + 1);
    vm_expect(vm, REASON_VMCALL);
#ifdef __x86_64__
    check_equal("RAX", vm->regs.ax, 0x1010101 * 1);
    check_equal("R15", vm->regs.r15, 0x1010101 * 15);
    check_equal("R9", vm->regs.r9, 0x1010101 * 11);
    check_equal("R8", vm->regs.r8, ~(word)(0x1010101 * 8));
#else
    check_equal("EAX", vm->regs.ax, 0x1010101 * 1);
    check_equal("EDI", vm->regs.di, 0x1010101 * 7);
    check_equal("ECX", vm->regs.cx, 0x1010101 * 3);
    check_equal("EDX", vm->regs.dx, ~(word)(0x1010101 * 5));
#endif
}

/* ---- segments ---- */

/* What L2 loads into FS, ES and LDTR, L1 finds in the VMCS, with the hidden parts. */
L2_CODE(l2_segments, "mov $0x23, %ecx; mov %ecx, %es; xor %ecx, %ecx; mov %ecx, %fs; lldt %cx",
        "vmcall");

TEST("state", segments, "state-segments-saved", 0)
{
    vm_start(vm, l2_segments.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("ES", vmread(VMCS_GUEST_ES), SEL_USER_DATA | 3);
    check_equal("ES limit", vmread(VMCS_GUEST_ES_LIMIT), 0xffffffff);
    check_equal("ES rights", vmread(VMCS_GUEST_ES_AR), AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
    check_equal("FS", vmread(VMCS_GUEST_FS), 0);
    check_equal("FS unusable", vmread(VMCS_GUEST_FS_AR) & AR_UNUSABLE, AR_UNUSABLE);
    check_equal("LDTR unusable", vmread(VMCS_GUEST_LDTR_AR) & AR_UNUSABLE, AR_UNUSABLE);
    row("lhv's own");
    check_equal("ES", read_es(), SEL_DATA);
    check_equal("FS", read_fs(), SEL_DATA);
    check_equal("TR", read_tr(), SEL_TSS);
}

/* A segment's base need not be what its descriptor says. */
L2_CODE(l2_fs, "", "mov %fs:0, " SI);

TEST("state", hidden_base, "state-segment-base-from-vmcs", 0)
{
    word *page = (word *)vm->shared;
    page[0] = 0x5e6;
    vmwrite(VMCS_GUEST_FS_BASE, (word)page);
    vm_start(vm, l2_fs.start, 0);
    vm_expect_done(vm);
    check_equal("read through FS", vm->regs.si, 0x5e6);
}

/* Descriptor tables: L2's own come and go, lhv's return with a limit of FFFFh. */
L2_CODE(l2_tables, "lgdt (" BX "); lidt 16(" BX ")", "vmcall");

TEST("state", tables, "state-descriptor-tables", 0)
{
    struct cpu *cpu = this_cpu();
    u64 *gdt = page_alloc();
    memcpy(gdt, cpu->gdt, sizeof cpu->gdt);
    u8 *operands = (u8 *)vm->shared;
    *(struct table_register *)operands = (struct table_register){ 0x77, (word)gdt };
    *(struct table_register *)(operands + 16) = (struct table_register){ 0x123, 0x456000 };
    vm_start(vm, l2_tables.start, 0);
    vm->regs.bx = (word)operands;
    vm_expect(vm, REASON_VMCALL);
    check_equal("GDTR base", vmread(VMCS_GUEST_GDTR_BASE), (word)gdt);
    check_equal("GDTR limit", vmread(VMCS_GUEST_GDTR_LIMIT), 0x77);
    check_equal("IDTR base", vmread(VMCS_GUEST_IDTR_BASE), 0x456000);
    check_equal("IDTR limit", vmread(VMCS_GUEST_IDTR_LIMIT), 0x123);
    struct table_register gdtr, idtr;
    asm volatile("sgdt %0" : "=m"(gdtr));
    asm volatile("sidt %0" : "=m"(idtr));
    check_equal("lhv's GDTR base", gdtr.base, (word)cpu->gdt);
    check_equal("lhv's GDTR limit", gdtr.limit, 0xffff);
    check_equal("lhv's IDTR base", idtr.base, idt_base());
    check_equal("lhv's IDTR limit", idtr.limit, 0xffff);
}

/* ---- flags ---- */

L2_CODE(l2_flags, "push $0x8d7; popf", "vmcall"); /* OF SF ZF AF PF CF */

TEST("state", flags, "state-rflags", 0)
{
    vm_start(vm, l2_flags.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("RFLAGS", vmread(VMCS_GUEST_RFLAGS), 0x8d7);
}

/* ---- DR7 and DEBUGCTL ---- */

L2_CODE(l2_dr7, "mov %dr7, " SI "; mov $0x455, %ecx; mov " CX ", %dr7", "vmcall");

TEST("state", debug, "state-debug-controls", 0)
{
    vm_needs(ENTRY, ENTRY_LOAD_DEBUG);
    vm_needs(EXIT, EXIT_SAVE_DEBUG);
    vm_control(vm, ENTRY, ENTRY_LOAD_DEBUG, 0);
    vm_control(vm, EXIT, EXIT_SAVE_DEBUG, 0);
    vmwrite(VMCS_GUEST_DR7, 0x415);
    vm_start(vm, l2_dr7.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("DR7 in L2", vm->regs.si, 0x415);
    check_equal("DR7 saved", vmread(VMCS_GUEST_DR7), 0x455);
    check_equal("DR7 after the exit", read_dr7(), 0x400);
}

TEST("state", debug_not_saved, "state-debug-controls-not-saved", 0)
{
    if (!may_clear(EXIT, EXIT_SAVE_DEBUG) || !may_clear(ENTRY, ENTRY_LOAD_DEBUG))
        skip("debug controls are always loaded and saved");
    vmwrite(VMCS_GUEST_DR7, 0x415);
    vm_start(vm, l2_dr7.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("DR7 in L2: lhv's", vm->regs.si, 0x400);
    check_equal("DR7 not saved", vmread(VMCS_GUEST_DR7), 0x415);
    check_equal("DR7 after the exit", read_dr7(), 0x400);
}

/* ---- MSRs that have fields ---- */

/* Reads an MSR into SI, and writes AX ^ DI to it. */
L2_CODE(l2_msr, "mov " BX ", " CX "; rdmsr; mov " AX ", " SI "; xor " DI ", " AX "; wrmsr",
        "vmcall");

static void allow_msrs(struct vm *vm)
{
    vm_needs(CPU, CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_MSR_BITMAPS, 0);
}

static void run_msr(struct vm *vm, u32 index, u32 flip)
{
    vm_start(vm, l2_msr.start, 0);
    vm->regs.bx = index;
    vm->regs.di = flip;
    vm_expect(vm, REASON_VMCALL);
}

TEST("state", pat, "state-pat", 0)
{
    vm_needs(ENTRY, ENTRY_LOAD_PAT);
    vm_needs(EXIT, EXIT_SAVE_PAT | EXIT_LOAD_PAT);
    allow_msrs(vm);
    u64 own = rdmsr(MSR_PAT);
    vm_control(vm, ENTRY, ENTRY_LOAD_PAT, 0);
    vm_control(vm, EXIT, EXIT_SAVE_PAT | EXIT_LOAD_PAT, 0);
    vmwrite(VMCS_GUEST_PAT, 0x0606060606060604);
    vmwrite(VMCS_HOST_PAT, own);
    run_msr(vm, MSR_PAT, 0x01); /* 04 becomes 05: WP */
    check_equal("PAT in L2", (u32)vm->regs.si, 0x06060604);
    check_equal("PAT saved", vmread(VMCS_GUEST_PAT), 0x0606060606060605);
    check_equal("PAT of lhv", rdmsr(MSR_PAT), own);
}

TEST("state", efer, "state-efer", 0)
{
    vm_needs(ENTRY, ENTRY_LOAD_EFER);
    vm_needs(EXIT, EXIT_SAVE_EFER | EXIT_LOAD_EFER);
    if (!caps.nx)
        skip("no EFER.NXE");
    allow_msrs(vm);
    u64 mode = IS_64BIT ? EFER_LME | EFER_LMA : 0;
    vm_control(vm, ENTRY, ENTRY_LOAD_EFER, 0);
    vm_control(vm, EXIT, EXIT_SAVE_EFER | EXIT_LOAD_EFER, 0);
    vmwrite(VMCS_GUEST_EFER, mode | EFER_NXE);
    vmwrite(VMCS_HOST_EFER, mode);
    run_msr(vm, MSR_EFER, EFER_NXE | EFER_SCE);
    check_equal("EFER in L2", (u32)vm->regs.si, mode | EFER_NXE);
    check_equal("EFER saved", vmread(VMCS_GUEST_EFER), mode | EFER_SCE);
    check_equal("EFER of lhv", rdmsr(MSR_EFER), mode);
}

/* The three SYSENTER MSRs have fields, and no control: always loaded and saved */
static const struct {
    const char *name;
    u32 index, guest, host;
} sysenter_rows[] = {
    { "SYSENTER_CS", MSR_SYSENTER_CS, VMCS_GUEST_SYSENTER_CS, VMCS_HOST_SYSENTER_CS },
    { "SYSENTER_ESP", MSR_SYSENTER_ESP, VMCS_GUEST_SYSENTER_ESP, VMCS_HOST_SYSENTER_ESP },
    { "SYSENTER_EIP", MSR_SYSENTER_EIP, VMCS_GUEST_SYSENTER_EIP, VMCS_HOST_SYSENTER_EIP },
};

TEST("state", sysenter, "state-sysenter", 0)
{
    allow_msrs(vm);
    for (unsigned i = 0; i < ARRAY_LEN(sysenter_rows); i++) {
        row(sysenter_rows[i].name);
        vmwrite(sysenter_rows[i].guest, 0x1000 + i);
        vmwrite(sysenter_rows[i].host, 0x2000 + i);
        run_msr(vm, sysenter_rows[i].index, 0x100);
        check_equal("in L2", (u32)vm->regs.si, 0x1000 + i);
        check_equal("saved", vmread(sysenter_rows[i].guest), 0x1100 + i);
        check_equal("of lhv", rdmsr(sysenter_rows[i].index), 0x2000 + i);
    }
}

/* ---- control registers ---- */

L2_CODE(l2_crs, "mov %cr2, " SI, "vmcall");

/* CR2 is in no VMCS field: it passes through. */
TEST("state", cr2, "state-cr2-passes-through", 0)
{
    write_cr2(0x1234567);
    vm_start(vm, l2_crs.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("CR2 in L2", vm->regs.si, 0x1234567);
}

TEST("state", host_crs, "state-host-control-registers", 0)
{
    word cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    vmwrite(VMCS_HOST_CR0, cr0 | CR0_MP);
    vmwrite(VMCS_HOST_CR4, cr4 | CR4_DE);
    vmwrite(VMCS_GUEST_CR0, cr0 & ~(word)CR0_MP);
    vm_start(vm, l2_crs.start, 0);
    vm_expect(vm, REASON_VMCALL);
    check_equal("CR0", read_cr0(), cr0 | CR0_MP);
    check_equal("CR3", read_cr3(), cr3);
    check_equal("CR4", read_cr4(), cr4 | CR4_DE);
    check_equal("CR0 of L2", vmread(VMCS_GUEST_CR0), cr0 & ~(word)CR0_MP);
    write_cr0(cr0);
    write_cr4(cr4);
}

/* Flags after a VM exit: all clear but the fixed one. */
TEST("state", host_flags, "state-host-rflags", 0)
{
    word flags;
    vm_start(vm, l2_flags.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vm_expect(vm, REASON_VMCALL);
    asm volatile("pushf; pop %0" : "=r"(flags));
    check_equal("IF", flags & RFLAGS_IF, 0);
}

/* ---- IA32_PERF_GLOBAL_CTRL ---- */

TEST("state", perf, "state-perf-global-ctrl", 0)
{
    u32 version = cpuid(0, 0).eax >= 10 ? cpuid(10, 0).eax : 0;
    if ((version & 0xff) < 2 || !(version >> 8 & 0xff))
        skip("no performance counters");
    vm_needs(ENTRY, ENTRY_LOAD_PERF);
    vm_needs(EXIT, EXIT_LOAD_PERF);
    allow_msrs(vm);
    vm_control(vm, ENTRY, ENTRY_LOAD_PERF, 0);
    vm_control(vm, EXIT, EXIT_LOAD_PERF, 0);
    vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 1);
    vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
    run_msr(vm, MSR_PERF_GLOBAL_CTRL, 1);
    check_equal("in L2", (u32)vm->regs.si, 1);
    check_equal("of lhv", rdmsr(MSR_PERF_GLOBAL_CTRL), 0);
}
