/*
 * EPT violations while an event is delivered through L2's IDT: the exit tells the event in the
 * IDT-vectoring fields, and L1 must inject it again (SDM 3C, "Information for VM exits that occur
 * during event delivery").
 */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

L2_CODE(l2_int, "", "int $0x55");
L2_CODE(l2_int3, "", "int3");
L2_CODE(l2_ud, "", "ud2");
L2_CODE(l2_gp, "mov $0x7f8, %ecx", "mov %ecx, %fs");
L2_CODE(l2_nop, "", "nop");

static const struct delivery {
    const char *name;
    const struct code *code;
    u32 inject; /* an event to inject at the entry, instead of one that L2's code causes */
    u32 vectoring, error, length;
    bool behind; /* L2 returns to behind the instruction */
} rows[] = {
    { "INT n", &l2_int, 0, EVENT_SOFTWARE | 0x55, 0, 2, true },
    { "INT3", &l2_int3, 0, EVENT_SOFT_EXCEPTION | EXC_BP, 0, 1, true },
    { "#UD", &l2_ud, 0, EVENT_HARDWARE | EXC_UD, 0, 0, false },
    { "#GP", &l2_gp, 0, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP, 0x7f8, 0, false },
    { "injected interrupt", &l2_nop, EVENT_EXTERNAL | 0x61, EVENT_EXTERNAL | 0x61, 0, 0, false },
    { "injected NMI", &l2_nop, EVENT_NMI | EXC_NMI, EVENT_NMI | EXC_NMI, 0, 0, false },
    { "injected #PF", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF,
      EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF, 6, 0, false },
};

static void start(struct vm *vm, const struct delivery *it)
{
    vm_start(vm, it->code->start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    if (!it->inject)
        return;
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | it->inject);
    vmwrite(VMCS_ENTRY_EVENT_ERROR, it->error);
}

static void check_vectoring(struct vm *vm, const struct delivery *it)
{
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | it->vectoring);
    if (it->vectoring & EVENT_ERROR_CODE)
        check_equal("error code", vmread(VMCS_IDT_VECTORING_ERROR), it->error);
    if (it->length)
        check_equal("instruction length", vmread(VMCS_EXIT_LENGTH), it->length);
    check_equal("IP", vm->ip, (word)it->code->at);
    check_equal("the injection is used up", vmread(VMCS_ENTRY_EVENT) & EVENT_VALID, 0);
}

/* What the exit told goes back in. */
static void reinject(void)
{
    vmwrite(VMCS_ENTRY_EVENT, vmread(VMCS_IDT_VECTORING));
    vmwrite(VMCS_ENTRY_EVENT_ERROR, vmread(VMCS_IDT_VECTORING_ERROR));
    vmwrite(VMCS_ENTRY_LENGTH, vmread(VMCS_EXIT_LENGTH));
    /* an NMI that is to be delivered again must not be blocked by itself */
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, vmread(VMCS_GUEST_INTERRUPTIBILITY) & ~(u64)BLOCKING_NMI);
}

static void check_delivered(struct vm *vm, const struct delivery *it)
{
    struct l2_frame frame = vm_expect_trap(vm, (u8)it->vectoring);
    check_equal("pushed IP", frame.ip, (word)(it->behind ? it->code->next : it->code->at));
    check_equal("pushed error code", frame.error, it->error);
}

/* A page of L2 that is missing in the EPT when the event comes */
static void check_missing(struct vm *vm, u64 page, u32 access, u32 allowed)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        ept_map(&vm->ept, page, page, 1, allowed | EPT_WB);
        ept_invalidate(&vm->ept);
        start(vm, &rows[i]);
        vm_expect(vm, REASON_EPT_VIOLATION);
        check_equal("access", vm->qualification & 7, access);
        check_equal("page", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull, page);
        check_vectoring(vm, &rows[i]);
        reinject();
        ept_map(&vm->ept, page, page, 1, EPT_RWX | EPT_WB);
        check_delivered(vm, &rows[i]);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    }
}

