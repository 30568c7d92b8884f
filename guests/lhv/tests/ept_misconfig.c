/* EPT entries that no processor accepts, and bits that every processor ignores. */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

/* A row changes the entry of one level on the way to OTHER_PAGE. */
struct misconfig {
    const char *name;
    u8 level;
    u64 clear, set;
};

/* In `set`: the first address bit beyond this processor's physical addresses */
#define TOO_WIDE 0x8000000000000001ull

static const struct misconfig rows[] = {
    { "page: write only", 1, EPT_RWX, EPT_WRITE },
    { "page: write and execute", 1, EPT_RWX, EPT_WRITE | EPT_EXEC },
    { "page: memory type 2", 1, 7 << 3, 2 << 3 },
    { "page: memory type 3", 1, 7 << 3, 3 << 3 },
    { "page: memory type 7", 1, 7 << 3, 7 << 3 },
    { "page: address too wide", 1, 0, TOO_WIDE },
    { "page: address bit 51", 1, 0, BIT64(51) },
    { "page directory entry: write only", 2, EPT_RWX, EPT_WRITE },
    { "page directory entry: write and execute", 2, EPT_RWX, EPT_WRITE | EPT_EXEC },
    { "page directory entry: bit 3", 2, 0, BIT(3) },
    { "page directory entry: bit 6", 2, 0, BIT(6) },
    { "page directory entry: address too wide", 2, 0, TOO_WIDE },
    { "directory pointer: write only", 3, EPT_RWX, EPT_WRITE },
    { "directory pointer: write and execute", 3, EPT_RWX, EPT_WRITE | EPT_EXEC },
    { "directory pointer: bit 4", 3, 0, BIT(4) },
    { "directory pointer: bit 5", 3, 0, BIT(5) },
    { "directory pointer: address too wide", 3, 0, TOO_WIDE },
};

static u64 apply(const struct misconfig *it, u64 entry)
{
    u64 set = it->set == TOO_WIDE ? BIT64(caps.physical_bits) : it->set;
    return (entry & ~it->clear) | set;
}

static void expect_misconfig(struct vm *vm, u64 address)
{
    start_access(vm, READ, (word)address);
    vm_expect(vm, REASON_EPT_MISCONFIG);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), address);
}

/* From misconfigured to valid needs no INVEPT: nothing of such an entry is ever kept. */
static void check_row(struct vm *vm, const struct misconfig *it, u64 address)
{
    u64 *entry = ept_entry(&vm->ept, address, it->level), good = *entry;
    u64 bad = apply(it, good);
    if (bad == good)
        return;
    row(it->name);
    ept_write(entry, bad);
    ept_invalidate(&vm->ept);
    expect_misconfig(vm, address);
    ept_write(entry, good);
    vm_expect_done(vm);
}

TEST("ept", misconfig, "ept-misconfig", TEST_EPT)
{
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (!(rows[i].set == BIT64(51) && caps.physical_bits == 52))
            check_row(vm, &rows[i], OTHER_PAGE);
}

TEST("ept", misconfig_execute_only, "ept-misconfig-execute-only", TEST_EPT)
{
    static const struct misconfig execute_only[] = {
        { "page", 1, EPT_RWX, EPT_EXEC },
        { "page directory entry", 2, EPT_RWX, EPT_EXEC },
        { "directory pointer", 3, EPT_RWX, EPT_EXEC },
    };
    if (has_ept_cap(EPT_CAP_EXECUTE_ONLY))
        skip("execute-only pages are offered");
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < ARRAY_LEN(execute_only); i++)
        check_row(vm, &execute_only[i], OTHER_PAGE);
}

/* ---- large pages ---- */

static const struct misconfig large_rows[] = {
    { "write only", 0, EPT_RWX, EPT_WRITE }, { "memory type 2", 0, 7 << 3, 2 << 3 },
    { "memory type 3", 0, 7 << 3, 3 << 3 },  { "memory type 7", 0, 7 << 3, 7 << 3 },
    { "address bit 13", 0, 0, BIT(13) },     { "address bit 20", 0, 0, BIT(20) },
    { "address too wide", 0, 0, TOO_WIDE },
};

/* The page that holds lhv, also at 40000000h for L2 */
enum { LARGE_AT = 0x40000000 };

static void check_large(struct vm *vm, unsigned level, const struct misconfig *rows_,
                        unsigned count)
{
    ept_map(&vm->ept, LARGE_AT, 0, level, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < count; i++) {
        struct misconfig it = rows_[i];
        it.level = (u8)level;
        check_row(vm, &it, LARGE_AT);
    }
}

TEST("ept", misconfig_2m, "ept-misconfig-2m", TEST_EPT)
{
    if (!has_ept_cap(EPT_CAP_2M))
        skip("no 2 MiB pages");
    check_large(vm, 2, large_rows, ARRAY_LEN(large_rows));
}

TEST("ept", misconfig_1g, "ept-misconfig-1g", TEST_EPT)
{
    static const struct misconfig bit_29[] = { { "address bit 29", 0, 0, BIT(29) } };
    if (!has_ept_cap(EPT_CAP_1G))
        skip("no 1 GiB pages");
    check_large(vm, 3, large_rows, ARRAY_LEN(large_rows));
    check_large(vm, 3, bit_29, 1);
}

/* In guests' own large pages bit 12 is a PAT bit; in EPT's it is reserved. */
TEST("ept", misconfig_bit_12, "ept-misconfig-large-bit-12", TEST_EPT)
{
    static const struct misconfig bit_12[] = { { "address bit 12", 0, 0, BIT(12) } };
    if (!has_ept_cap(EPT_CAP_2M))
        skip("no 2 MiB pages");
    check_large(vm, 2, bit_12, 1);
}

