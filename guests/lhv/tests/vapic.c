/* The basics of APIC virtualization: accesses to the APIC-access page. */
#include "pc/apic.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"

enum { ACCESS_READ = 0 << 12, ACCESS_WRITE = 1 << 12, ACCESS_FETCH = 2 << 12, APIC_ID = 0x20 };
enum { APIC_TPR = 0x80 };

static void use_access_page(struct vm *vm)
{
    vm_needs(CPU2, CPU2_APIC_ACCESSES);
    void *page = page_alloc();
    vmwrite(VMCS_APIC_ACCESS, physical(page));
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_control(vm, CPU2, CPU2_APIC_ACCESSES, 0);
}

TEST("vapic", access, "apic-access-exit", TEST_EPT)
{
    use_access_page(vm);
    row("read");
    start_access(vm, READ, NOTE_PAGE + APIC_ID);
    vm_expect(vm, REASON_APIC_ACCESS);
    check_equal("qualification", vm->qualification & 0xffff, ACCESS_READ | APIC_ID);
    row("write");
    start_access(vm, WRITE, NOTE_PAGE + 0x300);
    vm_expect(vm, REASON_APIC_ACCESS);
    check_equal("qualification", vm->qualification & 0xffff, ACCESS_WRITE | 0x300);
}

TEST("vapic", fetch, "apic-access-exit-fetch", TEST_EPT)
{
    use_access_page(vm);
    start_access(vm, FETCH, NOTE_PAGE);
    vm_expect(vm, REASON_APIC_ACCESS);
    check_equal("qualification", vm->qualification & 0xf000, ACCESS_FETCH);
}

/* With a TPR shadow, reads of the TPR come from the virtual-APIC page. */
L2_CODE(l2_read_tpr, "", "mov 0x80(" BX "), %esi");

TEST("vapic", tpr, "apic-access-tpr", TEST_EPT)
{
    vm_needs(CPU, CPU_TPR_SHADOW);
    use_access_page(vm);
    u32 *virtual_apic = page_alloc();
    virtual_apic[APIC_TPR / 4] = 0x50;
    vmwrite(VMCS_VIRTUAL_APIC, physical(virtual_apic));
    vmwrite(VMCS_TPR_THRESHOLD, 0);
    vm_control(vm, CPU, CPU_TPR_SHADOW, 0);
    vm_start(vm, l2_read_tpr.start, 0);
    vm->regs.bx = NOTE_PAGE;
    vm_expect_done(vm);
    check_equal("TPR", (u32)vm->regs.si, 0x50);
    row("another register");
    start_access(vm, READ, NOTE_PAGE + APIC_ID);
    vm_expect(vm, REASON_APIC_ACCESS);
}
