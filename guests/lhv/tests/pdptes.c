/* The four PDPTEs of PAE paging: with EPT they are in the VMCS, and only MOV to CR loads them from
   memory (SDM 3C, "Checks on guest page-directory-pointer-table entries"). */
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"

static void need_pae(struct vm *vm, struct space *space, const struct code *code)
{
    if (!may_set(CPU2, CPU2_EPT))
        skip("no EPT");
    vm_start_mode(vm, MODE_PAE, space, code);
}

L2_CODE32(l2_pae, "mov 0x12340000, %esi", "mov %cr3, %eax; mov %eax, %cr3; mov 0x12340000, %edi");

/* Not loaded: all zeroes, so L2's first fetch is a page fault, whose delivery is one too. */
TEST("modes", pdpte_zero, "pae-pdptes-not-loaded", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    for (unsigned i = 0; i < 4; i++)
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, 0);
    row("page fault");
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF);
    check_equal("address", vm->qualification, (word)l2_pae.start);
    row("triple fault");
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vm_expect(vm, REASON_TRIPLE_FAULT);
}

/* The VMCS has one set, memory another; MOV to CR3 loads those from memory. */
TEST("modes", pdpte_reload, "pae-pdptes-from-vmcs", TEST_EPT)
{
    struct space space, other;
    u32 *pages[2] = { page_alloc(), page_alloc() };
    need_pae(vm, &space, &l2_pae);
    space_create(&other, PAGING_PAE);
    pages[0][0] = 0xe0;
    pages[1][0] = 0xe1;
    space_map(&space, VIOLATION_PAGE, physical(pages[0]), PTE_PRESENT);
    space_map(&other, VIOLATION_PAGE, physical(pages[1]), PTE_PRESENT);
    vm_use_space(vm, &space);
    vmwrite(VMCS_GUEST_CR3, physical(other.root));
    vm_expect_done(vm);
    check_equal("with the PDPTEs of the VMCS", (u32)vm->regs.si, 0xe0);
    check_equal("with those from memory", (u32)vm->regs.di, 0xe1);
    check_equal("PDPTE 0 after the exit", vmread(VMCS_GUEST_PDPTE0), ((u64 *)other.root)[0]);
    check_equal("PDPTE 3 after the exit", vmread(VMCS_GUEST_PDPTE3), ((u64 *)other.root)[3]);
}

/* Changes in memory do not count until CR3 is loaded. */
TEST("modes", pdpte_memory, "pae-pdptes-changed-in-memory", TEST_EPT)
{
    struct space space;
    u32 *page = page_alloc();
    page[0] = 0xe2;
    need_pae(vm, &space, &l2_pae);
    space_map(&space, VIOLATION_PAGE, physical(page), PTE_PRESENT);
    vm_use_space(vm, &space);
    u64 saved = ((u64 *)space.root)[0];
    ((u64 *)space.root)[0] = 0;
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("read with the old PDPTEs", (u32)vm->regs.si, 0xe2);
    check_equal("exception", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_PF);
    check_equal("PDPTE 0 after the exit", vmread(VMCS_GUEST_PDPTE0), 0);
    ((u64 *)space.root)[0] = saved;
}

/* Reserved bits: the VM entry fails with qualification 2, and L2's own MOV to CR3 with #GP(0). */
enum { QUALIFICATION_PDPTE = 2 };

static const struct {
    const char *name;
    u64 bits;
} pdpte_rows[] = {
    { "bit 1", 2 }, { "bit 2", 4 }, { "bit 5", 0x20 }, { "bit 8", 0x100 }, { "bit 63", BIT64(63) },
};

TEST("modes", pdpte_reserved, "pae-pdptes-reserved-bits", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    u64 *root = space.root, good[2] = { root[0], root[3] };
    for (unsigned i = 0; i < ARRAY_LEN(pdpte_rows); i++) {
        unsigned which = i % 2 ? 3 : 0;
        row(pdpte_rows[i].name);
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * which, 0x1000 | PTE_PRESENT | pdpte_rows[i].bits);
        vm_expect(vm, REASON_ENTRY_FAILURE | REASON_BAD_GUEST);
        check_equal("qualification", vm->qualification, QUALIFICATION_PDPTE);
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * which, good[which ? 1 : 0]);
    }
    row("not present: nothing is reserved");
    vmwrite(VMCS_GUEST_PDPTE3, 0x1e6);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT);
    vm_expect_done(vm);
    row("MOV to CR3");
    root[3] = 0x1000 | PTE_PRESENT | 2;
    vm_start(vm, l2_pae.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* The page of the PDPTEs is missing when L2 loads CR3: a violation without linear address. */
TEST("modes", pdpte_cr3, "pae-pdpte-page-unmapped", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT);
    vm_use_space(vm, &space);
    u64 root = physical(space.root);
    ept_map(&vm->ept, root, root, 1, 0);
    ept_invalidate(&vm->ept);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("access", vm->qualification & 7, VIOLATION_READ);
    check_equal("no linear address", vm->qualification & VIOLATION_LINEAR_VALID, 0);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL) & ~0x1full, root);
    ept_map(&vm->ept, root, root, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
}
