/* EPT: the basic cases, among them the pages 1234000h and 12340000h. */
#include "test/code.h"
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

enum { NOTE_PAGE = 0x1234000, VIOLATION_PAGE = 0x12340000 };

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

/* As in the notes: the entry that reads 1234037h, so L1 and L2 mean the same page. */
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

static void check_violation(struct vm *vm, u32 access, u32 allowed, word address)
{
    check_equal("qualification", vm->qualification & 0x1bf,
                access | allowed << VIOLATION_ALLOWS_SHIFT | VIOLATION_LINEAR_VALID |
                    VIOLATION_FINAL);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), address);
    check_equal("guest-linear address", vmread(VMCS_GUEST_LINEAR), address);
}

/* Nothing is at 12340000h until L2 looks; then L1 maps a page and lets L2 try again. */
TEST("ept", map_on_violation, "ept-map-on-violation", TEST_EPT)
{
    u32 *page = page_alloc();
    struct touch *touch = touch_at(vm, VIOLATION_PAGE + 8);
    page[2] = 0xface;
    vm_start(vm, l2_touch, (word)touch);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_violation(vm, VIOLATION_READ, 0, VIOLATION_PAGE + 8);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
    check_equal("read by L2", touch->seen, 0xface);
    check_equal("written by L2", page[3], 0x12345678);
}

static const struct {
    const char *name;
    u64 bits;
} misconfigured[] = {
    { "write without read", EPT_WRITE | EPT_WB },
    { "write and execute without read", EPT_WRITE | EPT_EXEC | EPT_WB },
    { "memory type 2", EPT_RWX | EPT_TYPE(2) },
    { "memory type 3", EPT_RWX | EPT_TYPE(3) },
    { "memory type 7", EPT_RWX | EPT_TYPE(7) },
};

TEST("ept", misconfig, "ept-misconfig", TEST_EPT)
{
    u64 *entry = ept_entry(&vm->ept, VIOLATION_PAGE, 1);
    u32 *page = page_alloc();
    for (unsigned i = 0; i < ARRAY_LEN(misconfigured); i++) {
        row(misconfigured[i].name);
        struct touch *touch = touch_at(vm, VIOLATION_PAGE + 4 * i);
        page[i] = 100 + i;
        ept_write(entry, physical(page) | misconfigured[i].bits);
        vm_start(vm, l2_touch, (word)touch);
        vm_expect(vm, REASON_EPT_MISCONFIG);
        check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), touch->address);
        ept_write(entry, physical(page) | EPT_RWX | EPT_WB); /* from misconfigured: no INVEPT */
        vm_expect_done(vm);
        check_equal("read by L2", touch->seen, 100 + i);
        ept_write(entry, 0);
        ept_invalidate(&vm->ept);
    }
}
