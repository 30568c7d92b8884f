/*
 * Changes of EPT entries, with and without INVEPT (SDM 3C, "Caching translation information").  A
 * processor may use what it knew until INVEPT, or forget it at any time: where no INVEPT was
 * executed, the tests accept both, and nothing else.
 */
#include "pc/mark.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

enum { VALUE = sizeof(word) }; /* offset of an access_page()'s value */

static void map(struct vm *vm, const void *page, u32 rights)
{
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, rights | EPT_WB);
}

static void invept_all(void)
{
    if (try_invept(INVEPT_ALL, (struct invept_operand){ 0, 0 }) != VMX_OK)
        broken("INVEPT of all contexts failed");
}

TEST("ept", remap, "ept-remap-invept", TEST_EPT)
{
    void *pages[2] = { access_page(0x81), access_page(0x82) };
    for (unsigned round = 0; round < 6; round++) {
        map(vm, pages[round % 2], EPT_RWX);
        if (round % 3 == 0 && has_ept_cap(EPT_CAP_INVEPT_ALL))
            invept_all();
        else
            ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0x81 + round % 2);
    }
}

/* Without INVEPT: the old page or the new one. */
TEST("ept", remap_lazy, "ept-remap-without-invept", TEST_EPT)
{
    void *pages[2] = { access_page(0x83), access_page(0x84) };
    map(vm, pages[0], EPT_RWX);
    check_equal("before", l2_reads(vm, NOTE_PAGE + VALUE), 0x83);
    mark_stale_use(true);
    map(vm, pages[1], EPT_RWX);
    mark_stale_use(false);
    word seen = l2_reads(vm, NOTE_PAGE + VALUE);
    check(seen == 0x83 || seen == 0x84, "the old page or the new one");
    ept_invalidate(&vm->ept);
    check_equal("after INVEPT", l2_reads(vm, NOTE_PAGE + VALUE), 0x84);
}

/* From not present to present: nothing is kept of entries that are not present. */
TEST("ept", present, "ept-map-without-invept", TEST_EPT)
{
    for (unsigned i = 0; i < 4; i++) {
        word address = NOTE_PAGE + i * PAGE_SIZE;
        start_access(vm, READ, address + VALUE);
        expect_violation(vm, VIOLATION_READ, 0, address + VALUE, address + VALUE);
        ept_map(&vm->ept, address, physical(access_page(0x85 + i)), 1, EPT_RWX | EPT_WB);
        vm_expect_done(vm);
        check_equal("read by L2", read_value(vm), 0x85 + i);
    }
}

/* Rights added: at most one violation, after which the new rights hold. */
TEST("ept", rights_added, "ept-rights-added-without-invept", TEST_EPT)
{
    void *page = access_page(0x89);
    map(vm, page, EPT_READ);
    l2_reads(vm, NOTE_PAGE + VALUE);
    map(vm, page, EPT_RWX);
    start_access(vm, WRITE, NOTE_PAGE);
    if (vm_run(vm) == REASON_EPT_VIOLATION)
        vm_expect_done(vm);
    check_equal("written", *(u32 *)page, WRITTEN);
}

/* Rights taken away */
static const struct {
    const char *name;
    u32 left;
    enum access access;
} removed_rows[] = {
    { "write", EPT_READ | EPT_EXEC, WRITE },
    { "execute", EPT_READ | EPT_WRITE, FETCH },
    { "all, read", 0, READ },
    { "all, write", 0, WRITE },
    { "all, fetch", 0, FETCH },
};

TEST("ept", rights_removed, "ept-rights-removed", TEST_EPT)
{
    void *page = access_page(0x8a);
    for (unsigned level = 1; level <= 3; level++) {
        for (unsigned i = 0; i < ARRAY_LEN(removed_rows); i++) {
            row(removed_rows[i].name);
            ept_map(&vm->ept, OTHER_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
            l2_reads(vm, OTHER_PAGE);
            l2_writes(vm, OTHER_PAGE);
            u64 *entry = ept_entry(&vm->ept, OTHER_PAGE, level), all = *entry;
            ept_write(entry, (all & ~(u64)EPT_RWX) | removed_rows[i].left);
            ept_invalidate(&vm->ept);
            start_access(vm, removed_rows[i].access, OTHER_PAGE);
            expect_violation(vm, removed_rows[i].access, removed_rows[i].left, OTHER_PAGE,
                             OTHER_PAGE);
            ept_write(entry, all);
            ept_invalidate(&vm->ept);
        }
    }
}

/* A whole table is exchanged by changing the entry above it. */
TEST("ept", table, "ept-table-exchanged", TEST_EPT)
{
    u64 *tables[2] = { page_alloc(), page_alloc() };
    for (unsigned i = 0; i < 2; i++)
        tables[i][NOTE_PAGE >> 12 & 511] = physical(access_page(0x8b + i)) | EPT_RWX | EPT_WB;
    u64 *entry = ept_entry(&vm->ept, NOTE_PAGE, 2);
    for (unsigned round = 0; round < 4; round++) {
        ept_write(entry, physical(tables[round % 2]) | EPT_RWX);
        ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0x8b + round % 2);
    }
}

