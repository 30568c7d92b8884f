/* EPT: large pages, memory types, accessed and dirty flags. */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"

enum { LARGE_A = 0x40000000, LARGE_B = 0x40200000, SIZE_2M = 2 << 20 };

static volatile word *at(u64 address) { return (volatile word *)(word)address; }

static void need_2m(void)
{
    if (!has_ept_cap(EPT_CAP_2M))
        skip("no 2 MiB pages");
    if (!large_page(1))
        skip("too little memory");
}

/* Offsets into a large page, its ends among them */
static const u32 offsets[] = { 0, 0x1000, 0x12340, 0xff000, 0x1fffc0, SIZE_2M - sizeof(word) };

/* Put a different value at every offset. */
static void mark(u64 page, word value)
{
    for (unsigned i = 0; i < ARRAY_LEN(offsets); i++)
        *at(page + offsets[i]) = value + i;
}

static void check_marks(struct vm *vm, word linear, word value)
{
    for (unsigned i = 0; i < ARRAY_LEN(offsets); i++)
        check_equal("read by L2", l2_reads(vm, linear + offsets[i]), value + i);
}

TEST("ept", large_2m, "ept-large-2m", TEST_EPT)
{
    need_2m();
    u64 page = large_page(0);
    mark(page, 0x2000);
    ept_map(&vm->ept, LARGE_A, page, 2, EPT_RWX | EPT_WB);
    check_marks(vm, LARGE_A, 0x2000);
    l2_writes(vm, LARGE_A + 0x123450);
    check_equal("written by L2", *at(page + 0x123450) & 0xffffffff, WRITTEN);
    row("rights");
    ept_map(&vm->ept, LARGE_A, page, 2, EPT_READ | EPT_WB);
    ept_invalidate(&vm->ept);
    start_access(vm, WRITE, LARGE_A + 0x54321);
    expect_violation(vm, VIOLATION_WRITE, EPT_READ, LARGE_A + 0x54321, LARGE_A + 0x54321);
    start_access(vm, FETCH, LARGE_A + 0x54321);
    expect_violation(vm, VIOLATION_FETCH, EPT_READ, LARGE_A + 0x54321, LARGE_A + 0x54321);
    row("behind the page");
    start_access(vm, READ, LARGE_B);
    expect_violation(vm, VIOLATION_READ, 0, LARGE_B, LARGE_B);
}

/* Two large pages change places, again and again. */
TEST("ept", swap_2m, "ept-large-swap-2m", TEST_EPT)
{
    need_2m();
    for (unsigned i = 0; i < 2; i++)
        mark(large_page(i), 0x3000 + 0x100 * i);
    for (unsigned round = 0; round < 4; round++) {
        ept_map(&vm->ept, LARGE_A, large_page(round % 2), 2, EPT_RWX | EPT_WB);
        ept_map(&vm->ept, LARGE_B, large_page(1 - round % 2), 2, EPT_RWX | EPT_WB);
        ept_invalidate(&vm->ept);
        check_marks(vm, LARGE_A, 0x3000 + 0x100 * (round % 2));
        check_marks(vm, LARGE_B, 0x3000 + 0x100 * (1 - round % 2));
    }
}

/* A large page is split into small ones, one of them goes elsewhere, and all become large again. */
TEST("ept", split_2m, "ept-large-split-and-join", TEST_EPT)
{
    need_2m();
    u64 page = large_page(0);
    mark(page, 0x4000);
    ept_map(&vm->ept, LARGE_A, page, 2, EPT_RWX | EPT_WB);
    check_marks(vm, LARGE_A, 0x4000);
    u64 *directory_entry = ept_entry(&vm->ept, LARGE_A, 2), large = *directory_entry;
    row("split");
    u64 *table = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        table[i] = (page + i * PAGE_SIZE) | EPT_RWX | EPT_WB;
    ept_write(directory_entry, physical(table) | EPT_RWX);
    ept_invalidate(&vm->ept);
    check_marks(vm, LARGE_A, 0x4000);
    row("one page elsewhere");
    word *other = access_page(0x4444);
    ept_write(&table[1], physical(other) | EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, LARGE_A + PAGE_SIZE + sizeof(word)), 0x4444);
    check_equal("its neighbour", l2_reads(vm, LARGE_A), 0x4000);
    row("joined");
    ept_write(directory_entry, large);
    ept_invalidate(&vm->ept);
    check_marks(vm, LARGE_A, 0x4000);
}

