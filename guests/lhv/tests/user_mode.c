/* L2 in user mode. */
#include "lib/string.h"
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/cpu.h"

static void start_user(struct vm *vm, const struct code *code)
{
    u32 size = IS_64BIT ? AR_LONG : AR_32BIT;
    vm_start(vm, code->start, 0);
    vm_set_segment(CS, SEL_USER_CODE | 3, 0, 0xffffffff, AR_CODE | AR_DPL3 | size | AR_PAGES);
    for (enum segment s = ES; s <= DS; s++)
        if (s != CS)
            vm_set_segment(s, SEL_USER_DATA | 3, 0, 0xffffffff,
                           AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
}

/*
 * In user mode a privileged instruction is #GP(0) before it is an exit, with one exception: MOV DR
 * (SDM 3C, "Instructions that cause VM exits conditionally").  The last four are not privileged.
 */
L2_CODE(l2_user_hlt, "", "hlt");
L2_CODE(l2_user_cr, "", "mov %cr3, " AX);
L2_CODE(l2_user_dr, "", "mov %dr7, " AX);
L2_CODE(l2_user_rdmsr, "mov $0x10, %ecx", "rdmsr");
L2_CODE(l2_user_wrmsr, "mov $0x174, %ecx", "wrmsr");
L2_CODE(l2_user_out, "", "out %al, $0x80");
L2_CODE(l2_user_invlpg, "", "invlpg (" SP ")");
L2_CODE(l2_user_wbinvd, "", "wbinvd");
L2_CODE(l2_user_invd, "", "invd");
L2_CODE(l2_user_clts, "", "clts");
L2_CODE(l2_user_lgdt, "", "lgdt (" SP ")");
L2_CODE(l2_user_cli, "", "cli");
L2_CODE(l2_user_cpuid, "", "cpuid");
L2_CODE(l2_user_vmcall, "mov $1, %eax", "vmcall");
L2_CODE(l2_user_rdtsc, "", "rdtsc");
L2_CODE(l2_user_pause, "", "pause");

static const struct {
    const char *name;
    const struct code *code;
    u32 reason; /* REASON_EXCEPTION: #GP(0) */
} user_rows[] = {
    { "HLT", &l2_user_hlt, REASON_EXCEPTION },
    { "MOV CR", &l2_user_cr, REASON_EXCEPTION },
    { "MOV DR", &l2_user_dr, REASON_DR },
    { "RDMSR", &l2_user_rdmsr, REASON_EXCEPTION },
    { "WRMSR", &l2_user_wrmsr, REASON_EXCEPTION },
    { "OUT", &l2_user_out, REASON_EXCEPTION },
    { "INVLPG", &l2_user_invlpg, REASON_EXCEPTION },
    { "WBINVD", &l2_user_wbinvd, REASON_EXCEPTION },
    { "INVD", &l2_user_invd, REASON_EXCEPTION },
    { "CLTS", &l2_user_clts, REASON_EXCEPTION },
    { "LGDT", &l2_user_lgdt, REASON_EXCEPTION },
    { "CLI", &l2_user_cli, REASON_EXCEPTION },
    { "CPUID", &l2_user_cpuid, REASON_CPUID },
    { "VMCALL", &l2_user_vmcall, REASON_VMCALL },
    { "RDTSC", &l2_user_rdtsc, REASON_RDTSC },
    { "PAUSE", &l2_user_pause, REASON_PAUSE },
};

static void intercept_all(struct vm *vm)
{
    static const u32 wanted[] = {
        CPU_HLT_EXITING, CPU_INVLPG_EXITING, CPU_RDTSC_EXITING,     CPU_MOV_DR_EXITING,
        CPU_IO_EXITING,  CPU_PAUSE_EXITING,  CPU_CR3_STORE_EXITING,
    };
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++)
        vm_control(vm, CPU, caps.may_be_1[CPU] & wanted[i], 0);
    if (may_set(CPU, CPU_SECONDARY))
        vm_control(vm, CPU2, caps.may_be_1[CPU2] & (CPU2_DESCRIPTOR_EXITING | CPU2_WBINVD_EXITING),
                   0);
}

TEST("modes", user, "user-mode-priorities", 0)
{
    intercept_all(vm);
    for (unsigned i = 0; i < ARRAY_LEN(user_rows); i++) {
        row(user_rows[i].name);
        start_user(vm, user_rows[i].code);
        vm_expect(vm, user_rows[i].reason);
        check_equal("IP", vm->ip, (word)user_rows[i].code->at);
        if (vm->reason != REASON_EXCEPTION)
            continue;
        check_equal("exception", vmread(VMCS_EXIT_EVENT),
                    EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 0);
    }
}

/* VMX instructions: by the general rule #GP(0) comes first, by the description of each instruction
   the exit does.  Either will do, and nothing else. */
L2_CODE(l2_user_vmread, "", "vmread " AX ", " CX);
L2_CODE(l2_user_vmxoff, "", "vmxoff");

