/* L2 without paging, in the 32-bit modes, in virtual-8086 mode; task switches. */
#include "lib/string.h"
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"

/* ---- without paging ---- */

L2_CODE32(l2_flat, "mov 0x1234000, %esi; movl $0x60d0, 0x1234004", "nop");

TEST("modes", flat, "unrestricted-unpaged", TEST_EPT)
{
    u32 *page = page_alloc();
    page[0] = 0xf1a7;
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_flat);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, 0xf1a7);
    check_equal("written by L2", page[1], 0x60d0);
}

/*
 * L2 turns paging on and off again.  BX: CR3; while paging is on, the page at 12340000h is another
 * than while it is off.
 */
L2_CODE32(l2_paging,
          "mov 0x12340000, %esi; mov %ebx, %cr3; mov %cr0, %eax\n"
          "or $0x80000000, %eax; mov %eax, %cr0; mov 0x12340000, %edi\n"
          "and $0x7fffffff, %eax; mov %eax, %cr0; mov 0x12340000, %ebp",
          "nop");

static void check_on_off(struct vm *vm, enum paging paging)
{
    struct space space;
    u32 *unpaged = page_alloc(), *paged = page_alloc();
    *unpaged = 0x0ff;
    *paged = 0x011;
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_paging);
    space_create(&space, paging);
    space_map(&space, VIOLATION_PAGE, physical(paged), PTE_PRESENT | PTE_WRITE);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(unpaged), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | (paging == PAGING_PAE ? CR4_PAE : CR4_PSE));
    vm->regs.bx = (word)space.root;
    vm_expect_done(vm);
    check_equal("before", (u32)vm->regs.si, 0x0ff);
    check_equal("while on", (u32)vm->regs.di, 0x011);
    check_equal("afterwards", (u32)vm->regs.bp, 0x0ff);
    check_equal("CR0.PG", vmread(VMCS_GUEST_CR0) & CR0_PG, 0);
    check_equal("CR3", vmread(VMCS_GUEST_CR3), (word)space.root);
}

TEST("modes", on_off, "unrestricted-paging-on-off", TEST_EPT) { check_on_off(vm, PAGING_32); }
TEST("modes", on_off_pae, "unrestricted-paging-on-off-pae", TEST_EPT)
{
    check_on_off(vm, PAGING_PAE);
}

/*
 * The same with PAE, where turning paging on loads the four PDPTEs from memory: if their page is not
 * there for L2, that is an EPT violation, not #GP.
 */
TEST("modes", pdpte_unmapped, "unrestricted-pdpte-page-unmapped", TEST_EPT)
{
    struct space space;
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_paging);
    space_create(&space, PAGING_PAE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT | PTE_WRITE);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    u64 root = physical(space.root);
    ept_map(&vm->ept, root, root, 1, 0);
    ept_invalidate(&vm->ept);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PAE);
    vm->regs.bx = (word)root;
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("access", vm->qualification & 7, VIOLATION_READ);
    check_equal("no linear address", vm->qualification & VIOLATION_LINEAR_VALID, 0);
    check_equal("page", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull, root);
    check_equal("paging is still off", vmread(VMCS_GUEST_CR0) & CR0_PG, 0);
    ept_map(&vm->ept, root, root, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
}

/* Paging can be turned on with the CR0 bits that "unrestricted guest" frees; others stay fixed. */
L2_CODE32(l2_clear_ne, "mov %cr0, %eax; and $~0x20, %eax", "mov %eax, %cr0");

TEST("modes", still_fixed, "unrestricted-cr0-ne-fixed", TEST_EPT)
{
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_clear_ne);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* Without "unrestricted guest", L2 cannot turn paging off: #GP(0), unless L1 owns the bit. */
L2_CODE32(l2_paging_off, "mov %cr0, %eax; and $0x7fffffff, %eax", "mov %eax, %cr0");

TEST("modes", restricted, "restricted-paging-off", 0)
{
    if (!may_clear(CPU2, CPU2_UNRESTRICTED))
        skip("guests are always unrestricted");
    struct space space;
    vm_start_mode(vm, MODE_32, &space, &l2_paging_off);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
    check_equal("IP", vm->ip, (word)l2_paging_off.at);
    row("L1 owns the bit");
    vmwrite(VMCS_CR0_MASK, CR0_PG);
    vmwrite(VMCS_CR0_SHADOW, CR0_PG);
    vm_start(vm, l2_paging_off.start, 0);
    vm_expect(vm, REASON_CR);
}

/* ---- 32-bit modes ---- */

L2_CODE32(l2_mode, "mov 0x12340000, %esi; movl $0x3232, 0x12340004; push $0x55; pop %edi", "nop");

static void check_mode(struct vm *vm, enum mode mode)
{
    struct space space;
    u32 *page = page_alloc();
    page[0] = 0x3200 + mode;
    vm_start_mode(vm, mode, &space, &l2_mode);
    space_map(&space, VIOLATION_PAGE, physical(page), PTE_PRESENT | PTE_WRITE);
    vm_use_space(vm, &space);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, 0x3200 + mode);
    check_equal("written by L2", page[1], 0x3232);
    check_equal("stack", (u32)vm->regs.di, 0x55);
}

