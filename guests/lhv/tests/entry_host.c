/* VM-entry checks of the host state: error 8. */
#include "test/entry_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "x86/bits.h"
#include "x86/instructions.h"

static const struct entry_row host_rows[] = {
    { "CR0.NE", VMCS_HOST_CR0, CR0_NE, 0, ALWAYS, 0, 0 },
    { "CR0.PG", VMCS_HOST_CR0, CR0_PG, 0, ALWAYS, 0, 0 },
    { "CR0.PE", VMCS_HOST_CR0, CR0_PE, 0, ALWAYS, 0, 0 },
    { "CR4.VMXE", VMCS_HOST_CR4, CR4_VMXE, 0, ALWAYS, 0, 0 },
    { "CS, ring 3", VMCS_HOST_CS, 0, 3, ALWAYS, 0, 0 },
    { "CS, local", VMCS_HOST_CS, 0, 4, ALWAYS, 0, 0 },
    { "CS, null", VMCS_HOST_CS, 0xffff, 0, ALWAYS, 0, 0 },
    { "SS, ring 1", VMCS_HOST_SS, 0, 1, ALWAYS, 0, 0 },
    { "DS, ring 2", VMCS_HOST_DS, 0, 2, ALWAYS, 0, 0 },
    { "ES, local", VMCS_HOST_ES, 0, 4, ALWAYS, 0, 0 },
    { "FS, ring 3", VMCS_HOST_FS, 0, 3, ALWAYS, 0, 0 },
    { "GS, local", VMCS_HOST_GS, 0, 4, ALWAYS, 0, 0 },
    { "TR, local", VMCS_HOST_TR, 0, 4, ALWAYS, 0, 0 },
    { "TR, null", VMCS_HOST_TR, 0xffff, 0, ALWAYS, 0, 0 },
    { "PAT, type 2", VMCS_HOST_PAT, 0xff, 2, EXIT, EXIT_LOAD_PAT, 0 },
    { "PAT, bit 3", VMCS_HOST_PAT, 0, 8, EXIT, EXIT_LOAD_PAT, 0 },
    { "EFER, reserved bit", VMCS_HOST_EFER, 0, BIT(1), EXIT, EXIT_LOAD_EFER, 0 },
    { "EFER.LMA not as the address-space size", VMCS_HOST_EFER, IS_64BIT ? EFER_LMA : 0,
      IS_64BIT ? 0 : EFER_LMA, EXIT, EXIT_LOAD_EFER, 0 },
    { "EFER.LME not as the address-space size", VMCS_HOST_EFER, IS_64BIT ? EFER_LME : 0,
      IS_64BIT ? 0 : EFER_LME, EXIT, EXIT_LOAD_EFER, 0 },
#ifdef __x86_64__
    { "CR3, too wide", VMCS_HOST_CR3, 0, TOO_WIDE, ALWAYS, 0, 0 },
    { "CR4.PAE", VMCS_HOST_CR4, CR4_PAE, 0, ALWAYS, 0, 0 },
    { "SYSENTER_ESP not canonical", VMCS_HOST_SYSENTER_ESP, 0, BIT64(63), ALWAYS, 0, 0 },
    { "SYSENTER_EIP not canonical", VMCS_HOST_SYSENTER_EIP, 0, BIT64(62), ALWAYS, 0, 0 },
    { "FS base not canonical", VMCS_HOST_FS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GS base not canonical", VMCS_HOST_GS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "TR base not canonical", VMCS_HOST_TR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GDTR base not canonical", VMCS_HOST_GDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "IDTR base not canonical", VMCS_HOST_IDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "RIP not canonical", VMCS_HOST_RIP, 0, BIT64(63), ALWAYS, 0, 0 },
    { "32-bit host in IA-32e mode", VMCS_EXIT_CONTROLS, EXIT_HOST_64BIT, 0, ALWAYS, 0, 0 },
#else
    { "SS, null", VMCS_HOST_SS, 0xffff, 0, ALWAYS, 0, 0 },
    { "64-bit guest of a 32-bit host", VMCS_ENTRY_CONTROLS, 0, ENTRY_GUEST_64BIT, ENTRY,
      ENTRY_GUEST_64BIT, 0 },
    { "64-bit host outside IA-32e mode", VMCS_EXIT_CONTROLS, 0, EXIT_HOST_64BIT, EXIT,
      EXIT_HOST_64BIT, 0 },
    { "CR4.PCIDE outside IA-32e mode", VMCS_HOST_CR4, 0, CR4_PCIDE, ALWAYS, 0, 0 },
#endif
};

static void give_host_msrs(void)
{
    if (may_set(EXIT, EXIT_LOAD_PAT))
        vmwrite(VMCS_HOST_PAT, rdmsr(MSR_PAT));
    if (may_set(EXIT, EXIT_LOAD_EFER))
        vmwrite(VMCS_HOST_EFER, IS_64BIT ? EFER_LMA | EFER_LME : 0);
}

TEST("entry", host, "entry-host-state", 0)
{
    give_host_msrs();
    start_nothing(vm);
    check_rows(vm, host_rows, ARRAY_LEN(host_rows), expect_error, BAD_HOST);
}
