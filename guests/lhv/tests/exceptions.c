/* Exceptions of L2: the exception bitmap, page-fault error codes, double and triple faults. */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

/* Selectors of descriptors that L2's GDT has and lhv's has not */
enum { SEL_ABSENT = GDT_ENTRIES * 8, SEL_BEYOND = 0x7f8 };
#define DESC_ABSENT 0x00cf13000000ffffull /* a data segment, not present */

/* A linear address that nothing is mapped to */
enum { NOWHERE = 0x12340000, READ_ONLY = 0x12341000 };

L2_CODE(l2_de, "xor %ecx, %ecx; xor %edx, %edx; mov $1, %eax", "div %ecx");
L2_CODE(l2_db, "pushf; orl $0x100, (" SP "); popf", "nop"); /* single step */
L2_CODE(l2_bp, "", "int3");
L2_CODE(l2_ud, "", "ud2");
L2_CODE(l2_nm, "mov %cr0, " AX "; or $8, %eax; mov " AX ", %cr0", "fnop");
L2_CODE(l2_np, "mov $0x60, %ecx", "mov %ecx, %fs");
L2_CODE(l2_ss, "mov $0x60, %ecx", "mov %ecx, %ss");
L2_CODE(l2_gp, "mov $0x7f8, %ecx", "mov %ecx, %fs");
L2_CODE(l2_pf_read, "mov $0x12340123, %ecx", "mov (" CX "), %eax");
L2_CODE(l2_pf_write, "mov $0x12340123, %ecx", "movb $1, (" CX ")");
L2_CODE(l2_pf_read_only, "mov $0x12341123, %ecx", "movb $1, (" CX ")");
L2_CODE(l2_pf_fetch, "mov $0x12340123, %ecx", "jmp *" CX);
/* Divide by zero in the x87 unit with that exception unmasked; FWAIT meets it. */
L2_CODE(l2_mf, "fninit; push $0x37b; fldcw (" SP "); pop " AX "; fld1; fldz; fdivrp", "fwait");
#ifndef __x86_64__
L2_CODE(l2_of, "mov $0x7f, %al; add $1, %al", "into");
L2_CODE(l2_br, "push $2; push $1; mov %esp, %ecx; mov $3, %eax", "bound %eax, (%ecx)");
#endif

static const struct exception {
    const char *name;
    const struct code *code;
    u8 vector;
    u32 type;
    bool trap; /* reported behind the instruction, when delivered by L2's IDT */
    bool has_error;
    u32 error;
    word qualification;
} rows[] = {
    { "#DE", &l2_de, EXC_DE, EVENT_HARDWARE, false, false, 0, 0 },
    { "#BP", &l2_bp, EXC_BP, EVENT_SOFT_EXCEPTION, true, false, 0, 0 },
    { "#UD", &l2_ud, EXC_UD, EVENT_HARDWARE, false, false, 0, 0 },
    { "#NM", &l2_nm, EXC_NM, EVENT_HARDWARE, false, false, 0, 0 },
    { "#NP", &l2_np, EXC_NP, EVENT_HARDWARE, false, true, SEL_ABSENT, 0 },
    { "#SS", &l2_ss, EXC_SS, EVENT_HARDWARE, false, true, SEL_ABSENT, 0 },
    { "#GP", &l2_gp, EXC_GP, EVENT_HARDWARE, false, true, SEL_BEYOND, 0 },
    { "#PF, read", &l2_pf_read, EXC_PF, EVENT_HARDWARE, false, true, 0, NOWHERE + 0x123 },
    { "#PF, write", &l2_pf_write, EXC_PF, EVENT_HARDWARE, false, true, 2, NOWHERE + 0x123 },
    { "#PF, protection", &l2_pf_read_only, EXC_PF, EVENT_HARDWARE, false, true, 3,
      READ_ONLY + 0x123 },
    { "#MF", &l2_mf, EXC_MF, EVENT_HARDWARE, false, false, 0, 0 },
#ifndef __x86_64__
    { "#OF", &l2_of, EXC_OF, EVENT_SOFT_EXCEPTION, true, false, 0, 0 },
    { "#BR", &l2_br, EXC_BR, EVENT_HARDWARE, false, false, 0, 0 },
#endif
};

/* L2's GDT: lhv's, and a descriptor that is not present. */
static void use_own_gdt(struct vm *vm __attribute__((unused)))
{
    u64 *gdt = page_alloc();
    memcpy(gdt, this_cpu()->gdt, sizeof this_cpu()->gdt);
    gdt[SEL_ABSENT / 8] = DESC_ABSENT;
    vmwrite(VMCS_GUEST_GDTR_BASE, (word)gdt);
    vmwrite(VMCS_GUEST_GDTR_LIMIT, SEL_ABSENT + 7);
}