TEST("modes", mode_32, "mode-32-bit-paging", 0) { check_mode(vm, MODE_32); }
TEST("modes", mode_pae, "mode-pae-paging", 0) { check_mode(vm, MODE_PAE); }
TEST("modes", mode_compat, "mode-compatibility", 0) { check_mode(vm, MODE_COMPAT); }

/* ---- virtual-8086 mode ---- */

L2_CODE16(l2_v86, "movw $0x86, 0x10; mov %cs, %si; mov 0x10, %bx", "cpuid; cli");

TEST("modes", v86, "mode-virtual-8086", TEST_EPT)
{
    struct space space;
    vm_start_mode(vm, MODE_V86, &space, &l2_v86);
    vm_expect(vm, REASON_CPUID);
    check_equal("CS", (u16)vm->regs.si, REAL_CODE >> 4);
    check_equal("data", (u16)vm->regs.bx, 0x86);
    vm_skip(vm);
    row("CLI without IOPL 3");
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* ---- task switches exit, always ---- */

enum { TASK_CALL = 0u << 30, TASK_IRET = 1u << 30, SEL_OTHER_TSS = GDT_ENTRIES * 8 };
#define TASK_JUMP (2u << 30)
#define TASK_GATE (3u << 30)
#define DESC_TSS_AVAILABLE 0x0000890000000067ull
#define DESC_TSS_BUSY 0x00008b0000000067ull

L2_CODE32(l2_task_jump, "", "ljmp $0x60, $0");
L2_CODE32(l2_task_call, "", "lcall $0x60, $0");
L2_CODE32(l2_task_gate, "", "int $0x30");
L2_CODE32(l2_task_iret, "", "iret");

TEST("modes", task, "task-switch-exit", 0)
{
    struct space space;
    const struct {
        const char *name;
        const struct code *code;
        u32 source;
    } rows[] = {
        { "JMP", &l2_task_jump, TASK_JUMP },
        { "CALL", &l2_task_call, TASK_CALL },
        { "INT n through a task gate", &l2_task_gate, TASK_GATE },
    };
    u64 *gdt = page_alloc(), *idt = page_alloc();
    memcpy(gdt, this_cpu()->gdt, sizeof this_cpu()->gdt);
    gdt[SEL_OTHER_TSS / 8] = DESC_TSS_AVAILABLE | (u64)((word)vm->shared & 0xffffff) << 16;
    idt[0x30] = 0x0000850000000000ull | SEL_OTHER_TSS << 16; /* task gate, present */
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        vm_start_mode(vm, MODE_32, &space, rows[i].code);
        vmwrite(VMCS_GUEST_GDTR_BASE, (word)gdt);
        vmwrite(VMCS_GUEST_GDTR_LIMIT, SEL_OTHER_TSS + 7);
        vmwrite(VMCS_GUEST_IDTR_BASE, (word)idt);
        vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x30 * 8 + 7);
        vm_expect(vm, REASON_TASK_SWITCH);
        check_equal("qualification", vm->qualification, rows[i].source | SEL_OTHER_TSS);
        check_equal("IP", vm->ip, (word)rows[i].code->at);
        check_equal("length", vmread(VMCS_EXIT_LENGTH),
                    (u64)(rows[i].code->next - rows[i].code->at));
    }
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_SOFTWARE | 0x30);
}

/* With RFLAGS.NT, IRET returns to the task whose selector is in the TSS. */
TEST("modes", task_iret, "task-switch-exit-iret", 0)
{
    struct space space;
    u64 *gdt = page_alloc();
    u16 *tss = page_alloc();
    memcpy(gdt, this_cpu()->gdt, sizeof this_cpu()->gdt);
    gdt[SEL_OTHER_TSS / 8] = DESC_TSS_BUSY | (u64)((word)vm->shared & 0xffffff) << 16;
    tss[0] = SEL_OTHER_TSS;
    vm_start_mode(vm, MODE_32, &space, &l2_task_iret);
    vmwrite(VMCS_GUEST_GDTR_BASE, (word)gdt);
    vmwrite(VMCS_GUEST_GDTR_LIMIT, SEL_OTHER_TSS + 7);
    vmwrite(VMCS_GUEST_TR_BASE, (word)tss);
    vmwrite(VMCS_GUEST_RFLAGS, vmread(VMCS_GUEST_RFLAGS) | RFLAGS_NT);
    vm_expect(vm, REASON_TASK_SWITCH);
    check_equal("qualification", vm->qualification, TASK_IRET | SEL_OTHER_TSS);
    check_equal("IP", vm->ip, (word)l2_task_iret.at);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), (u64)(l2_task_iret.next - l2_task_iret.at));
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), 0);
}
