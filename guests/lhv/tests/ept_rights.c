/*
 * EPT access rights: every combination of R, W and X, in an entry of every level, against reads,
 * writes and fetches.
 */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"

static const enum access accesses[] = { READ, WRITE, FETCH };

static const char *const rights_name[] = { "---", "R--", "-W-", "RW-", "--X", "R-X", "-WX", "RWX" };

/* Try an access to `linear`, which is at `physical` for L2, where the entries altogether allow
   `rights`. */
static void check_access(struct vm *vm, enum access access, u32 rights, u64 physical_, word linear)
{
    char name[24] = "";
    struct text text = { name, 0, sizeof name };
    text_print(&text, "%s of %s", access_name(access), rights_name[rights]);
    row(name);
    start_access(vm, access, linear);
    if (rights_misconfigured(rights)) {
        vm_expect(vm, REASON_EPT_MISCONFIG);
        check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), physical_);
    } else if (rights & access) {
        vm_expect_done(vm);
    } else {
        expect_violation(vm, access, rights, physical_, linear);
    }
    row(NULL); /* `name` ends here */
}

/* All rights in the entry of one level, the others allowing everything */
static void check_level(struct vm *vm, unsigned level, u64 physical_, word linear)
{
    ept_map(&vm->ept, physical_, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    u64 *entry = ept_entry(&vm->ept, physical_, level);
    u64 all = *entry;
    for (u32 rights = 0; rights < 8; rights++) {
        ept_write(entry, (all & ~(u64)EPT_RWX) | rights);
        ept_invalidate(&vm->ept);
        for (unsigned i = 0; i < ARRAY_LEN(accesses); i++)
            check_access(vm, accesses[i], rights, physical_, linear);
    }
}

TEST("ept", rights_1, "ept-rights-level-1", TEST_EPT)
{
    check_level(vm, 1, OTHER_PAGE, OTHER_PAGE);
}

TEST("ept", rights_2, "ept-rights-level-2", TEST_EPT)
{
    check_level(vm, 2, OTHER_PAGE, OTHER_PAGE);
}

TEST("ept", rights_3, "ept-rights-level-3", TEST_EPT)
{
    check_level(vm, 3, OTHER_PAGE, OTHER_PAGE);
}

/* The first 512 GiB hold L2 itself, so the page must lie beyond: L2 needs tables of its own. */
TEST("ept", rights_4, "ept-rights-level-4", TEST_EPT)
{
    const u64 far = BIT64(39) + OTHER_PAGE;
    if (PAGING_NATIVE == PAGING_32)
        skip("32-bit paging does not reach beyond 512 GiB");
    if (caps.physical_bits < 40)
        skip("no physical addresses beyond 512 GiB");
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, OTHER_PAGE, far, PTE_PRESENT | PTE_WRITE | PTE_USER);
    vm_use_space(vm, &space);
    check_level(vm, 4, far, OTHER_PAGE);
}

/* What two levels allow together is what both allow. */
TEST("ept", rights_combined, "ept-rights-combined", TEST_EPT)
{
    static const u32 valid[] = { EPT_READ, EPT_READ | EPT_WRITE, EPT_READ | EPT_EXEC, EPT_RWX };
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    u64 *upper = ept_entry(&vm->ept, OTHER_PAGE, 2), *lower = ept_entry(&vm->ept, OTHER_PAGE, 1);
    u64 upper_all = *upper, lower_all = *lower;
    for (unsigned u = 0; u < ARRAY_LEN(valid); u++) {
        for (unsigned l = 0; l < ARRAY_LEN(valid); l++) {
            ept_write(upper, (upper_all & ~(u64)EPT_RWX) | valid[u]);
            ept_write(lower, (lower_all & ~(u64)EPT_RWX) | valid[l]);
            ept_invalidate(&vm->ept);
            for (unsigned i = 0; i < ARRAY_LEN(accesses); i++)
                check_access(vm, accesses[i], valid[u] & valid[l], OTHER_PAGE, OTHER_PAGE);
        }
    }
}

