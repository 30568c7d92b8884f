/*
 * VPID: what the processor keeps of L2's linear addresses over VM entries and exits, and how L1 makes
 * it forget (SDM 3C, "Operations that invalidate cached mappings").
 */
#include "pc/mark.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"

enum { RIGHTS = PTE_PRESENT | PTE_WRITE | PTE_USER, VALUE = sizeof(word) };

/* A space in which VIOLATION_PAGE is a page with this value, and L2 runs in it. */
struct mapping {
    struct space space;
    void *pages[2];
};

static void create(struct vm *vm, struct mapping *mapping, word value, u32 flags)
{
    space_create(&mapping->space, PAGING_NATIVE);
    for (unsigned i = 0; i < 2; i++)
        mapping->pages[i] = access_page(value + i);
    space_map(&mapping->space, VIOLATION_PAGE, physical(mapping->pages[0]), RIGHTS | flags);
    vm_use_space(vm, &mapping->space);
}

/* L1 changes L2's page table behind its back: the other page, with the same flags. */
static void flip(struct mapping *mapping, unsigned to, u32 flags)
{
    space_map(&mapping->space, VIOLATION_PAGE, physical(mapping->pages[to]), RIGHTS | flags);
}

static void use_vpid(struct vm *vm, u16 vpid)
{
    vm_needs(CPU2, CPU2_VPID);
    vmwrite(VMCS_VPID, vpid);
    vm_control(vm, CPU2, CPU2_VPID, 0);
}

static void invvpid(word type, u16 vpid, word linear)
{
    if (!(caps.ept_vpid & VPID_CAP_INVVPID) || !(caps.ept_vpid & VPID_CAP_TYPE(type)))
        skip("this type of INVVPID is not offered");
    struct invvpid_operand operand = { vpid, { 0, 0, 0 }, linear };
    enum vmx_status status = try_invvpid(type, operand);
    if (status != VMX_OK)
        broken("INVVPID: status %u", status);
}

/* Forget what earlier tests had L2 do with this VPID; their page tables are gone. */
static void begin(struct vm *vm, u16 vpid)
{
    use_vpid(vm, vpid);
    invvpid(INVVPID_ALL, 0, 0);
}

/* After the change and `forget`, L2 must see the new page, every time. */
static void check_forgotten(struct vm *vm, u16 vpid, u32 flags, void (*forget)(u16 vpid))
{
    struct mapping mapping;
    begin(vm, vpid);
    create(vm, &mapping, 0xa0, flags);
    for (unsigned round = 0; round < 4; round++) {
        flip(&mapping, round % 2, flags);
        forget(vpid);
        check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa0 + round % 2);
        /* and a second time, from what is now known */
        check_equal("read again", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa0 + round % 2);
    }
}

static void forget_address(u16 vpid) { invvpid(INVVPID_ADDRESS, vpid, VIOLATION_PAGE + 0x123); }
static void forget_vpid(u16 vpid) { invvpid(INVVPID_SINGLE, vpid, 0); }
static void forget_all(u16 vpid __attribute__((unused))) { invvpid(INVVPID_ALL, 0, 0); }
static void forget_but_globals(u16 vpid) { invvpid(INVVPID_KEEP_GLOBALS, vpid, 0); }

TEST("vpid", address, "invvpid-address", 0) { check_forgotten(vm, 1, 0, forget_address); }
TEST("vpid", single, "invvpid-single", 0) { check_forgotten(vm, 2, 0, forget_vpid); }
TEST("vpid", all, "invvpid-all", 0) { check_forgotten(vm, 3, 0, forget_all); }
TEST("vpid", globals, "invvpid-all-but-globals", 0)
{
    check_forgotten(vm, 4, 0, forget_but_globals);
}
TEST("vpid", largest, "invvpid-vpid-65535", 0) { check_forgotten(vm, 0xffff, 0, forget_vpid); }

/* Global pages are kept by the last type only. */
TEST("vpid", global_pages, "invvpid-global-pages", 0)
{
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PGE);
    row("by address");
    check_forgotten(vm, 5, PTE_GLOBAL, forget_address);
    row("one VPID");
    check_forgotten(vm, 5, PTE_GLOBAL, forget_vpid);
    row("all");
    check_forgotten(vm, 5, PTE_GLOBAL, forget_all);
}

