/* The page-modification log: L2's writes that set an EPT dirty flag are written down. */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

enum { LOG_LENGTH = 512 };

/* Set the accessed flag on all levels, and `leaf_flags` in the leaf. */
static void set_flags(struct vm *vm, u64 gpa, u64 leaf_flags)
{
    for (unsigned level = 1; level <= 4; level++) {
        u64 *entry = ept_entry(&vm->ept, gpa, level);
        if (*entry & EPT_RWX)
            ept_write(entry, *entry | EPT_ACCESSED | (level == 1 ? leaf_flags : 0));
    }
}

/* A page that only lacks its dirty flag */
static void add_clean_page(struct vm *vm, u64 gpa)
{
    ept_map(&vm->ept, gpa, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    set_flags(vm, gpa, 0);
}

/*
 * A log, and all flags set for L2's own code, stack and tables: only the pages that a test adds have
 * flags to be set.  (With a full log even an accessed flag that is to be set makes L2 exit.)
 */
static u64 *use_log(struct vm *vm, u16 index)
{
    vm_needs(CPU2, CPU2_PML);
    if (!has_ept_cap(EPT_CAP_AD))
        skip("no accessed and dirty flags");
    u64 *log = page_alloc();
    vm->ept.eptp |= EPTP_AD;
    for (u64 gpa = 0x100000; gpa < 0x800000; gpa += PAGE_SIZE)
        set_flags(vm, gpa, EPT_DIRTY);
    ept_invalidate(&vm->ept);
    vm_use_ept(&vm->ept);
    vmwrite(VMCS_PML_ADDRESS, physical(log));
    vmwrite(VMCS_PML_INDEX, index);
    vm_control(vm, CPU2, CPU2_PML, 0);
    return log;
}

TEST("pml", logs, "pml-logs-writes", TEST_EPT)
{
    u64 *log = use_log(vm, LOG_LENGTH - 1);
    for (unsigned i = 0; i < 3; i++) {
        word address = NOTE_PAGE + i * PAGE_SIZE;
        add_clean_page(vm, address);
        l2_reads(vm, address);
        l2_writes(vm, address + 0x123 * 4);
        l2_writes(vm, address + 0x124 * 4); /* dirty already */
        check_equal("index", vmread(VMCS_PML_INDEX), LOG_LENGTH - 2 - i);
        check_equal("entry", log[LOG_LENGTH - 1 - i], address);
    }
}

TEST("pml", full, "pml-full", TEST_EPT)
{
    u64 *log = use_log(vm, 0);
    for (unsigned i = 0; i < 2; i++)
        add_clean_page(vm, NOTE_PAGE + i * PAGE_SIZE);
    l2_writes(vm, NOTE_PAGE);
    check_equal("index", vmread(VMCS_PML_INDEX), 0xffff);
    check_equal("entry", log[0], NOTE_PAGE);
    start_access(vm, WRITE, NOTE_PAGE + PAGE_SIZE);
    word at = (word)vmread(VMCS_GUEST_RIP);
    vm_expect(vm, REASON_PML_FULL);
    check_equal("IP", vm->ip, at);
    check_equal("not dirty", *ept_entry(&vm->ept, NOTE_PAGE + PAGE_SIZE, 1) & EPT_DIRTY, 0);
    vmwrite(VMCS_PML_INDEX, LOG_LENGTH - 1);
    vm_expect_done(vm);
    check_equal("entry", log[LOG_LENGTH - 1], NOTE_PAGE + PAGE_SIZE);
}

/* An accessed flag that is to be set needs room in the log, too, though it is not logged. */
TEST("pml", full_accessed, "pml-full-accessed", TEST_EPT)
{
    use_log(vm, 0xffff);
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    start_access(vm, READ, NOTE_PAGE);
    word at = (word)vmread(VMCS_GUEST_RIP);
    vm_expect(vm, REASON_PML_FULL);
    check_equal("IP", vm->ip, at);
    check_equal("not accessed", *ept_entry(&vm->ept, NOTE_PAGE, 1) & EPT_ACCESSED, 0);
    vmwrite(VMCS_PML_INDEX, 0);
    vm_expect_done(vm);
    check_equal("accessed", *ept_entry(&vm->ept, NOTE_PAGE, 1) & EPT_ACCESSED, EPT_ACCESSED);
    check_equal("index", vmread(VMCS_PML_INDEX), 0);
}