/* L2 with its own IDT, GDT, and a space in which NOWHERE is unmapped */
static void *prepare(struct vm *vm)
{
    struct space space;
    void *idt = l2_use_idt(vm);
    space_create(&space, PAGING_NATIVE);
    space_map(&space, READ_ONLY, physical(page_alloc()), PTE_PRESENT);
    vm_use_space(vm, &space);
    use_own_gdt(vm);
    return idt;
}

static void begin(struct vm *vm, const struct exception *it)
{
    asm volatile("fninit"); /* no x87 exception left over from the row before */
    vmwrite(VMCS_GUEST_CR0, read_cr0() & ~(word)CR0_TS);
    vm_start(vm, it->code->start, 0);
}

static void check_taken(struct vm *vm, const struct exception *it)
{
    u32 error = it->has_error ? EVENT_ERROR_CODE : 0;
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(it->vector));
    begin(vm, it);
    write_cr2(0x4321);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | it->type | error | it->vector);
    if (it->has_error)
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), it->error);
    check_equal("qualification", vm->qualification, it->qualification);
    check_equal("IP", vm->ip, (word)it->code->at);
    if (it->type == EVENT_SOFT_EXCEPTION)
        check_equal("length", vmread(VMCS_EXIT_LENGTH), (u64)(it->code->next - it->code->at));
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    check_equal("CR2 did not change", read_cr2(), 0x4321);
}

static void check_delivered(struct vm *vm, const struct exception *it)
{
    vmwrite(VMCS_EXCEPTION_BITMAP, ~BIT(it->vector));
    if (it->vector == EXC_PF) /* for page faults a bit of 0 means the contrary, see below */
        vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    begin(vm, it);
    struct l2_frame frame = vm_expect_trap(vm, it->vector);
    check_equal("pushed IP", frame.ip, (word)(it->trap ? it->code->next : it->code->at));
    check_equal("pushed error code", frame.error, it->error);
    if (it->vector == EXC_PF)
        check_equal("CR2", read_cr2(), it->qualification);
}

TEST("exceptions", taken, "exceptions-taken", 0)
{
    prepare(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        check_taken(vm, &rows[i]);
    }
}

TEST("exceptions", delivered, "exceptions-not-taken", 0)
{
    prepare(vm);
    vmwrite(VMCS_PF_ERROR_MATCH, 0);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        check_delivered(vm, &rows[i]);
    }
}

/* INT3 goes on behind itself, when L1 re-injects it with its length. */
TEST("exceptions", reinject, "exceptions-reinjected", 0)
{
    prepare(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        check_taken(vm, &rows[i]);
        vmwrite(VMCS_ENTRY_EVENT, vmread(VMCS_EXIT_EVENT));
        vmwrite(VMCS_ENTRY_EVENT_ERROR, vmread(VMCS_EXIT_EVENT_ERROR));
        vmwrite(VMCS_ENTRY_LENGTH, vmread(VMCS_EXIT_LENGTH));
        struct l2_frame frame = vm_expect_trap(vm, rows[i].vector);
        check_equal("pushed IP", frame.ip,
                    (word)(rows[i].trap ? rows[i].code->next : rows[i].code->at));
        check_equal("pushed error code", frame.error, rows[i].error);
    }
}

/* ---- debug exceptions ---- */

enum { DR6_BS = BIT(14) };

/* The single-step trap: the qualification tells what DR6 would, and DR6 stays. */
TEST("exceptions", single_step, "exception-single-step", 0)
{
    prepare(vm);
    write_dr6(0xffff0ff0);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    vm_start(vm, l2_db.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EXC_DB);
    check_equal("qualification", vm->qualification, DR6_BS);
    check_equal("IP", vm->ip, (word)l2_db.next);
    check_equal("DR6.BS", read_dr6() & DR6_BS, 0);
    row("delivered");
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vm_start(vm, l2_db.start, 0);
    struct l2_frame frame = vm_expect_trap(vm, EXC_DB);
    check_equal("pushed IP", frame.ip, (word)l2_db.next);
    check_equal("DR6.BS", read_dr6() & DR6_BS, DR6_BS);
    write_dr6(0xffff0ff0);
}

/* A trap that was pending when L2 was left is delivered at the next entry. */
TEST("exceptions", pending_debug, "exception-pending-debug", 0)
{
    prepare(vm);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    vm_start(vm, l2_ud.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_TF);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DR6_BS);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EXC_DB);
    check_equal("qualification", vm->qualification, DR6_BS);
    check_equal("IP", vm->ip, (word)l2_ud.start);
}

