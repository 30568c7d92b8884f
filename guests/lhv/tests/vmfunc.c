/* VMFUNC leaf 0: L2 switches between EPTs by itself. */
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"

enum { ROOTS = 3, LIST_LENGTH = 512, VALUE = sizeof(word), EPTP_SWITCHING = 1 };

/* AX: function, CX: index.  What is then at NOTE_PAGE goes to SI. */
L2_CODE(l2_vmfunc, "mov " DX ", " AX, "vmfunc; mov (" BX "), " SI);

static u64 *use_vmfunc(struct vm *vm, struct ept *roots)
{
    vm_needs(CPU2, CPU2_VMFUNC);
    if (!(caps.vmfunc & EPTP_SWITCHING))
        skip("no EPTP switching");
    u64 *list = page_alloc();
    for (unsigned i = 0; i < ROOTS; i++) {
        vm_create_ept(&roots[i]);
        ept_map(&roots[i], NOTE_PAGE, physical(access_page(0xd0 + i)), 1, EPT_RWX | EPT_WB);
        list[i] = roots[i].eptp;
    }
    vmwrite(VMCS_EPTP_LIST, physical(list));
    vmwrite(VMCS_VMFUNC_CONTROLS, EPTP_SWITCHING);
    vm_control(vm, CPU2, CPU2_VMFUNC, 0);
    vm_use_ept(&roots[0]);
    return list;
}

static void start(struct vm *vm, u32 function, u32 index)
{
    vm_start(vm, l2_vmfunc.start, 0);
    vm->regs.bx = NOTE_PAGE + VALUE;
    vm->regs.dx = function;
    vm->regs.cx = index;
}

TEST("vmfunc", switches, "vmfunc-switches-ept", TEST_EPT)
{
    struct ept roots[ROOTS];
    use_vmfunc(vm, roots);
    for (unsigned round = 0; round < 3 * ROOTS; round++) {
        unsigned which = (round * 2 + round / ROOTS) % ROOTS;
        start(vm, 0, which);
        vm_expect_done(vm);
        check_equal("read by L2", vm->regs.si, 0xd0 + which);
        check_equal("EPT pointer in the VMCS", vmread(VMCS_EPT_POINTER), roots[which].eptp);
    }
}

/* What exits instead, with reason 59, and leaves the EPT pointer alone */
static void check_refused(struct vm *vm, const char *name, u32 function, u32 index, u64 eptp)
{
    row(name);
    start(vm, function, index);
    vm_expect(vm, REASON_VMFUNC);
    check_equal("IP", vm->ip, (word)l2_vmfunc.at);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 3);
    check_equal("EPT pointer", vmread(VMCS_EPT_POINTER), eptp);
}

TEST("vmfunc", refused, "vmfunc-exits", TEST_EPT)
{
    struct ept roots[ROOTS];
    u64 *list = use_vmfunc(vm, roots);
    u64 eptp = roots[0].eptp;
    check_refused(vm, "index 512", 0, LIST_LENGTH, eptp);
    check_refused(vm, "index 2^31", 0, BIT(31), eptp);
    check_refused(vm, "function 1", 1, 0, eptp);
    check_refused(vm, "function 63", 63, 0, eptp);
    list[5] = 0;
    check_refused(vm, "a zero entry", 0, 5, eptp);
    list[5] = eptp ^ (1 << 3);
    check_refused(vm, "walk length", 0, 5, eptp);
    list[5] = (eptp & ~7ull) | 7;
    check_refused(vm, "memory type", 0, 5, eptp);
    list[5] = eptp | BIT64(63);
    check_refused(vm, "address too wide", 0, 5, eptp);
    list[5] = eptp | 0x800;
    check_refused(vm, "reserved bit", 0, 5, eptp);
    row("function 0, not enabled");
    vmwrite(VMCS_VMFUNC_CONTROLS, 0);
    start(vm, 0, 1);
    vm_expect(vm, REASON_VMFUNC);
}

/* Without the control VMFUNC is undefined; so are functions beyond 63. */
TEST("vmfunc", undefined, "vmfunc-undefined", TEST_EPT)
{
    struct ept roots[ROOTS];
    use_vmfunc(vm, roots);
    row("function 64");
    start(vm, 64, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT), EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    row("not enabled");
    vm_control(vm, CPU2, 0, CPU2_VMFUNC);
    start(vm, 0, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT), EVENT_VALID | EVENT_HARDWARE | EXC_UD);
}

/* VMFUNC is for user mode, too. */
TEST("vmfunc", user, "vmfunc-in-user-mode", TEST_EPT)
{
    struct ept roots[ROOTS];
    use_vmfunc(vm, roots);
    start(vm, 0, 2);
    u32 size = IS_64BIT ? AR_LONG : AR_32BIT;
    vm_set_segment(CS, SEL_USER_CODE | 3, 0, 0xffffffff, AR_CODE | AR_DPL3 | size | AR_PAGES);
    vm_set_segment(SS, SEL_USER_DATA | 3, 0, 0xffffffff, AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
    vm_set_segment(DS, SEL_USER_DATA | 3, 0, 0xffffffff, AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
    vm_set_segment(ES, SEL_USER_DATA | 3, 0, 0xffffffff, AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
    vm_expect_done(vm);
    check_equal("read by L2", vm->regs.si, 0xd2);
}
