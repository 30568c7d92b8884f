/* EPT violations that L2 handles itself: #VE instead of a VM exit. */
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"

enum { EXC_VE = 20 };
#define SUPPRESS BIT64(63)
#define BUSY 0xffffffffu

/* SDM 3C, "Virtualization-exception information" */
struct information {
    u32 reason, busy;
    u64 qualification, linear, physical;
    u16 eptp_index;
};

static struct information *use_ve(struct vm *vm)
{
    vm_needs(CPU2, CPU2_VE);
    struct information *area = page_alloc();
    vmwrite(VMCS_VE_INFORMATION, physical(area));
    vmwrite(VMCS_EPTP_INDEX, 0x123);
    vm_control(vm, CPU2, CPU2_VE, 0);
    l2_use_idt(vm);
    return area;
}

static void check_area(const struct information *area, u64 qualification)
{
    check_equal("reason", area->reason, REASON_EPT_VIOLATION);
    check_equal("busy", area->busy, BUSY);
    check_equal("qualification", area->qualification & 0x1bf, qualification);
    check_equal("linear address", area->linear, NOTE_PAGE + 8);
    check_equal("physical address", area->physical, NOTE_PAGE + 8);
    check_equal("EPTP index", area->eptp_index, 0x123);
}

TEST("ve", converted, "ve-instead-of-violation", TEST_EPT)
{
    struct information *area = use_ve(vm);
    u64 linear = VIOLATION_LINEAR_VALID | VIOLATION_FINAL;
    row("not present");
    start_access(vm, READ, NOTE_PAGE + 8);
    word begin = (word)vmread(VMCS_GUEST_RIP);
    struct l2_frame frame = vm_expect_trap(vm, EXC_VE);
    check_equal("pushed IP", frame.ip, begin);
    check_area(area, READ | linear);
    row("not allowed");
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(7)), 1, EPT_READ | EPT_WB);
    ept_invalidate(&vm->ept);
    area->busy = 0;
    start_access(vm, WRITE, NOTE_PAGE + 8);
    vm_expect_trap(vm, EXC_VE);
    check_area(area, WRITE | linear | EPT_READ << VIOLATION_ALLOWS_SHIFT);
    row("the information is still in use");
    start_access(vm, WRITE, NOTE_PAGE + 8);
    vm_expect(vm, REASON_EPT_VIOLATION);
    row("suppressed");
    area->busy = 0;
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(7)), 1, EPT_READ | EPT_WB | SUPPRESS);
    ept_invalidate(&vm->ept);
    start_access(vm, WRITE, NOTE_PAGE + 8);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("busy", area->busy, 0);
}

TEST("ve", intercepted, "ve-exits", TEST_EPT)
{
    struct information *area = use_ve(vm);
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_VE));
    start_access(vm, READ, NOTE_PAGE + 8);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EXC_VE);
    check_equal("busy", area->busy, BUSY);
}

L2_CODE(l2_int, "", "int $0x60");

TEST("ve", delivering, "ve-not-during-delivery", TEST_EPT)
{
    struct information *area = use_ve(vm);
    row("the stack of the handler is not mapped");
    vm_start(vm, l2_int.start, 0);
    word stack = (word)vmread(VMCS_GUEST_RSP);
    vmwrite(VMCS_GUEST_RSP, NOTE_PAGE + 0x800);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_SOFTWARE | 0x60);
    check_equal("busy", area->busy, 0);
    vmwrite(VMCS_GUEST_RSP, stack);
}
