#include "vmx/l2apic.h"
#include "pc/apic.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

/* Registers in memory need a mapping; registers that are MSRs, an MSR bitmap. */
void vm_give_apic(struct vm *vm)
{
    u64 address = apic_address();
    if (address) {
        if (may_set(CPU2, CPU2_EPT))
            ept_map(&vm->ept, address, address, 1, EPT_READ | EPT_WRITE | EPT_TYPE(TYPE_UC));
        return;
    }
    vm_needs(CPU, CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_MSR_BITMAPS, 0);
}
