/* L2's addresses: its linear ones go through its page tables, EPT12 and EPT01. */
#include "lib/string.h"
#include "session.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"
#include "x86/cpu.h"

enum { SECRET = 0x7a1e, BASE2 = 0x3456000 };

static struct remote {
    struct pal pal;
    u32 status, unregistered;
    word stored, loaded;
    u8 buffer[PAL_BUFFER];
} remotes[MAX_CPUS];

static void use(void *arg)
{
    struct remote *remote = arg;
    remote->status = pal_register(&remote->pal);
    if (remote->status != TV_SUCCESS)
        return;
    remote->stored = pal_call(&remote->pal, PAL_STORE, SECRET, remote->buffer);
    remote->loaded = pal_call(&remote->pal, PAL_LOAD, 0, remote->buffer);
    remote->unregistered = pal_unregister(&remote->pal);
}

/* The PAL as L2 is to see it: at other linear and other physical addresses than L1's. */
static struct remote *new_remote(struct vm *vm, bool mapped_by_l1, bool mapped_by_l2)
{
    struct remote *remote = &remotes[this_cpu()->index];
    struct space space;
    memset(remote, 0, sizeof *remote);
    tv_begin();
    pal_prepare(&remote->pal, 0);
    space_create(&space, PAGING_NATIVE);
    for (unsigned i = 0; i < PAL_PAGES; i++) {
        u8 *page = remote->pal.base + i * PAGE_SIZE;
        if (mapped_by_l2)
            space_map(&space, BASE2 + i * PAGE_SIZE, NOTE_PAGE + i * PAGE_SIZE,
                      PTE_PRESENT | PTE_WRITE | PTE_USER);
        if (mapped_by_l1)
            ept_map(&vm->ept, NOTE_PAGE + i * PAGE_SIZE, physical(page), 1, EPT_RWX | EPT_WB);
    }
    vm_use_space(vm, &space);
    struct tv_descriptor *descriptor = &remote->pal.descriptor;
    descriptor->entry = BASE2;
    for (unsigned i = 0; i < descriptor->sections; i++)
        descriptor->section[i].address = BASE2 + i * PAGE_SIZE;
    return remote;
}

TEST("pal", remapped, "pal-l2-remapped", TEST_EPT)
{
    struct remote *remote = new_remote(vm, true, true);
    u8 *base = remote->pal.base;
    remote->pal.base = (u8 *)BASE2;
    in_l2(vm, use, remote);
    check_equal("status", remote->status, TV_SUCCESS);
    check_equal("stored", remote->stored, SECRET);
    check_equal("loaded", remote->loaded, SECRET);
    check_equal("status of unregistration", remote->unregistered, TV_SUCCESS);
    check_equal("what is left of the secret", *(word *)(base + PAGE_SIZE), 0);
}

/* What only L1 has is nothing that L2 could lend. */
TEST("pal", l1_addresses, "pal-l2-addresses-of-l1", TEST_EPT)
{
    row("not in EPT12");
    struct remote *remote = new_remote(vm, false, true);
    remote->pal.base = (u8 *)BASE2;
    in_l2(vm, use, remote);
    check_equal("status", remote->status, TV_BAD_ADDRESS);
    vm_reset(vm);
    row("not in L2's page tables");
    remote = new_remote(vm, true, false);
    remote->pal.base = (u8 *)BASE2;
    in_l2(vm, use, remote);
    check_equal("status", remote->status, TV_BAD_ADDRESS);
}

TEST("pal", read_only_page, "pal-l2-read-only", TEST_EPT)
{
    row("in EPT12");
    struct remote *remote = new_remote(vm, true, true);
    ept_map(&vm->ept, NOTE_PAGE + PAGE_SIZE, physical(remote->pal.base + PAGE_SIZE), 1,
            EPT_READ | EPT_EXEC | EPT_WB);
    remote->pal.base = (u8 *)BASE2;
    in_l2(vm, use, remote);
    check_equal("status", remote->status, TV_NOT_OWNED);
}

/* L1 pages for its L2 by other means: L2's physical addresses are L1's own. */
TEST("pal", no_ept, "pal-l2-without-ept", TEST_EPT)
{
    struct remote *remote = &remotes[this_cpu()->index];
    memset(remote, 0, sizeof *remote);
    tv_begin();
    pal_prepare(&remote->pal, 0);
    vm_control(vm, CPU2, 0, CPU2_EPT);
    in_l2(vm, use, remote);
    check_equal("status", remote->status, TV_SUCCESS);
    check_equal("loaded", remote->loaded, SECRET);
    check_equal("status of unregistration", remote->unregistered, TV_SUCCESS);
}
