/* EPT: the basic cases, among them the pages 1234000h and 12340000h. */
#include "lib/string.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

/* A word of memory that the compiler must really read or write */
static volatile u32 *at(word address) { return (volatile u32 *)address; }

/* What L2 does with a page: read one word, write the next. */
struct touch {
    word address;
    u32 seen;
};

static void l2_touch(struct touch *touch)
{
    touch->seen = at(touch->address)[0];
    at(touch->address)[1] = 0x12345678;
}

static struct touch *touch_at(struct vm *vm, word address)
{
    struct touch *touch = (void *)vm->shared;
    touch->address = address;
    touch->seen = 0;
    return touch;
}

TEST("ept", identity, "ept-identity", TEST_EPT)
{
    u32 *page = page_alloc();
    struct touch *touch = touch_at(vm, (word)page);
    page[0] = 0xcafe;
    vm_start(vm, l2_touch, (word)touch);
    vm_expect_done(vm);
    check_equal("read by L2", touch->seen, 0xcafe);
    check_equal("written by L2", page[1], 0x12345678);
}

/* L1 puts a value into some page; L2 finds it at 1234000h. */
TEST("ept", note_page, "ept-note-page", TEST_EPT)
{
    u32 *page = page_alloc();
    struct touch *touch = touch_at(vm, NOTE_PAGE);
    page[0] = 0xbeef;
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    vm_start(vm, l2_touch, (word)touch);
    vm_expect_done(vm);
    check_equal("read by L2", touch->seen, 0xbeef);
    check_equal("written by L2", page[1], 0x12345678);
}

/* The entry that reads 1234037h: L1 and L2 mean the same page. */
TEST("ept", note_page_identity, "ept-note-page-identity", TEST_EPT | TEST_ALONE)
{
    if (ram_end < NOTE_PAGE + PAGE_SIZE)
        skip("no RAM at 1234000h");
    struct touch *touch = touch_at(vm, NOTE_PAGE);
    at(NOTE_PAGE)[0] = 0xf00d;
    at(NOTE_PAGE)[1] = 0;
    ept_map(&vm->ept, NOTE_PAGE, NOTE_PAGE, 1, EPT_RWX | EPT_WB);
    check_equal("entry", *ept_entry(&vm->ept, NOTE_PAGE, 1), 0x1234037);
    vm_start(vm, l2_touch, (word)touch);
    vm_expect_done(vm);
    check_equal("read by L2", touch->seen, 0xf00d);
    check_equal("written by L2", at(NOTE_PAGE)[1], 0x12345678);
}

/* Nothing is at 12340000h until L2 looks; then L1 maps a page and lets L2 try again. */
TEST("ept", map_on_violation, "ept-map-on-violation", TEST_EPT)
{
    u32 *page = page_alloc();
    word address = VIOLATION_PAGE + 8;
    struct touch *touch = touch_at(vm, address);
    page[2] = 0xface;
    vm_start(vm, l2_touch, (word)touch);
    expect_violation(vm, VIOLATION_READ, 0, address, address);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    check_equal("read by L2", touch->seen, 0xface);
    check_equal("written by L2", page[3], 0x12345678);
}

/* L1 may also skip the instruction: its length is told. */
TEST("ept", skip, "ept-skip-instruction", TEST_EPT)
{
    vm->regs.si = 0x77;
    start_access(vm, READ, VIOLATION_PAGE);
    vm->regs.si = 0x77;
    expect_violation(vm, VIOLATION_READ, 0, VIOLATION_PAGE, VIOLATION_PAGE);
    vm_skip(vm);
    vm_expect_done(vm);
    check_equal("not read", read_value(vm), 0x77);
}

/* An access across two pages of which the second is missing */
TEST("ept", across, "ept-access-across-pages", TEST_EPT)
{
    word *pages[2] = { page_alloc(), page_alloc() };
    word address = VIOLATION_PAGE + PAGE_SIZE - 2;
    for (unsigned i = 0; i < 2; i++)
        memset(pages[i], 0x11 * (int)(i + 1), PAGE_SIZE);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(pages[0]), 1, EPT_RWX | EPT_WB);
    start_access(vm, READ, address);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("page of the violation", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull,
                VIOLATION_PAGE + PAGE_SIZE);
    ept_map(&vm->ept, VIOLATION_PAGE + PAGE_SIZE, physical(pages[1]), 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    check_equal("read by L2", read_value(vm) & 0xffffffff, 0x22221111);
}

/* Entries that nobody uses may hold anything. */
TEST("ept", untouched, "ept-bad-entries-untouched", TEST_EPT)
{
    word *page = access_page(0x5005);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    u64 *table = ept_entry(&vm->ept, VIOLATION_PAGE, 1) - (VIOLATION_PAGE >> 12 & 511);
    for (unsigned i = 0; i < 512; i++)
        if (i != (VIOLATION_PAGE >> 12 & 511))
            table[i] = i % 2 ? ~0ull : EPT_WRITE | (u64)i << 50;
    for (unsigned i = 0x100; i < 0x180; i++) /* directories that L2 never reaches */
        ept_write(ept_entry(&vm->ept, (u64)i << 30, 3), EPT_WRITE | (u64)i << 40);
    ept_invalidate(&vm->ept);
    check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + sizeof(word)), 0x5005);
    row("until L2 touches one");
    start_access(vm, READ, VIOLATION_PAGE + PAGE_SIZE);
    vm_expect(vm, REASON_EPT_MISCONFIG);
}

/* A fifth level above the table: its first entry is the old root. */
TEST("ept", five_levels, "ept-five-levels", TEST_EPT)
{
    enum { ERROR_CONTROLS = 7 };
    u64 *top = page_alloc();
    u64 kept = vm->ept.eptp & ~EPT_ADDRESS & ~(u64)EPTP_WALK;
    struct ept wide = { .root = vm->ept.root, .eptp = kept | EPTP_WALK_5 | physical(top) };
    top[0] = physical(vm->ept.root) | EPT_RWX;
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0x57)), 1, EPT_RWX | EPT_WB);
    vmwrite(VMCS_EPT_POINTER, wide.eptp);
    if (!has_ept_cap(EPT_CAP_WALK_5)) {
        vm_start(vm, access_page(0), 0);
        check_equal("how the entry ends", vm_try_run(vm), VMX_FAIL_VALID);
        check_equal("error", vmread(VMCS_INSTRUCTION_ERROR), ERROR_CONTROLS);
        return;
    }
    row("mapped");
    check_equal("read by L2", l2_reads(vm, NOTE_PAGE + sizeof(word)), 0x57);
    row("the new root has no first entry any more");
    ept_write(&top[0], 0);
    ept_invalidate(&wide);
    start_access(vm, READ, NOTE_PAGE);
    vm_expect(vm, REASON_EPT_VIOLATION);
    row("misconfigured");
    ept_write(&top[0], physical(vm->ept.root) | EPT_RWX | EPT_LARGE);
    ept_invalidate(&wide);
    start_access(vm, READ, NOTE_PAGE);
    vm_expect(vm, REASON_EPT_MISCONFIG);
}
