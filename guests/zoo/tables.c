/*
 * Mistakes of whoever changes an EPT, on one processor: an entry changes, but what the processor
 * holds of the old one does not go (SDM 3C, "Guidelines for Use of the INVEPT Instruction").
 */
#include "zoo.h"

extern u8 image_start[], image_end[];

/* L2 must meet a violation: what it reads there is somebody else's now. */
static void expect_refused(struct vm *vm)
{
    start_access(vm, READ, PAGE_VALUE);
    if (vm_run(vm) == REASON_EPT_VIOLATION)
        return;
    fail("L2 reads a page that was taken from it");
    note("it finds 0x%lx there", read_value(vm));
}

static u64 leaf(const void *page, u64 rights) { return physical(page) | rights | EPT_WB; }

static u64 *note_entry(struct vm *vm) { return ept_entry(&vm->ept, NOTE_PAGE, 1); }

/* L2 reads the first page, and so the processor knows where it is. */
static void show_and_read(struct vm *vm, void *page)
{
    show(vm, page, EPT_RWX);
    if (l2_reads(vm, PAGE_VALUE) != OLD)
        broken("L2 does not see its page");
}

SCENARIO(condition, "flush-skipped-by-condition")
{
    u64 *entry = note_entry(vm);
    show_and_read(vm, access_page(OLD));
    u64 before = *entry, after = leaf(access_page(NEW), EPT_RWX);
    ept_write(entry, after);
    bool takes_rights = before & ~after & EPT_RWX;
    bool moves = (before ^ after) & EPT_ADDRESS;
    if (takes_rights || (moves && !faulty))
        ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* Type 0 does not exist: the instruction fails, and nobody looks. */
SCENARIO(type, "invept-type-0")
{
    show_and_read(vm, access_page(OLD));
    show(vm, access_page(NEW), EPT_RWX);
    struct invept_operand operand = { .eptp = vm->ept.eptp };
    try_invept(faulty ? 0 : INVEPT_SINGLE, operand);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* In between, L2 runs on: what INVEPT dropped is there again when the entry changes. */
SCENARIO(early, "invept-before-the-change")
{
    void *page = access_page(NEW);
    show_and_read(vm, access_page(OLD));
    if (faulty) {
        ept_invalidate(&vm->ept);
        l2_reads(vm, PAGE_VALUE);
        show(vm, page, EPT_RWX);
    } else {
        show(vm, page, EPT_RWX);
        ept_invalidate(&vm->ept);
    }
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* INVVPID drops linear and combined mappings, but no guest-physical ones. */
SCENARIO(invvpid, "invvpid-for-an-ept-change")
{
    vmwrite(VMCS_VPID, 1);
    vm_needs(CPU2, CPU2_VPID);
    vm_control(vm, CPU2, CPU2_VPID, 0);
    show_and_read(vm, access_page(OLD));
    show(vm, access_page(NEW), EPT_RWX);
    if (faulty)
        try_invvpid(INVVPID_SINGLE, (struct invvpid_operand){ .vpid = 1 });
    else
        ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* Rights only: a page of L2's is to be read-only from now on, as for copy-on-write. */
SCENARIO(protect, "write-protection-without-invept")
{
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    l2_writes(vm, NOTE_PAGE + 64);
    show(vm, page, EPT_READ | EPT_EXEC);
    if (!faulty)
        ept_invalidate(&vm->ept);
    page[8] = OTHER; /* the copy that L2 shares with others now */
    start_access(vm, WRITE, NOTE_PAGE + 64);
    vm_run(vm);
    check_equal("the shared page", page[8], OTHER);
}

/* The page goes to another owner; INVEPT is put off until many pages have been freed. */
SCENARIO(freed, "page-reused-before-invept")
{
    word *page = access_page(OLD);
    show_and_read(vm, page);
    ept_write(note_entry(vm), 0);
    if (!faulty)
        ept_invalidate(&vm->ept);
    page[1] = SECRET;
    expect_refused(vm);
    ept_invalidate(&vm->ept); /* in the faulty form: the one that was put off */
}

/*
 * A page that was a table of the EPT becomes a page of data.  Somebody writes there what looks like
 * an entry, and a processor that still holds the entry above walks through it.
 */
SCENARIO(freed_table, "table-reused-before-invept")
{
    u64 *table, *above = ept_entry(&vm->ept, NOTE_PAGE, 2);
    show_and_read(vm, access_page(OLD));
    table = (u64 *)(word)(*above & EPT_ADDRESS);
    ept_write(above, 0);
    if (!faulty)
        ept_invalidate(&vm->ept);
    table[(NOTE_PAGE >> 12 & 511) + 1] = leaf(access_page(SECRET), EPT_RWX);
    start_access(vm, READ, PAGE_VALUE + PAGE_SIZE);
    if (vm_run(vm) != REASON_EPT_VIOLATION) {
        fail("L2's access goes through a page that is no table any more");
        note("it finds 0x%lx there", read_value(vm));
    }
    ept_invalidate(&vm->ept);
}

/* A large page is split, and the first of its parts is exchanged. */
SCENARIO(split, "large-page-split-without-invept")
{
    enum { REGION = 0x40000000 };
    u64 page = large_page(0);
    if (!has_ept_cap(EPT_CAP_2M) || !page)
        skip("no 2 MiB pages");
    ((volatile word *)(word)page)[1] = OLD;
    ept_map(&vm->ept, REGION, page, 2, EPT_RWX | EPT_WB);
    check_equal("before", l2_reads(vm, REGION + VALUE), OLD);
    u64 *table = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        table[i] = (page + i * PAGE_SIZE) | EPT_RWX | EPT_WB;
    table[0] = leaf(access_page(NEW), EPT_RWX);
    ept_write(ept_entry(&vm->ept, REGION, 2), physical(table) | EPT_RWX);
    if (!faulty)
        ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, REGION + VALUE), NEW);
}

/* ---- roots ---- */

/* Two EPTPs that share their tables below the root: INVEPT of one says nothing about the other. */
SCENARIO(shared_tables, "invept-of-one-root-of-two")
{
    struct ept other;
    ept_create(&other);
    for (unsigned i = 0; i < 512; i++)
        other.root[i] = vm->ept.root[i];
    ept_invalidate(&other);
    show_and_read(vm, access_page(OLD));
    vm_use_ept(&other);
    check_equal("read under the other root", l2_reads(vm, PAGE_VALUE), OLD);
    show(vm, access_page(NEW), EPT_RWX);
    ept_invalidate(&vm->ept);
    if (!faulty)
        ept_invalidate(&other);
    check_equal("read under the other root", l2_reads(vm, PAGE_VALUE), NEW);
}

/* The root's page is given back and becomes the root of another virtual machine. */
SCENARIO(root_reused, "root-reused-without-invept")
{
    show_and_read(vm, access_page(OLD));
    u64 *root = vm->ept.root;
    for (unsigned i = 0; i < 512; i++)
        root[i] = 0;
    ept_map_identity(&vm->ept, physical(image_start), physical(image_end), EPT_RWX | EPT_WB);
    show(vm, access_page(NEW), EPT_RWX);
    if (!faulty)
        ept_invalidate(&vm->ept);
    check_equal("read by the new L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* ---- flags and types ---- */

/*
 * Dirty logging: L1 clears the flag, and wants to see it set again when L2 writes.  A processor that
 * has seen it set does not look again.
 */
SCENARIO(dirty, "dirty-flag-cleared-without-invept")
{
    if (!has_ept_cap(EPT_CAP_AD))
        skip("no accessed and dirty flags");
    vm->ept.eptp |= EPTP_AD;
    vm_use_ept(&vm->ept);
    ept_invalidate(&vm->ept); /* the root was used without the flags */
    u64 *entry = note_entry(vm);
    show(vm, access_page(OLD), EPT_RWX);
    l2_writes(vm, NOTE_PAGE + 64);
    if (!(*entry & EPT_DIRTY))
        broken("the dirty flag is not set");
    ept_write(entry, *entry & ~(u64)EPT_DIRTY);
    if (!faulty)
        ept_invalidate(&vm->ept);
    l2_writes(vm, NOTE_PAGE + 128);
    check(*entry & EPT_DIRTY, "a page that L2 has written is marked dirty");
}

/*
 * The flags are turned on for a root that has been in use without them: what was cached then has no
 * reason to set any.
 */
SCENARIO(flags_on, "flags-turned-on-without-invept")
{
    if (!has_ept_cap(EPT_CAP_AD))
        skip("no accessed and dirty flags");
    show(vm, access_page(OLD), EPT_RWX);
    l2_writes(vm, NOTE_PAGE + 64);
    vm->ept.eptp |= EPTP_AD;
    vm_use_ept(&vm->ept);
    if (!faulty)
        ept_invalidate(&vm->ept);
    l2_writes(vm, NOTE_PAGE + 128);
    check(*note_entry(vm) & EPT_DIRTY, "a page that L2 has written is marked dirty");
}

/* The notes' page: its leaf is made without a memory type, which is UC.  L2 cannot tell. */
SCENARIO(type_forgotten, "memory-type-forgotten")
{
    void *page = access_page(OLD);
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | (faulty ? 0 : EPT_WB));
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), OLD);
    u32 type = *note_entry(vm) >> EPT_TYPE_SHIFT & 7;
    check_equal("memory type of a page of RAM", type, TYPE_WB);
}

/* A page of RAM becomes uncached, for a device that shares it.  L2 cannot tell this, either. */
SCENARIO(type_changed, "memory-type-changed-without-invept")
{
    void *page = access_page(OLD);
    show_and_read(vm, page);
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_TYPE(TYPE_UC));
    if (!faulty)
        ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), OLD);
}

/* Once where the entry changes, and once more before L2 is entered: to be sure. */
SCENARIO(twice, "invept-executed-twice")
{
    struct invept_operand operand = { .eptp = vm->ept.eptp };
    show_and_read(vm, access_page(OLD));
    show(vm, access_page(NEW), EPT_RWX);
    for (unsigned times = faulty ? 2 : 1; times; times--) /* here, so that it has this place */
        asm volatile("invept %0, %1" : : "m"(operand), "r"((word)INVEPT_SINGLE) : "cc", "memory");
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* MMIO by write-only entries: what is meant as "reading exits" is no entry at all. */
SCENARIO(write_only, "write-only-entry")
{
    void *page = access_page(OLD);
    show(vm, page, faulty ? EPT_WRITE : EPT_READ);
    start_access(vm, faulty ? READ : WRITE, PAGE_VALUE);
    vm_expect(vm, REASON_EPT_VIOLATION);
}