/* ---- 1 GiB ---- */

/* The first gigabyte, where lhv is, at two other addresses in turn; no other memory is needed. */
enum { HUGE_A = 0x40000000, HUGE_B = 0x80000000 };

TEST("ept", large_1g, "ept-large-1g", TEST_EPT)
{
    if (!has_ept_cap(EPT_CAP_1G))
        skip("no 1 GiB pages");
    word *page = page_alloc();
    word offset = (word)page;
    page[0] = 0x61;
    ept_map(&vm->ept, HUGE_A, 0, 3, EPT_RWX | EPT_WB);
    check_equal("read by L2", l2_reads(vm, HUGE_A + offset), 0x61);
    l2_writes(vm, HUGE_A + offset + 64);
    check_equal("written by L2", at(physical(page) + 64)[0] & 0xffffffff, WRITTEN);
}

TEST("ept", swap_1g, "ept-large-swap-1g", TEST_EPT)
{
    if (!has_ept_cap(EPT_CAP_1G))
        skip("no 1 GiB pages");
    word *page = page_alloc();
    word offset = (word)page;
    page[0] = 0x62;
    for (unsigned round = 0; round < 4; round++) {
        word present = round % 2 ? (word)HUGE_B : HUGE_A,
             absent = round % 2 ? HUGE_A : (word)HUGE_B;
        ept_map(&vm->ept, present, 0, 3, EPT_RWX | EPT_WB);
        ept_write(ept_entry(&vm->ept, absent, 3), 0);
        ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, present + offset), 0x62);
        start_access(vm, READ, absent + offset);
        expect_violation(vm, VIOLATION_READ, 0, absent + offset, absent + offset);
    }
}

/* ---- memory types: whichever, memory works; what they do to caches cannot be seen from here ---- */

TEST("ept", types, "ept-memory-types", TEST_EPT)
{
    static const u8 types[] = { TYPE_UC, TYPE_WC, TYPE_WT, TYPE_WP, TYPE_WB };
    word *page = access_page(0);
    for (unsigned i = 0; i < 2 * ARRAY_LEN(types); i++) {
        u64 ignore_pat = i % 2 ? EPT_IGNORE_PAT : 0;
        page[1] = 0x70 + i;
        ept_map(&vm->ept, NOTE_PAGE, physical(page), 1,
                EPT_RWX | EPT_TYPE(types[i / 2]) | ignore_pat);
        ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + sizeof(word)), 0x70 + i);
        l2_writes(vm, NOTE_PAGE + 64);
        check_equal("written by L2", at(physical(page) + 64)[0] & 0xffffffff, WRITTEN);
        at(physical(page) + 64)[0] = 0;
    }
}

/* The type of the paging structures themselves, in the EPT pointer */
TEST("ept", root_type, "ept-root-memory-type", TEST_EPT)
{
    word *page = access_page(0x71);
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < 2; i++) {
        if (!has_ept_cap(i ? EPT_CAP_WB : EPT_CAP_UC))
            continue;
        vm->ept.eptp = physical(vm->ept.root) | EPTP_WALK_4 | (i ? TYPE_WB : TYPE_UC);
        vm_use_ept(&vm->ept);
        ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + sizeof(word)), 0x71);
    }
}

/* ---- accessed and dirty flags ---- */

static void use_flags(struct vm *vm)
{
    if (!has_ept_cap(EPT_CAP_AD))
        skip("no accessed and dirty flags");
    vm->ept.eptp |= EPTP_AD;
    vm_use_ept(&vm->ept);
    ept_invalidate(&vm->ept);
}

static u64 flags_of(struct vm *vm, u64 address, unsigned level)
{
    return *ept_entry(&vm->ept, address, level) & (EPT_ACCESSED | EPT_DIRTY);
}

static void clear_flags(struct vm *vm, u64 address, unsigned leaf)
{
    for (unsigned level = leaf; level <= 3; level++) {
        u64 *entry = ept_entry(&vm->ept, address, level);
        ept_write(entry, *entry & ~(u64)(EPT_ACCESSED | EPT_DIRTY));
    }
    ept_invalidate(&vm->ept);
}

static const struct {
    enum access access;
    u64 leaf;
} flag_rows[] = {
    { READ, EPT_ACCESSED },
    { FETCH, EPT_ACCESSED },
    { WRITE, EPT_ACCESSED | EPT_DIRTY },
};