/* The page of a table is given back and becomes something else: first INVEPT, then reuse. */
TEST("ept", freed, "ept-table-freed", TEST_EPT)
{
    u64 *table = page_alloc();
    table[NOTE_PAGE >> 12 & 511] = physical(access_page(0x8d)) | EPT_RWX | EPT_WB;
    u64 *entry = ept_entry(&vm->ept, NOTE_PAGE, 2);
    ept_write(entry, physical(table) | EPT_RWX);
    check_equal("before", l2_reads(vm, NOTE_PAGE + VALUE), 0x8d);
    ept_write(entry, 0);
    ept_invalidate(&vm->ept);
    for (unsigned i = 0; i < 512; i++)
        table[i] = ~0ull; /* anything: it is no table any more */
    start_access(vm, READ, NOTE_PAGE + VALUE);
    expect_violation(vm, VIOLATION_READ, 0, NOTE_PAGE + VALUE, NOTE_PAGE + VALUE);
}

/* ---- several roots ---- */

enum { ROOTS = 4 };

/* Tables in which NOTE_PAGE is a different page each */
static void create_roots(struct ept *roots, word **pages)
{
    for (unsigned i = 0; i < ROOTS; i++) {
        pages[i] = access_page(0x90 + i);
        vm_create_ept(&roots[i]);
        ept_map(&roots[i], NOTE_PAGE, physical(pages[i]), 1, EPT_RWX | EPT_WB);
    }
}

/* What is known of one root is not used for another: no INVEPT is needed to switch. */
TEST("ept", roots, "ept-switch-roots", TEST_EPT)
{
    struct ept roots[ROOTS];
    word *pages[ROOTS];
    create_roots(roots, pages);
    for (unsigned round = 0; round < 3 * ROOTS; round++) {
        unsigned which = (round * 3 + round / ROOTS) % ROOTS;
        vm_use_ept(&roots[which]);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0x90 + which);
        l2_writes(vm, NOTE_PAGE + 64 + 8 * round);
        check_equal("written by L2", pages[which][(64 + 8 * round) / sizeof(word)] & 0xffffffff,
                    WRITTEN);
    }
}

TEST("ept", roots_vpid, "ept-switch-roots-vpid", TEST_EPT)
{
    vm_needs(CPU2, CPU2_VPID);
    struct ept roots[ROOTS];
    word *pages[ROOTS];
    create_roots(roots, pages);
    vm_control(vm, CPU2, CPU2_VPID, 0);
    for (unsigned round = 0; round < 3 * ROOTS; round++) {
        unsigned which = (round * 3 + round / ROOTS) % ROOTS;
        vmwrite(VMCS_VPID, 1 + round % 2);
        vm_use_ept(&roots[which]);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0x90 + which);
    }
}

/* INVEPT of one root is enough for changes in that root, whichever is in use. */
TEST("ept", roots_change, "ept-switch-roots-change", TEST_EPT)
{
    struct ept roots[ROOTS];
    word *pages[ROOTS];
    create_roots(roots, pages);
    for (unsigned i = 0; i < ROOTS; i++) {
        vm_use_ept(&roots[i]);
        check_equal("before", l2_reads(vm, NOTE_PAGE + VALUE), 0x90 + i);
    }
    for (unsigned i = 0; i < ROOTS; i++) { /* the last root is the one in use */
        ept_map(&roots[i], NOTE_PAGE, physical(pages[(i + 1) % ROOTS]), 1, EPT_RWX | EPT_WB);
        ept_invalidate(&roots[i]);
    }
    for (unsigned i = 0; i < ROOTS; i++) {
        vm_use_ept(&roots[i]);
        check_equal("after", l2_reads(vm, NOTE_PAGE + VALUE), 0x90 + (i + 1) % ROOTS);
    }
}

/* Roots that share tables: the change is seen through each, after INVEPT of each. */
TEST("ept", roots_shared, "ept-roots-share-tables", TEST_EPT)
{
    struct ept other;
    vm_create_ept(&other);
    map(vm, access_page(0x98), EPT_RWX);
    u64 *from = ept_entry(&vm->ept, NOTE_PAGE, 2), *to = ept_entry(&other, NOTE_PAGE, 2);
    ept_write(to, *from);
    struct ept *both[2] = { &vm->ept, &other };
    for (unsigned i = 0; i < 2; i++) {
        vm_use_ept(both[i]);
        check_equal("before", l2_reads(vm, NOTE_PAGE + VALUE), 0x98);
    }
    map(vm, access_page(0x99), EPT_RWX);
    for (unsigned i = 0; i < 2; i++)
        ept_invalidate(both[i]);
    for (unsigned i = 0; i < 2; i++) {
        vm_use_ept(both[i]);
        check_equal("after", l2_reads(vm, NOTE_PAGE + VALUE), 0x99);
    }
}

/* One root with different rights for the same pages in another: shares must not be mixed up. */
TEST("ept", roots_rights, "ept-roots-different-rights", TEST_EPT)
{
    struct ept other;
    u64 page = physical(access_page(0x9a));
    vm_create_ept(&other);
    ept_map(&vm->ept, NOTE_PAGE, page, 1, EPT_RWX | EPT_WB);
    ept_map(&other, NOTE_PAGE, page, 1, EPT_READ | EPT_WB);
    for (unsigned round = 0; round < 3; round++) {
        vm_use_ept(&vm->ept);
        l2_writes(vm, NOTE_PAGE + 64);
        vm_use_ept(&other);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0x9a);
        start_access(vm, WRITE, NOTE_PAGE + 64);
        expect_violation(vm, VIOLATION_WRITE, EPT_READ, NOTE_PAGE + 64, NOTE_PAGE + 64);
    }
}