/* A read-modify-write that is refused for the write reports a write, and perhaps the read too. */
L2_CODE(l2_add, "", "addl $1, (" BX ")");

TEST("ept", read_write, "ept-rights-read-modify-write", TEST_EPT)
{
    u32 *page = page_alloc();
    page[0] = 41;
    ept_map(&vm->ept, OTHER_PAGE, physical(page), 1, EPT_READ | EPT_WB);
    vm_start(vm, l2_add.start, 0);
    vm->regs.bx = OTHER_PAGE;
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("a write", vm->qualification & VIOLATION_WRITE, VIOLATION_WRITE);
    check_equal("rights", vm->qualification >> VIOLATION_ALLOWS_SHIFT & 7, EPT_READ);
    check_equal("nothing written", page[0], 41);
    ept_map(&vm->ept, OTHER_PAGE, physical(page), 1, EPT_READ | EPT_WRITE | EPT_WB);
    vm_expect_done(vm); /* the violation has dropped what the processor knew of the page */
    check_equal("written once", page[0], 42);
}

/* ---- accesses to L2's own paging structures ---- */

/*
 * The table that maps VIOLATION_PAGE is moved to a page of its own, at OTHER_PAGE for L2, whose
 * rights vary.  The linear address is the one that L2 uses; bit 8 of the qualification is clear.
 */
static void *map_guest_table(struct vm *vm, u32 rights)
{
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(7)), PTE_PRESENT | PTE_WRITE);
    void *upper = space_entry(&space, VIOLATION_PAGE, 2);
    u64 value = space_read(&space, upper);
    u64 table = value & 0xfffff000;
    space_write(&space, upper, (value & 0xfff) | OTHER_PAGE);
    ept_map(&vm->ept, OTHER_PAGE, table, 1, rights | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_use_space(vm, &space);
    return (void *)(word)table;
}

static void expect_table_violation(struct vm *vm, u32 access, u32 rights)
{
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("qualification", vm->qualification & 0x1bf,
                access | rights << VIOLATION_ALLOWS_SHIFT | VIOLATION_LINEAR_VALID);
    check_equal("page of the guest-physical address", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull,
                OTHER_PAGE);
    check_equal("guest-linear address", vmread(VMCS_GUEST_LINEAR), VIOLATION_PAGE + 8);
}

TEST("ept", guest_table_missing, "ept-guest-table-not-mapped", TEST_EPT)
{
    map_guest_table(vm, 0);
    start_access(vm, READ, VIOLATION_PAGE + 8);
    expect_table_violation(vm, VIOLATION_READ, 0);
    u64 *entry = ept_entry(&vm->ept, OTHER_PAGE, 1);
    ept_write(entry, *entry | EPT_RWX);
    vm_expect_done(vm);
}

/* The walk sets the accessed flag in L2's entry: that is a write. */
TEST("ept", guest_table_read_only, "ept-guest-table-read-only", TEST_EPT)
{
    map_guest_table(vm, EPT_READ);
    start_access(vm, READ, VIOLATION_PAGE + 8);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("a write", vm->qualification & VIOLATION_WRITE, VIOLATION_WRITE);
    check_equal("of a paging structure",
                vm->qualification & (VIOLATION_FINAL | VIOLATION_LINEAR_VALID),
                VIOLATION_LINEAR_VALID);
    u64 *entry = ept_entry(&vm->ept, OTHER_PAGE, 1);
    ept_write(entry, *entry | EPT_RWX);
    vm_expect_done(vm);
}

/* With all its flags set already, L2's entry only has to be read. */
TEST("ept", guest_table_clean, "ept-guest-table-only-read", TEST_EPT)
{
    u8 *table = map_guest_table(vm, EPT_READ);
    word size = PAGING_NATIVE == PAGING_32 ? 4 : 8;
    word index = VIOLATION_PAGE >> 12 & (size == 4 ? 1023 : 511);
    table[index * size] |= PTE_ACCESSED | PTE_DIRTY;
    start_access(vm, WRITE, VIOLATION_PAGE + 8);
    vm_expect_done(vm);
}