/* Without the invalidation: the old page or the new one. */
TEST("vpid", lazy, "vpid-change-without-invvpid", 0)
{
    struct mapping mapping;
    begin(vm, 6);
    create(vm, &mapping, 0xa0, 0);
    check_equal("before", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa0);
    mark_stale_use(true);
    flip(&mapping, 1, 0);
    mark_stale_use(false);
    word seen = l2_reads(vm, VIOLATION_PAGE + VALUE);
    check(seen == 0xa0 || seen == 0xa1, "the old page or the new one");
    forget_vpid(6);
    check_equal("after", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa1);
}

/* Two VPIDs, two page tables, one linear address: no invalidation is needed between them. */
TEST("vpid", separate, "vpid-separate", 0)
{
    struct mapping mappings[2];
    begin(vm, 7);
    for (unsigned i = 0; i < 2; i++)
        create(vm, &mappings[i], 0xa4 + 2 * i, 0);
    for (unsigned round = 0; round < 6; round++) {
        use_vpid(vm, (u16)(7 + round % 2));
        vm_use_space(vm, &mappings[round % 2].space);
        check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa4 + 2 * (round % 2));
    }
}

/* INVVPID of one VPID is enough for that one, whatever others there are. */
TEST("vpid", only_own, "invvpid-of-each", 0)
{
    struct mapping mappings[2];
    begin(vm, 7);
    for (unsigned i = 0; i < 2; i++) {
        create(vm, &mappings[i], 0xa8 + 2 * i, 0);
        use_vpid(vm, (u16)(7 + i));
        check_equal("before", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa8 + 2 * i);
    }
    for (unsigned i = 0; i < 2; i++) {
        flip(&mappings[i], 1, 0);
        forget_vpid((u16)(7 + i));
    }
    for (unsigned i = 0; i < 2; i++) {
        use_vpid(vm, (u16)(7 + i));
        vm_use_space(vm, &mappings[i].space);
        check_equal("after", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xa9 + 2 * i);
    }
}

/* Without VPID, VM entries and exits forget everything of L2's linear addresses. */
TEST("vpid", without, "no-vpid-forgets", 0)
{
    struct mapping mapping;
    if (!may_clear(CPU2, CPU2_VPID))
        skip("VPID is always on");
    create(vm, &mapping, 0xac, 0);
    for (unsigned round = 0; round < 4; round++) {
        flip(&mapping, round % 2, 0);
        check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xac + round % 2);
    }
}

/* ... and of global pages too */
TEST("vpid", without_global, "no-vpid-forgets-global-pages", 0)
{
    struct mapping mapping;
    create(vm, &mapping, 0xac, PTE_GLOBAL);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PGE);
    for (unsigned round = 0; round < 4; round++) {
        flip(&mapping, round % 2, PTE_GLOBAL);
        check_equal("read by L2", l2_reads(vm, VIOLATION_PAGE + VALUE), 0xac + round % 2);
    }
}

/* ---- L2 invalidates by itself: L1 changes the entry between two reads of one run ---- */

/* CX: an address; BX: where L1 changes something at the CPUID.  The two values go to SI and DI. */
#define TWO_READS(id, invalidate)                                                                  \
    L2_CODE(id, "mov (" BX "), " SI "; mov " AX ", " DX "; cpuid", invalidate "; mov (" DI "), " DI)

TWO_READS(l2_invlpg, "invlpg (" DI ")");
TWO_READS(l2_reload, "mov %cr3, " CX "; mov " CX ", %cr3");
TWO_READS(l2_flip_pge, "mov %cr4, " CX "; xor $0x80, %ecx; mov " CX ", %cr4");