TEST("ept", no_large, "ept-large-not-offered", TEST_EPT)
{
    if (has_ept_cap(EPT_CAP_2M | EPT_CAP_1G))
        skip("2 MiB and 1 GiB pages are offered");
    for (unsigned level = 2; level <= 3; level++) {
        if (has_ept_cap(level == 2 ? EPT_CAP_2M : EPT_CAP_1G))
            continue;
        row(level == 2 ? "2 MiB" : "1 GiB");
        u64 address = (u64)LARGE_AT << (level - 2); /* one gigabyte for each */
        ept_map(&vm->ept, address, 0, level, EPT_RWX | EPT_WB);
        expect_misconfig(vm, address);
    }
}

/* ---- the root's entries ---- */

static const struct misconfig root_rows[] = {
    { "write only", 4, EPT_RWX, EPT_WRITE },
    { "bit 3", 4, 0, BIT(3) },
    { "bit 4", 4, 0, BIT(4) },
    { "bit 5", 4, 0, BIT(5) },
    { "bit 6", 4, 0, BIT(6) },
    { "bit 7", 4, 0, BIT(7) },
    { "address too wide", 4, 0, TOO_WIDE },
};

/* They are above L2's own code too, so that L2's first fetch meets them. */
TEST("ept", misconfig_root, "ept-misconfig-root", TEST_EPT)
{
    u64 *entry = ept_entry(&vm->ept, 0, 4), good = *entry;
    for (unsigned i = 0; i < ARRAY_LEN(root_rows); i++) {
        row(root_rows[i].name);
        start_access(vm, READ, (word)vm->shared);
        ept_write(entry, apply(&root_rows[i], good));
        ept_invalidate(&vm->ept);
        vm_expect(vm, REASON_EPT_MISCONFIG);
        ept_write(entry, good);
        vm_expect_done(vm);
    }
}

/* ---- which comes first ---- */

/*
 * The walk goes down level by level: an entry that is not present ends it with a violation, a
 * misconfigured one with a misconfiguration; rights count only after the last level.
 */
static const struct {
    const char *name;
    u64 upper_clear, upper_set, lower_clear, lower_set;
    u32 reason;
} priority_rows[] = {
    { "above read-only, below misconfigured", EPT_RWX, EPT_READ, 7 << 3, 3 << 3,
      REASON_EPT_MISCONFIG },
    { "above not present, below misconfigured", EPT_RWX, 0, 7 << 3, 3 << 3, REASON_EPT_VIOLATION },
    { "above misconfigured, below not present", EPT_RWX, EPT_WRITE, EPT_RWX, 0,
      REASON_EPT_MISCONFIG },
    { "above read-only, below not present", EPT_RWX, EPT_READ, EPT_RWX, 0, REASON_EPT_VIOLATION },
    { "not present with reserved bits", EPT_RWX, 0x78, 0, 0, REASON_EPT_VIOLATION },
    { "page not present, bad type", 0, 0, EPT_RWX | 7 << 3, 7 << 3, REASON_EPT_VIOLATION },
};

TEST("ept", priority, "ept-misconfig-priority", TEST_EPT)
{
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(1)), 1, EPT_RWX | EPT_WB);
    u64 *upper = ept_entry(&vm->ept, OTHER_PAGE, 2), *lower = ept_entry(&vm->ept, OTHER_PAGE, 1);
    u64 good_upper = *upper, good_lower = *lower;
    for (unsigned i = 0; i < ARRAY_LEN(priority_rows); i++) {
        row(priority_rows[i].name);
        ept_write(upper, (good_upper & ~priority_rows[i].upper_clear) | priority_rows[i].upper_set);
        ept_write(lower, (good_lower & ~priority_rows[i].lower_clear) | priority_rows[i].lower_set);
        ept_invalidate(&vm->ept);
        start_access(vm, WRITE, OTHER_PAGE);
        vm_expect(vm, priority_rows[i].reason);
    }
}

/* ---- bits that are ignored ---- */

#define SOFTWARE_BITS (0x7ffull << 52 | BIT64(11))

static const struct misconfig ignored_rows[] = {
    { "page: bits 62:52 and 11", 1, 0, SOFTWARE_BITS },
    { "page: bit 63", 1, 0, BIT64(63) }, /* suppress #VE, which is off */
    { "page: bit 7", 1, 0, BIT(7) },
    { "page: bits 8 and 9 without A/D flags", 1, 0, BIT(8) | BIT(9) },
    { "page: bit 10 without mode-based execution", 1, 0, BIT(10) },
    { "page directory entry: bits 63:52 and 11:8", 2, 0, SOFTWARE_BITS | BIT64(63) | 0xf00 },
    { "directory pointer: bits 63:52 and 11:8", 3, 0, SOFTWARE_BITS | BIT64(63) | 0xf00 },
    { "root: bits 63:52 and 11:8", 4, 0, SOFTWARE_BITS | BIT64(63) | 0xf00 },
};

TEST("ept", ignored, "ept-ignored-bits", TEST_EPT)
{
    ept_map(&vm->ept, OTHER_PAGE, physical(access_page(0x77)), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < ARRAY_LEN(ignored_rows); i++) {
        u64 *entry = ept_entry(&vm->ept, OTHER_PAGE, ignored_rows[i].level), good = *entry;
        row(ignored_rows[i].name);
        ept_write(entry, apply(&ignored_rows[i], good));
        ept_invalidate(&vm->ept);
        check_equal("read", l2_reads(vm, OTHER_PAGE + sizeof(word)), 0x77);
        l2_writes(vm, OTHER_PAGE + 64);
        check_equal("entry afterwards", *entry, apply(&ignored_rows[i], good));
        ept_write(entry, good);
        ept_invalidate(&vm->ept);
    }
}