/* ---- page faults: the error code is looked at, too ---- */

/* A page fault exits if bit 14 of the bitmap equals (error code & mask == match). */
static const struct {
    const char *name;
    bool bit;
    u32 mask, match;
    bool read, write, protection; /* which of the three page faults exit */
} pf_rows[] = {
    { "bit 1, all match", true, 0, 0, true, true, true },
    { "bit 1, none match", true, 0, 1, false, false, false },
    { "bit 0, all match", false, 0, 0, false, false, false },
    { "bit 0, none match", false, 0, 1, true, true, true },
    { "bit 1, writes", true, 2, 2, false, true, true },
    { "bit 0, all but writes", false, 2, 2, true, false, false },
    { "bit 1, not present", true, 1, 0, true, true, false },
    { "bit 0, not not present", false, 1, 0, false, false, true },
    { "bit 1, exactly write of a present page", true, 0xffffffff, 3, false, false, true },
};

static void check_pf(struct vm *vm, const struct exception *it, bool exits)
{
    begin(vm, it);
    if (!exits) {
        vm_expect_trap(vm, EXC_PF);
        return;
    }
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), it->error);
}

static const struct exception *find(const struct code *code)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].code == code)
            return &rows[i];
    return NULL;
}

TEST("exceptions", pf_codes, "exception-pf-error-code", 0)
{
    prepare(vm);
    for (unsigned i = 0; i < ARRAY_LEN(pf_rows); i++) {
        row(pf_rows[i].name);
        vmwrite(VMCS_EXCEPTION_BITMAP, pf_rows[i].bit ? BIT(EXC_PF) : 0);
        vmwrite(VMCS_PF_ERROR_MASK, pf_rows[i].mask);
        vmwrite(VMCS_PF_ERROR_MATCH, pf_rows[i].match);
        check_pf(vm, find(&l2_pf_read), pf_rows[i].read);
        check_pf(vm, find(&l2_pf_write), pf_rows[i].write);
        check_pf(vm, find(&l2_pf_read_only), pf_rows[i].protection);
    }
}

/* ---- exceptions while an exception is delivered ---- */

/* #UD whose gate lies beyond the IDT's limit: #GP for the vector's entry, with EXT set. */
enum { ERROR_IDT_EXT = 3 };

TEST("exceptions", nested, "exception-during-delivery", 0)
{
    prepare(vm);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    row("the second exception exits");
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
    vm_start(vm, l2_ud.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
    check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), EXC_UD * 8 | ERROR_IDT_EXT);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    check_equal("IP", vm->ip, (word)l2_ud.at);
}

/* A contributory exception whose delivery meets another: #DF.  It is not "during delivery". */
TEST("exceptions", double_fault, "exception-double-fault", 0)
{
    void *idt = prepare(vm);
    row("exits");
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DF));
    vm_start(vm, l2_gp.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_DF);
    check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 0);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    row("delivered");
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 256 * (IS_64BIT ? 16 : 8) - 1);
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l2_change_gate(idt, EXC_GP, 0, GATE_PRESENT);
    vm_start(vm, l2_gp.start, 0);
    struct l2_frame frame = vm_expect_trap(vm, EXC_DF);
    check_equal("error code", frame.error, 0);
}

TEST("exceptions", triple_fault, "exception-triple-fault", 0)
{
    prepare(vm);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    vm_start(vm, l2_gp.start, 0);
    vm_expect(vm, REASON_TRIPLE_FAULT);
    check_equal("qualification", vm->qualification, 0);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
}

/* The bitmap is about exceptions, not about INT n: INT 13 does not exit, nor is it a #GP. */
L2_CODE(l2_int, "", "int $0x55");
L2_CODE(l2_int13, "", "int $13");

TEST("exceptions", int_n, "int-n", 0)
{
    prepare(vm);
    vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    vm_start(vm, l2_int.start, 0);
    struct l2_frame frame = vm_expect_trap(vm, 0x55);
    check_equal("pushed IP", frame.ip, (word)l2_int.next);
    vm_skip(vm);
    vm_expect_done(vm);
    row("INT 13");
    vm_start(vm, l2_int13.start, 0);
    vm_run(vm);
    check(is_trap(vm, EXC_GP), "delivered by L2's IDT");
}

/* INT1 (ICEBP) is a privileged software exception of vector 1. */
L2_CODE(l2_int1, "", ".byte 0xf1");

TEST("exceptions", int1, "exception-int1", 0)
{
    prepare(vm);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    vm_start(vm, l2_int1.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_PRIV_SOFTWARE | EXC_DB);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 1);
}
