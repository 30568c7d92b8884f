/*
 * What a faulty L0 does wrong for an L1 that does everything right: these scenarios have one form.
 * The fault is planted in L0 (src/turducken/hypervisor/faults.py).
 */
#include "vmx/modes.h"
#include "x86/instructions.h"
#include "zoo.h"

enum { RIGHTS = PTE_PRESENT | PTE_WRITE | PTE_USER };

/* ---- shadows of EPT12 ---- */

/* One EPT12 with and without accessed and dirty flags: INVEPT goes by bits 51:12 alone. */
static void change_and_look(struct vm *vm, u64 invalidated, u64 first, u64 second)
{
    u64 eptps[2] = { first, second };
    show(vm, access_page(OLD), EPT_RWX);
    for (unsigned i = 0; i < 2; i++) {
        vmwrite(VMCS_EPT_POINTER, eptps[i]);
        check_equal("before", l2_reads(vm, PAGE_VALUE), OLD);
    }
    show(vm, access_page(NEW), EPT_RWX);
    if (try_invept(INVEPT_SINGLE, (struct invept_operand){ .eptp = invalidated }) != VMX_OK)
        broken("INVEPT failed");
    for (unsigned i = 0; i < 2; i++) {
        vmwrite(VMCS_EPT_POINTER, eptps[i]);
        check_equal("after INVEPT", l2_reads(vm, PAGE_VALUE), NEW);
    }
}

static void need_flags(void)
{
    if (!has_ept_cap(EPT_CAP_AD))
        skip("no accessed and dirty flags");
}

SCENARIO(two_shadows, "two-shadows-of-one-root")
{
    need_flags();
    /* Flags on first: turning them on for a root that was used without takes an INVEPT. */
    change_and_look(vm, vm->ept.eptp, vm->ept.eptp | EPTP_AD, vm->ept.eptp);
}

SCENARIO(operand, "invept-of-other-flags")
{
    need_flags();
    change_and_look(vm, vm->ept.eptp | EPTP_AD, vm->ept.eptp, vm->ept.eptp);
}

/* One table of EPT12 stands below two entries with different rights. */
SCENARIO(shared_table, "table-under-two-rights")
{
    enum { SECOND_VIEW = NOTE_PAGE + 0x200000 };
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    u64 above = *ept_entry(&vm->ept, NOTE_PAGE, 2);
    ept_write(ept_entry(&vm->ept, SECOND_VIEW, 2), (above & EPT_ADDRESS) | EPT_READ);
    l2_writes(vm, NOTE_PAGE + 64);
    check_equal("read where it is read-only", l2_reads(vm, SECOND_VIEW + VALUE), OLD);
    start_access(vm, WRITE, SECOND_VIEW + 128);
    expect_violation(vm, VIOLATION_WRITE, EPT_READ, SECOND_VIEW + 128, SECOND_VIEW + 128);
}

/* Code that L2 may execute, but not read. */
SCENARIO(execute_only, "execute-only-page")
{
    if (!has_ept_cap(EPT_CAP_EXECUTE_ONLY))
        skip("no execute-only entries");
    show(vm, access_page(SECRET), EPT_EXEC);
    start_access(vm, FETCH, NOTE_PAGE);
    vm_expect_done(vm);
    start_access(vm, READ, PAGE_VALUE);
    expect_violation(vm, VIOLATION_READ, EPT_EXEC, PAGE_VALUE, PAGE_VALUE);
}

/* Field value 4 is a walk of five levels. */
SCENARIO(walk, "walk-of-five-levels")
{
    enum { ERROR_CONTROLS = 7, WALK = 7 << 3, WALK_5 = 4 << 3 };
    vmwrite(VMCS_EPT_POINTER, (vm->ept.eptp & ~(u64)WALK) | WALK_5);
    vm_start(vm, access_page(0), 0);
    check_equal("how the entry ends", vm_try_run(vm), VMX_FAIL_VALID);
    check_equal("error", vmread(VMCS_INSTRUCTION_ERROR), ERROR_CONTROLS);
}