static void check_l2_invalidates(struct vm *vm, const struct code *code, u32 flags, word cr4)
{
    struct mapping mapping;
    begin(vm, 9);
    create(vm, &mapping, 0xb0, flags);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | cr4);
    vm_start(vm, code->start, 0);
    vm->regs.bx = vm->regs.di = VIOLATION_PAGE + VALUE;
    vm_expect(vm, REASON_CPUID);
    flip(&mapping, 1, flags);
    vm_skip(vm);
    vm_expect_done(vm);
    check_equal("first read", vm->regs.si, 0xb0);
    check_equal("second read", vm->regs.di, 0xb1);
}

TEST("vpid", l2_invlpg, "vpid-l2-invlpg", 0)
{
    check_l2_invalidates(vm, &l2_invlpg, 0, 0);
    row("a global page");
    check_l2_invalidates(vm, &l2_invlpg, PTE_GLOBAL, CR4_PGE);
}

TEST("vpid", l2_cr3, "vpid-l2-mov-cr3", 0) { check_l2_invalidates(vm, &l2_reload, 0, 0); }

TEST("vpid", l2_pge, "vpid-l2-cr4-pge", 0)
{
    check_l2_invalidates(vm, &l2_flip_pge, PTE_GLOBAL, CR4_PGE);
}

/* ---- VPID together with EPT: INVEPT is for the second step of the translation, too ---- */

TEST("vpid", with_ept, "vpid-ept-change-invept", TEST_EPT)
{
    begin(vm, 10);
    for (unsigned round = 0; round < 4; round++) {
        ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0xb4 + round)), 1, EPT_RWX | EPT_WB);
        ept_invalidate(&vm->ept);
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), 0xb4 + round);
    }
}

/* INVVPID is not INVEPT: after an EPT change, INVVPID alone leaves the old page or the new. */
TEST("vpid", not_invept, "vpid-ept-change-invvpid", TEST_EPT)
{
    begin(vm, 11);
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0xb8)), 1, EPT_RWX | EPT_WB);
    l2_reads(vm, NOTE_PAGE + VALUE);
    mark_stale_use(true);
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0xb9)), 1, EPT_RWX | EPT_WB);
    mark_stale_use(false);
    invvpid(INVVPID_ALL, 0, 0);
    word seen = l2_reads(vm, NOTE_PAGE + VALUE);
    check(seen == 0xb8 || seen == 0xb9, "the old page or the new one");
    ept_invalidate(&vm->ept);
    check_equal("after INVEPT", l2_reads(vm, NOTE_PAGE + VALUE), 0xb9);
}

#ifdef __x86_64__
/* INVVPID by address takes the upper half of the canonical addresses as well. */
TEST("vpid", upper_half, "invvpid-upper-half", 0)
{
    const word linear = 0xffff800000200000;
    struct mapping mapping;
    begin(vm, 12);
    create(vm, &mapping, 0xbc, 0);
    for (unsigned round = 0; round < 4; round++) {
        space_map(&mapping.space, linear & 0xffffffffffff, physical(mapping.pages[round % 2]),
                  RIGHTS);
        invvpid(INVVPID_ADDRESS, 12, linear + 8);
        check_equal("read by L2", l2_reads(vm, linear + VALUE), 0xbc + round % 2);
    }
}

/* ---- PCID: L2 tags its own address spaces, within its VPID ---- */

/* MOV to CR3 without bit 63 forgets the PCID it loads; with it, nothing. */
L2_CODE(l2_switch, "mov " CX ", %cr3", "mov (" BX "), " SI);

TEST("vpid", pcid, "vpid-pcid", 0)
{
    if (!caps.pcid)
        skip("no PCID");
    struct mapping mappings[2];
    begin(vm, 13);
    for (unsigned i = 0; i < 2; i++)
        create(vm, &mappings[i], 0xc0 + 2 * i, 0);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PCIDE);
    for (unsigned round = 0; round < 8; round++) {
        unsigned which = round % 2, keep = round >= 4;
        vm_start(vm, l2_switch.start, 0);
        vm->regs.bx = VIOLATION_PAGE + VALUE;
        vm->regs.cx = (word)mappings[which].space.root | (which + 1) | (word)keep << 63;
        vm_expect_done(vm);
        check_equal("read by L2", vm->regs.si, 0xc0 + 2 * which);
    }
}
#endif