static void check_flags(struct vm *vm, u64 address, unsigned leaf)
{
    for (unsigned i = 0; i < ARRAY_LEN(flag_rows); i++) {
        row(access_name(flag_rows[i].access));
        clear_flags(vm, address, leaf);
        start_access(vm, flag_rows[i].access, (word)address);
        vm_expect_done(vm);
        check_equal("flags of the leaf", flags_of(vm, address, leaf), flag_rows[i].leaf);
        for (unsigned level = leaf + 1; level <= 3; level++)
            check_equal("flags above", flags_of(vm, address, level) & EPT_ACCESSED, EPT_ACCESSED);
    }
}

TEST("ept", flags, "ept-accessed-dirty", TEST_EPT)
{
    use_flags(vm);
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    check_flags(vm, OTHER_PAGE, 1);
}

TEST("ept", flags_2m, "ept-accessed-dirty-2m", TEST_EPT)
{
    use_flags(vm);
    need_2m();
    *at(large_page(0)) = 0xc3; /* RET, for the fetch */
    ept_map(&vm->ept, OTHER_PAGE & ~(SIZE_2M - 1), large_page(0), 2, EPT_RWX | EPT_WB);
    check_flags(vm, OTHER_PAGE & ~(SIZE_2M - 1), 2);
}

/* Read first, written later: the dirty flag must still be set by the write. */
TEST("ept", flags_later, "ept-dirty-after-read", TEST_EPT)
{
    use_flags(vm);
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    l2_reads(vm, OTHER_PAGE);
    check_equal("after the read", flags_of(vm, OTHER_PAGE, 1), EPT_ACCESSED);
    l2_writes(vm, OTHER_PAGE);
    check_equal("after the write", flags_of(vm, OTHER_PAGE, 1), EPT_ACCESSED | EPT_DIRTY);
}

/* An access that is refused does not make a page dirty. */
TEST("ept", flags_refused, "ept-dirty-not-when-refused", TEST_EPT)
{
    use_flags(vm);
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_READ | EPT_WB);
    start_access(vm, WRITE, OTHER_PAGE);
    expect_violation(vm, VIOLATION_WRITE, EPT_READ, OTHER_PAGE, OTHER_PAGE);
    check_equal("dirty", flags_of(vm, OTHER_PAGE, 1) & EPT_DIRTY, 0);
}

/* Where the EPT pointer does not ask for the flags, the bits stay as they are. */
TEST("ept", flags_off, "ept-accessed-dirty-off", TEST_EPT)
{
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < ARRAY_LEN(flag_rows); i++) {
        row(access_name(flag_rows[i].access));
        start_access(vm, flag_rows[i].access, OTHER_PAGE);
        vm_expect_done(vm);
        for (unsigned level = 1; level <= 3; level++)
            check_equal("flags", flags_of(vm, OTHER_PAGE, level), 0);
    }
}

/* With the flags, every access to one of L2's paging structures counts as a write. */
TEST("ept", flags_table, "ept-dirty-guest-table", TEST_EPT)
{
    use_flags(vm);
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0x72)),
              PTE_PRESENT | PTE_WRITE | PTE_ACCESSED);
    u64 table = space_read(&space, space_entry(&space, VIOLATION_PAGE, 2)) & 0xfffff000;
    clear_flags(vm, table, 1);
    vm_use_space(vm, &space);
    check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + sizeof(word)), 0x72);
    check_equal("flags", flags_of(vm, table, 1), EPT_ACCESSED | EPT_DIRTY);
}

/* Such an access to a read-only page is refused, and reports read and write. */
TEST("ept", flags_table_refused, "ept-dirty-guest-table-read-only", TEST_EPT)
{
    use_flags(vm);
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0x73)),
              PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY);
    u64 table = space_read(&space, space_entry(&space, VIOLATION_PAGE, 2)) & 0xfffff000;
    ept_map(&vm->ept, table, table, 1, EPT_READ | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_use_space(vm, &space);
    start_access(vm, READ, VIOLATION_PAGE + sizeof(word));
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("qualification", vm->qualification & 0x1bf,
                VIOLATION_READ | VIOLATION_WRITE | EPT_READ << VIOLATION_ALLOWS_SHIFT |
                    VIOLATION_LINEAR_VALID);
    check_equal("guest-physical page", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull, table);
    ept_map(&vm->ept, table, table, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    check_equal("read by L2", read_value(vm), 0x73);
}