/* A page above 4 GiB: its address has bits that 32 bits do not hold. */
enum { LOW_PAGE = 0x02000000 };
#define HIGH_PAGE 0x102000000ull

SCENARIO(high, "page-above-4-gib")
{
    *(volatile word *)LOW_PAGE = OTHER;
    ept_map(&vm->ept, NOTE_PAGE, HIGH_PAGE, 1, EPT_RWX | EPT_WB);
    l2_writes(vm, NOTE_PAGE);
    if ((u32)l2_reads(vm, NOTE_PAGE) != WRITTEN)
        skip("needs RAM above 4 GiB");
    check_equal("another page", *(volatile word *)LOW_PAGE, OTHER);
}

/* ---- VPIDs and PDPTEs ---- */

/* L1 knows the address, too: its translation is not L2's. */
SCENARIO(vpid, "same-address-in-l1-and-l2")
{
    struct space space;
    vm_needs(CPU2, CPU2_VPID);
    vm_control(vm, CPU2, CPU2_VPID, CPU2_EPT);
    vmwrite(VMCS_VPID, 5);
    *(volatile word *)PAGE_VALUE = OTHER;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, NOTE_PAGE, physical(access_page(NEW)), RIGHTS);
    vm_use_space(vm, &space);
    check_equal("read by L1", *(volatile word *)PAGE_VALUE, OTHER);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

L2_CODE32(l2_reads_pae_page, "mov 0x1234008, %esi", "nop");

/* PAE paging without EPT: the VM entry loads the PDPTEs from where L2's CR3 says. */
SCENARIO(pdptes, "pae-without-ept")
{
    struct space space;
    vm_control(vm, CPU2, 0, CPU2_EPT);
    vm_start_mode(vm, MODE_PAE, &space, &l2_reads_pae_page);
    space_map(&space, NOTE_PAGE, physical(access_page(OLD)), PTE_PRESENT);
    vm_use_space(vm, &space);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, OLD);
}

/* ---- EPT01 changes while L1 and L2 run ---- */

bool call_l0(u32 function, u64 page, u64 argument)
{
    u32 answer = function;
    asm volatile("vmcall" : "+a"(answer) : "b"(page), "c"(argument) : "memory", "cc");
    if (answer)
        fail("L0 has no application for this scenario");
    return !answer;
}

/* L0 gives L1 another page in the place of one; L2 has it, too. */
SCENARIO(moved, "page-moved-by-l0")
{
    const void *page = access_page(OLD), *other = access_page(NEW);
    show(vm, page, EPT_RWX);
    check_equal("before", l2_reads(vm, PAGE_VALUE), OLD);
    call_l0(CALL_MOVE, physical(page), physical(other));
    check_equal("read by L1", *(const volatile word *)((word)page + VALUE), NEW);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* The page that L0 moves is L1's I/O bitmap. */
L2_CODE(l2_writes_port, "", "out %al, $0x80");

SCENARIO(bitmap, "bitmap-moved-by-l0")
{
    u8 *page = page_alloc(), *other = page_alloc();
    vm_needs(CPU, CPU_IO_BITMAPS);
    page[0x80 / 8] = 1; /* port 80h exits */
    vmwrite(VMCS_IO_BITMAP_A, physical(page));
    vmwrite(VMCS_IO_BITMAP_B, physical(other));
    vm_control(vm, CPU, CPU_IO_BITMAPS, 0);
    vm_start(vm, l2_writes_port.start, 0);
    vm_expect(vm, REASON_IO);
    call_l0(CALL_MOVE, physical(page), physical(other));
    vm_start(vm, l2_writes_port.start, 0);
    vm_expect_done(vm);
}

/* L0 wants to see each store to a page; it does this one itself, and gives the page back. */
SCENARIO(store, "store-done-by-l0")
{
    volatile word *page = page_alloc();
    call_l0(CALL_GUARD, physical((void *)page), 0);
    asm volatile("incl (%0)" : : "r"(page) : "memory", "cc");
    check_equal("the counter", page[0], 1);
}