/* The page of the IDT is missing: a read. */
TEST("ept", idt, "ept-violation-reads-idt", TEST_EPT)
{
    u64 idt = physical(l2_use_idt(vm));
    check_missing(vm, idt, VIOLATION_READ, 0);
}

/* L2's stack cannot be written: of no use in its code here but to the delivery. */
TEST("ept", stack, "ept-violation-pushes-frame", TEST_EPT)
{
    l2_use_idt(vm);
    check_missing(vm, physical(vm->stack - PAGE_SIZE), VIOLATION_WRITE, EPT_READ);
}

/* The first fetch of the handler is not part of the delivery any more. */
TEST("ept", handler, "ept-violation-fetches-handler", TEST_EPT)
{
    u8 *handler = page_alloc();
    u32 *gates = l2_use_idt(vm);
    u32 *gate = gates + EXC_UD * (IS_64BIT ? 4 : 2);
    handler[0] = 0xf4; /* HLT */
    gate[0] = (gate[0] & 0xffff0000) | ((word)handler & 0xffff);
    gate[1] = (gate[1] & 0xffff) | ((word)handler & 0xffff0000);
    vm_control(vm, CPU, CPU_HLT_EXITING, 0);
    ept_map(&vm->ept, physical(handler), physical(handler), 1, EPT_READ | EPT_WRITE | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_start(vm, l2_ud.start, 0);
    expect_violation(vm, VIOLATION_FETCH, EPT_READ | EPT_WRITE, physical(handler), (word)handler);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    check_equal("IP", vm->ip, (word)handler);
    ept_map(&vm->ept, physical(handler), physical(handler), 1, EPT_RWX | EPT_WB);
    vm_expect(vm, REASON_HLT);
}

/* A page fault of L2 whose delivery meets a violation: the fault's address is CR2 already. */
TEST("ept", page_fault, "ept-violation-delivers-page-fault", TEST_EPT)
{
    struct space space;
    u64 idt = physical(l2_use_idt(vm));
    space_create(&space, PAGING_NATIVE);
    vm_use_space(vm, &space);
    vmwrite(VMCS_PF_ERROR_MASK, 0);
    ept_map(&vm->ept, idt, idt, 1, 0);
    ept_invalidate(&vm->ept);
    start_access(vm, WRITE, VIOLATION_PAGE + 0x10);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF);
    check_equal("error code", vmread(VMCS_IDT_VECTORING_ERROR), 2);
    check_equal("CR2", read_cr2(), VIOLATION_PAGE + 0x10);
    reinject();
    ept_map(&vm->ept, idt, idt, 1, EPT_RWX | EPT_WB);
    struct l2_frame frame = vm_expect_trap(vm, EXC_PF);
    check_equal("pushed error code", frame.error, 2);
}

/* IRET from an NMI handler that meets a violation: NMIs are unblocked, and the exit says so. */
TEST("ept", iret, "ept-violation-in-iret", TEST_EPT)
{
    u64 stack = physical(vm->stack - PAGE_SIZE);
    l2_use_idt(vm);
    vm_start(vm, l2_nop.start, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_NMI | EXC_NMI);
    vm_expect_trap(vm, EXC_NMI);
    check_equal("blocking in the handler", vmread(VMCS_GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    /* skip the VMCALL and the handler's POP: the next instruction is the IRET */
    vmwrite(VMCS_GUEST_RIP, vm->ip + (word)vmread(VMCS_EXIT_LENGTH) + 1);
    vmwrite(VMCS_GUEST_RSP, vmread(VMCS_GUEST_RSP) + sizeof(word));
    ept_map(&vm->ept, stack, stack, 1, 0);
    ept_invalidate(&vm->ept);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("NMI unblocking due to IRET", vm->qualification & VIOLATION_NMI_UNBLOCKING,
                VIOLATION_NMI_UNBLOCKING);
    check_equal("blocking after the exit", vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_NMI); /* as L1 must, before IRET is tried again */
    ept_map(&vm->ept, stack, stack, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    check_equal("blocking at the end", vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
}
