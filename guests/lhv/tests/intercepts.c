/*
 * Instructions that exit if a control says so: each is tried with the control set and clear.
 *
 * A row names the instruction, the control, and what the exit looks like.  With the control clear
 * the instruction must run, or fault as the row says.
 */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

struct intercept {
    const struct code *code;
    enum control_word word;
    u32 control;
    u32 reason;
    word qualification;
    u32 also;   /* control bits of the secondary word that must be on in both cases */
    u8 fault;   /* the exception it meets when it does not exit; 0: none */
    bool other; /* do not look at the qualification */
};

/* Whether there is a fault may depend on more than VMX: a performance counter may exist or not. */
enum { ANY_FAULT = 255 };

/* What L2's instructions may use, through AX: zeroes, and at GDT_OPERAND the GDTR as it is. */
#define GDT_OPERAND 64

static void *operand_page(struct vm *vm)
{
    struct cpu *cpu = this_cpu();
    memset(vm->shared, 0, PAGE_SIZE);
    *(struct table_register *)((u8 *)vm->shared + GDT_OPERAND) =
        (struct table_register){ sizeof cpu->gdt - 1, (word)cpu->gdt };
    return vm->shared;
}

static void begin(struct vm *vm, const struct intercept *row_)
{
    vm_start(vm, row_->code->start, 0);
    vm->regs.ax = (word)operand_page(vm);
    vm->regs.cx = 0;
    vm->regs.dx = 0;
}

static void check_taken(struct vm *vm, const struct intercept *it)
{
    row("taken");
    vm_control(vm, it->word, it->control, 0);
    begin(vm, it);
    vm_expect(vm, it->reason);
    check_equal("IP", vm->ip, (word)it->code->at);
    check_equal("instruction length", vmread(VMCS_EXIT_LENGTH),
                (u64)(it->code->next - it->code->at));
    if (!it->other)
        check_equal("qualification", vm->qualification, it->qualification);
    vm_skip(vm);
    vm_expect_done(vm);
}

static void check_not_taken(struct vm *vm, const struct intercept *it)
{
    row("not taken");
    if (!may_clear(it->word, it->control))
        return;
    vm_control(vm, it->word, 0, it->control);
    begin(vm, it);
    vm_run(vm);
    if (vm->reason == REASON_EXCEPTION && it->fault) {
        u32 event = (u32)vmread(VMCS_EXIT_EVENT);
        check(it->fault == ANY_FAULT || (event & 0xff) == it->fault, "the right exception");
        check_equal("IP", vm->ip, (word)it->code->at);
        return;
    }
    if (vm->reason != REASON_VMCALL || (u32)vm->regs.ax != DONE) {
        fail("expected no exit");
        vm_describe(vm);
    }
}

static void check_intercept(struct vm *vm, const struct intercept *it)
{
    vm_needs(it->word, it->control);
    if (it->also)
        vm_needs(CPU2, it->also);
    vm_control(vm, CPU2, it->also, 0);
    check_taken(vm, it);
    check_not_taken(vm, it);
}

