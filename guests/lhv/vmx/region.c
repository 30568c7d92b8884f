/* VMX operation on and off, and the VMCS regions. */
#include "lib/string.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/vm.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

static u8 vmxon_regions[MAX_CPUS][PAGE_SIZE] ALIGNED(4096);
static u8 vmcs_regions[MAX_CPUS][VMCS_REGIONS][PAGE_SIZE] ALIGNED(4096);

void *vmcs_region(unsigned which) { return vmcs_regions[this_cpu()->index][which]; }

static void clear_vmcs(void *region)
{
    if (vmclear(physical(region)) != VMX_OK)
        broken("VMCLEAR failed");
}

/* The first VMCLEAR lets go of the region, the second makes its state "clear" again. */
void vmcs_reset(void *region)
{
    clear_vmcs(region);
    memset(region, 0, PAGE_SIZE);
    *(u32 *)region = caps.revision;
    clear_vmcs(region);
}

void vmx_turn_on(struct vm *vm)
{
    if (vm->vmx_on)
        return;
    vm->vmxon_region = vmxon_regions[this_cpu()->index];
    write_cr0((read_cr0() | caps.cr0_fixed0) & caps.cr0_fixed1);
    write_cr4((read_cr4() | caps.cr4_fixed0 | CR4_VMXE) & caps.cr4_fixed1);
    *(u32 *)vm->vmxon_region = caps.revision;
    enum vmx_status status = vmxon(physical(vm->vmxon_region));
    if (status != VMX_OK)
        broken("VMXON: status %u", status);
    vm->vmx_on = true;
}

void vmx_turn_off(struct vm *vm)
{
    if (vm->vmx_on && vmxoff() != VMX_OK)
        broken("VMXOFF failed");
    vm->vmx_on = false;
    vm->launched = false;
}