TEST("modes", user_vmx, "user-mode-vmx-instructions", 0)
{
    const struct code *codes[] = { &l2_user_vmread, &l2_user_vmxoff };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        start_user(vm, codes[i]);
        vm_run(vm);
        check_equal("IP", vm->ip, (word)codes[i]->at);
        check(vm->reason == REASON_EXCEPTION || vm->reason == REASON_VMREAD ||
                  vm->reason == REASON_VMXOFF,
              "an exception or an exit");
    }
}

/* From user mode into the kernel of L2 by INT n, and back; the stack comes from L2's TSS. */
L2_CODE(l2_user_int, "mov $0x1111, %ebx", "int $0x55; mov $0x2222, %ebx; cpuid");

TEST("modes", user_int, "user-mode-interrupt", 0)
{
    void *idt = l2_use_idt(vm);
    struct tss *tss = page_alloc();
    word stack = (word)page_alloc() + PAGE_SIZE;
#ifdef __x86_64__
    tss->rsp[0] = stack;
#else
    tss->esp0 = stack;
    tss->ss0 = SEL_DATA;
#endif
    vmwrite(VMCS_GUEST_TR_BASE, (word)tss);
    l2_change_gate(idt, 0x55, GATE_DPL3, 0);
    start_user(vm, &l2_user_int);
    struct l2_frame frame = vm_expect_trap(vm, 0x55);
    check_equal("pushed CS", frame.cs, SEL_USER_CODE | 3);
    check_equal("pushed IP", frame.ip, (word)l2_user_int.at + 2);
    check_equal("CS in the handler", vmread(VMCS_GUEST_CS), SEL_CODE);
    check_equal("stack in the handler", vmread(VMCS_GUEST_RSP) & ~0xfffull, stack - PAGE_SIZE);
    vm_skip(vm);
    vm_expect(vm, REASON_CPUID);
    check_equal("back in user mode", vmread(VMCS_GUEST_CS), SEL_USER_CODE | 3);
    check_equal("BX", (u32)vm->regs.bx, 0x2222);
    row("through a gate that is not for user mode");
    l2_change_gate(idt, 0x55, 0, GATE_DPL3);
    start_user(vm, &l2_user_int);
    frame = vm_expect_trap(vm, EXC_GP);
    check_equal("error code", frame.error, 0x55 * 8 + 2);
}

/* A supervisor page is not for user mode: an ordinary page fault, although EPT would allow it. */
TEST("modes", user_page, "user-mode-page-fault", 0)
{
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0x9)), PTE_PRESENT | PTE_WRITE);
    space_map(&space, VIOLATION_PAGE + PAGE_SIZE, physical(access_page(0xa)),
              PTE_PRESENT | PTE_WRITE | PTE_USER);
    vm_use_space(vm, &space);
    for (unsigned i = 0; i < 2; i++) {
        start_access(vm, READ, VIOLATION_PAGE + i * PAGE_SIZE + sizeof(word));
        struct code code = { (void *)(word)vmread(VMCS_GUEST_RIP), NULL, NULL, NULL };
        word address = vm->regs.bx;
        start_user(vm, &code);
        vm->regs.bx = address;
        if (i == 1) {
            vm_expect_done(vm);
            check_equal("read by L2", read_value(vm), 0xa);
            continue;
        }
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("exception", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_PF);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 5); /* present, user */
    }
}

/* Misaligned accesses fault where CR0.AM and RFLAGS.AC are set; those of the kernel never do. */
L2_CODE(l2_misaligned, "mov " BX ", " DI, "movl $7, 2(" DI ")");
L2_CODE(l2_aligned, "mov " BX ", " DI, "movl $7, 4(" DI ")");

static const struct {
    const char *name;
    const struct code *code;
    word cr0, rflags;
    bool user, faults;
} alignment_rows[] = {
    { "in the kernel", &l2_misaligned, CR0_AM, RFLAGS_AC, false, false },
    { "misaligned", &l2_misaligned, CR0_AM, RFLAGS_AC, true, true },
    { "aligned", &l2_aligned, CR0_AM, RFLAGS_AC, true, false },
    { "without CR0.AM", &l2_misaligned, 0, RFLAGS_AC, true, false },
    { "without RFLAGS.AC", &l2_misaligned, CR0_AM, 0, true, false },
};

TEST("modes", alignment, "user-mode-alignment-check", 0)
{
    word cr0 = vmread(VMCS_GUEST_CR0) & ~(word)CR0_AM;
    for (unsigned i = 0; i < ARRAY_LEN(alignment_rows); i++) {
        row(alignment_rows[i].name);
        if (alignment_rows[i].user)
            start_user(vm, alignment_rows[i].code);
        else
            vm_start(vm, alignment_rows[i].code->start, 0);
        vmwrite(VMCS_GUEST_CR0, cr0 | alignment_rows[i].cr0);
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | alignment_rows[i].rflags);
        vm->regs.bx = (word)vm->shared;
        memset(vm->shared, 0, 16);
        if (!alignment_rows[i].faults) {
            vm_expect_done(vm);
            continue;
        }
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("IP", vm->ip, (word)alignment_rows[i].code->at);
        check_equal("exception", vmread(VMCS_EXIT_EVENT),
                    EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_AC);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 0);
        check_equal("not written", vm->shared[0], 0);
    }
}