#define INTERCEPT(id, name, before, instruction, ...)                                              \
    L2_CODE(code_##id, before, instruction);                                                       \
    TEST("intercepts", id, name, 0)                                                                \
    {                                                                                              \
        static const struct intercept it = { .code = &code_##id, __VA_ARGS__ };                    \
        check_intercept(vm, &it);                                                                  \
    }

/* Only where CPUID offers the instruction. */
#define INTERCEPT_IF(condition, id, name, before, instruction, ...)                                \
    L2_CODE(code_##id, before, instruction);                                                       \
    TEST("intercepts", id, name, 0)                                                                \
    {                                                                                              \
        static const struct intercept it = { .code = &code_##id, __VA_ARGS__ };                    \
        if (!(condition))                                                                          \
            skip("no such instruction");                                                           \
        check_intercept(vm, &it);                                                                  \
    }

#define ON_CPU(bits) .word = CPU, .control = (bits)
#define ON_CPU2(bits) .word = CPU2, .control = (bits)

INTERCEPT(invlpg, "intercept-invlpg", "mov $0x12345678, %eax", "invlpg (" AX ")",
          ON_CPU(CPU_INVLPG_EXITING), .reason = REASON_INVLPG, .qualification = 0x12345678)

INTERCEPT(rdpmc, "intercept-rdpmc", "xor %ecx, %ecx", "rdpmc", ON_CPU(CPU_RDPMC_EXITING),
          .reason = REASON_RDPMC, .fault = ANY_FAULT)

INTERCEPT(rdtsc, "intercept-rdtsc", "", "rdtsc", ON_CPU(CPU_RDTSC_EXITING), .reason = REASON_RDTSC)

INTERCEPT_IF(caps.rdtscp, rdtscp, "intercept-rdtscp", "", "rdtscp", ON_CPU(CPU_RDTSC_EXITING),
             .reason = REASON_RDTSCP, .also = CPU2_RDTSCP)

INTERCEPT_IF(caps.monitor, monitor, "intercept-monitor", "xor %ecx, %ecx; xor %edx, %edx",
             "monitor", ON_CPU(CPU_MONITOR_EXITING), .reason = REASON_MONITOR)

/* Bit 0 of the qualification tells whether a monitor was armed, which nobody can be sure of. */
INTERCEPT_IF(caps.monitor, mwait, "intercept-mwait", "xor %eax, %eax; xor %ecx, %ecx", "mwait",
             ON_CPU(CPU_MWAIT_EXITING), .reason = REASON_MWAIT, .other = true)

INTERCEPT(pause, "intercept-pause", "", "pause", ON_CPU(CPU_PAUSE_EXITING), .reason = REASON_PAUSE)

/* MOV DR: the debug register, 16 for a read, the general register times 256 */
INTERCEPT(mov_to_dr, "intercept-mov-to-dr", "xor %ebx, %ebx", "mov " BX ", %dr0",
          ON_CPU(CPU_MOV_DR_EXITING), .reason = REASON_DR, .qualification = 0 | 3 << 8)
INTERCEPT(mov_from_dr, "intercept-mov-from-dr", "", "mov %dr7, " DX, ON_CPU(CPU_MOV_DR_EXITING),
          .reason = REASON_DR, .qualification = 7 | 16 | 2 << 8)

/* MOV CR: the control register, 16 for a read, the general register times 256 */
INTERCEPT(mov_to_cr3, "intercept-mov-to-cr3", "mov %cr3, " DX, "mov " DX ", %cr3",
          ON_CPU(CPU_CR3_LOAD_EXITING), .reason = REASON_CR, .qualification = 3 | 2 << 8)
INTERCEPT(mov_from_cr3, "intercept-mov-from-cr3", "", "mov %cr3, " SI,
          ON_CPU(CPU_CR3_STORE_EXITING), .reason = REASON_CR, .qualification = 3 | 16 | 6 << 8)
#ifdef __x86_64__
INTERCEPT(mov_to_cr8, "intercept-mov-to-cr8", "xor %eax, %eax", "mov %rax, %cr8",
          ON_CPU(CPU_CR8_LOAD_EXITING), .reason = REASON_CR, .qualification = 8)
INTERCEPT(mov_from_cr8, "intercept-mov-from-cr8", "", "mov %cr8, %r9",
          ON_CPU(CPU_CR8_STORE_EXITING), .reason = REASON_CR, .qualification = 8 | 16 | 9 << 8)
#endif

/* Descriptor tables; the qualification is the displacement in the operand. */
INTERCEPT(sgdt, "intercept-sgdt", "", "sgdt (" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_GDTR_IDTR)
INTERCEPT(sidt, "intercept-sidt", "", "sidt (" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_GDTR_IDTR)
INTERCEPT(lgdt, "intercept-lgdt", "", "lgdt 64(" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_GDTR_IDTR, .qualification = GDT_OPERAND)
INTERCEPT(lidt, "intercept-lidt", "", "lidt (" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_GDTR_IDTR)
INTERCEPT(sldt, "intercept-sldt", "", "sldt 2(" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_LDTR_TR, .qualification = 2)
/* two bytes below the page that AX points to: the end of L2's stack, which is not in use there */
INTERCEPT(str, "intercept-str", "", "str -2(" AX ", " CX ", 2)", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_LDTR_TR, .qualification = (word)-2)
INTERCEPT(lldt, "intercept-lldt", "", "lldt (" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_LDTR_TR)
/* The null selector: #GP(0) if it is not intercepted. */
INTERCEPT(ltr, "intercept-ltr", "", "ltr (" AX ")", ON_CPU2(CPU2_DESCRIPTOR_EXITING),
          .reason = REASON_LDTR_TR, .fault = EXC_GP)

INTERCEPT(wbinvd, "intercept-wbinvd", "", "wbinvd", ON_CPU2(CPU2_WBINVD_EXITING),
          .reason = REASON_WBINVD)

INTERCEPT_IF(cpuid(1, 0).ecx &BIT(30), rdrand, "intercept-rdrand", "", "rdrand %ecx",
             ON_CPU2(CPU2_RDRAND_EXITING), .reason = REASON_RDRAND)
INTERCEPT_IF(cpuid(7, 0).ebx &BIT(18), rdseed, "intercept-rdseed", "", "rdseed %ecx",
             ON_CPU2(CPU2_RDSEED_EXITING), .reason = REASON_RDSEED)

/* INVPCID exits under the control of INVLPG; type 2: everything.  AX points to zeroes. */
INTERCEPT_IF(caps.invpcid, invpcid, "intercept-invpcid", "mov $2, %ecx", "invpcid (" AX "), " CX,
             ON_CPU(CPU_INVLPG_EXITING), .reason = REASON_INVPCID, .also = CPU2_INVPCID)

/* ---- instructions that do not exist for L2 unless a control lets them ---- */

static void check_undefined(struct vm *vm, const struct code *code, u32 control)
{
    vm_needs(CPU2, control);
    vm_control(vm, CPU2, 0, control);
    vm_start(vm, code->start, 0);
    vm->regs.ax = (word)operand_page(vm);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    check_equal("IP", vm->ip, (word)code->at);
}

TEST("intercepts", ud_rdtscp, "rdtscp-not-enabled", 0)
{
    check_undefined(vm, &code_rdtscp, CPU2_RDTSCP);
}

TEST("intercepts", ud_invpcid, "invpcid-not-enabled", 0)
{
    check_undefined(vm, &code_invpcid, CPU2_INVPCID);
}

/* ---- instructions that always exit ---- */

L2_CODE(l2_cpuid, "xor %eax, %eax; xor %ecx, %ecx", "cpuid");
L2_CODE(l2_invd, "", "invd");
L2_CODE(l2_vmclear, "", "vmclear (" AX ")");
L2_CODE(l2_vmlaunch, "", "vmlaunch");
L2_CODE(l2_vmptrld, "", "vmptrld 16(" AX ")");
L2_CODE(l2_vmptrst, "", "vmptrst (" AX ")");
L2_CODE(l2_vmread, "", "vmread " CX ", 24(" AX ")");
L2_CODE(l2_vmresume, "", "vmresume");
L2_CODE(l2_vmwrite, "", "vmwrite 24(" AX "), " DX);
L2_CODE(l2_vmxoff, "", "vmxoff");
L2_CODE(l2_vmxon, "", "vmxon 0x1000(" AX ")");
L2_CODE(l2_invept, "", "invept (" AX "), " CX);
L2_CODE(l2_invvpid, "", "invvpid 8(" AX "), " CX);

static const struct {
    const char *name;
    const struct code *code;
    u32 reason;
    word displacement; /* of the memory operand: the qualification */
} always_rows[] = {
    { "CPUID", &l2_cpuid, REASON_CPUID, 0 },
    { "INVD", &l2_invd, REASON_INVD, 0 },
    { "VMCLEAR", &l2_vmclear, REASON_VMCLEAR, 0 },
    { "VMLAUNCH", &l2_vmlaunch, REASON_VMLAUNCH, 0 },
    { "VMPTRLD", &l2_vmptrld, REASON_VMPTRLD, 16 },
    { "VMPTRST", &l2_vmptrst, REASON_VMPTRST, 0 },
    { "VMREAD", &l2_vmread, REASON_VMREAD, 24 },
    { "VMRESUME", &l2_vmresume, REASON_VMRESUME, 0 },
    { "VMWRITE", &l2_vmwrite, REASON_VMWRITE, 24 },
    { "VMXOFF", &l2_vmxoff, REASON_VMXOFF, 0 },
    { "VMXON", &l2_vmxon, REASON_VMXON, 0x1000 },
    { "INVEPT", &l2_invept, REASON_INVEPT, 0 },
    { "INVVPID", &l2_invvpid, REASON_INVVPID, 8 },
};

TEST("intercepts", always, "always-exits", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(always_rows); i++) {
        const struct code *code = always_rows[i].code;
        if (always_rows[i].reason == REASON_INVEPT && !may_set(CPU2, CPU2_EPT))
            continue;
        if (always_rows[i].reason == REASON_INVVPID && !may_set(CPU2, CPU2_VPID))
            continue;
        row(always_rows[i].name);
        vm_start(vm, code->start, 0);
        vm->regs.ax = (word)operand_page(vm);
        vm_expect(vm, always_rows[i].reason);
        check_equal("IP", vm->ip, (word)code->at);
        check_equal("length", vmread(VMCS_EXIT_LENGTH), (u64)(code->next - code->at));
        check_equal("qualification", vm->qualification, always_rows[i].displacement);
        vm_skip(vm);
        vm_expect_done(vm);
    }
}

/* Instructions that could have a memory operand, but have a register: the displacement is 0. */
L2_CODE(l2_sldt_reg, "", "sldt %ecx");
L2_CODE(l2_str_reg, "", "str %ecx");
L2_CODE(l2_vmread_reg, "", "vmread " CX ", " DX);
L2_CODE(l2_vmwrite_reg, "", "vmwrite " CX ", " DX);

TEST("intercepts", register_operand, "exit-qualification-of-register-operand", 0)
{
    static const struct {
        const char *name;
        const struct code *code;
        u32 reason;
    } rows[] = {
        { "VMREAD", &l2_vmread_reg, REASON_VMREAD },
        { "VMWRITE", &l2_vmwrite_reg, REASON_VMWRITE },
        { "SLDT", &l2_sldt_reg, REASON_LDTR_TR },
        { "STR", &l2_str_reg, REASON_LDTR_TR },
    };
    bool descriptors = may_set(CPU2, CPU2_DESCRIPTOR_EXITING);
    vm_control(vm, CPU2, descriptors ? CPU2_DESCRIPTOR_EXITING : 0, 0);
    for (unsigned i = 0; i < (descriptors ? ARRAY_LEN(rows) : 2); i++) {
        row(rows[i].name);
        vm_start(vm, rows[i].code->start, 0);
        vm_expect(vm, rows[i].reason);
        check_equal("qualification", vm->qualification, 0);
    }
}

/* XSETBV exits, if it is one: with CR4.OSXSAVE clear it is undefined. */
L2_CODE(l2_xsetbv, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx", "xsetbv");

TEST("intercepts", xsetbv, "xsetbv-exit", 0)
{
    if (!caps.xsave)
        skip("no XSAVE");
    row("without CR4.OSXSAVE");
    vm_start(vm, l2_xsetbv.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT), EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    row("with CR4.OSXSAVE");
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_OSXSAVE);
    vm_start(vm, l2_xsetbv.start, 0);
    vm_expect(vm, REASON_XSETBV);
    check_equal("IP", vm->ip, (word)l2_xsetbv.at);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 3);
    vm_skip(vm);
    vm_expect_done(vm);
}

/* GETSEC always exits where it exists; without CR4.SMXE it does not. */
L2_CODE(l2_getsec, "xor %eax, %eax; xor %ebx, %ebx", "getsec");

TEST("intercepts", getsec, "getsec-exit", 0)
{
    row("without CR4.SMXE");
    vm_start(vm, l2_getsec.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT), EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    if (!(cpuid(1, 0).ecx & BIT(6)) || !(caps.cr4_fixed1 & CR4_SMXE))
        return;
    row("with CR4.SMXE");
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_SMXE);
    vm_start(vm, l2_getsec.start, 0);
    vm_expect(vm, REASON_GETSEC);
    check_equal("IP", vm->ip, (word)l2_getsec.at);
}

/* ---- what an instruction does when it does not exit ---- */

L2_CODE(l2_sgdt, "", "sgdt (" DI "); sidt 16(" DI "); str 32(" DI "); sldt 34(" DI ")");

TEST("intercepts", tables, "descriptor-tables-read", 0)
{
    struct {
        struct table_register gdtr;
        u8 gap1[16 - sizeof(struct table_register)];
        struct table_register idtr;
        u8 gap2[16 - sizeof(struct table_register)];
        u16 tr, ldtr;
    } *seen = operand_page(vm);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x123);
    vm_start(vm, l2_sgdt.start, (word)seen);
    vm->regs.di = (word)seen;
    vm_expect_done(vm);
    check_equal("GDTR limit", seen->gdtr.limit, vmread(VMCS_GUEST_GDTR_LIMIT));
    check_equal("GDTR base", seen->gdtr.base, vmread(VMCS_GUEST_GDTR_BASE));
    check_equal("IDTR limit", seen->idtr.limit, 0x123);
    check_equal("IDTR base", seen->idtr.base, vmread(VMCS_GUEST_IDTR_BASE));
    check_equal("TR", seen->tr, SEL_TSS);
    check_equal("LDTR", seen->ldtr, 0);
    row("limits that lhv had");
    struct table_register idtr;
    asm volatile("sidt %0" : "=m"(idtr));
    check_equal("IDTR limit after a VM exit", idtr.limit, 0xffff);
}
