/*
 * Mistakes of whoever gives VPIDs to guests and changes their page tables (SDM 3C, "Guidelines for
 * Use of the INVVPID Instruction").
 */
#include "zoo.h"

enum { RIGHTS = PTE_PRESENT | PTE_WRITE | PTE_USER, OWN_VPID = 9 };

static void use_vpid(struct vm *vm)
{
    vm_needs(CPU2, CPU2_VPID);
    vmwrite(VMCS_VPID, OWN_VPID);
    vm_control(vm, CPU2, CPU2_VPID, 0);
}

static void invvpid(word type)
{
    if (try_invvpid(type, (struct invvpid_operand){ .vpid = OWN_VPID }) != VMX_OK)
        broken("INVVPID failed");
}

/* The page tables of an L2 in which NOTE_PAGE is a page with this value. */
static void own_space(struct vm *vm, struct space *space, word value, u32 flags)
{
    space_create(space, PAGING_NATIVE);
    space_map(space, NOTE_PAGE, physical(access_page(value)), RIGHTS | flags);
    vm_use_space(vm, space);
}

/* One L2 has ended; the next one gets its number. */
SCENARIO(vpid_reused, "vpid-reused-without-invvpid")
{
    struct space first, second;
    use_vpid(vm);
    own_space(vm, &first, OLD, 0);
    if (l2_reads(vm, PAGE_VALUE) != OLD)
        broken("L2 does not see its page");
    own_space(vm, &second, NEW, 0);
    if (!faulty)
        invvpid(INVVPID_SINGLE);
    check_equal("read by the next L2", l2_reads(vm, PAGE_VALUE), NEW);
}

/* L1 moves a page of L2's that is global: type 3 of INVVPID spares those. */
SCENARIO(globals, "invvpid-spares-global-pages")
{
    struct space space;
    use_vpid(vm);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PGE);
    own_space(vm, &space, OLD, PTE_GLOBAL);
    if (l2_reads(vm, PAGE_VALUE) != OLD)
        broken("L2 does not see its page");
    space_map(&space, NOTE_PAGE, physical(access_page(NEW)), RIGHTS | PTE_GLOBAL);
    invvpid(faulty ? INVVPID_KEEP_GLOBALS : INVVPID_SINGLE);
    check_equal("read by L2", l2_reads(vm, PAGE_VALUE), NEW);
}
