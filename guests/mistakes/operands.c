/* Operands of the VMX instructions, and the order in which they come. */
#include "mistakes.h"

/* ---- VMXON ---- */

static u8 region[2][PAGE_SIZE] ALIGNED(4096);

static void *prepared(u32 revision)
{
    *(u32 *)region[0] = revision;
    return region[0];
}

MISTAKE(vmxon_unaligned, "vmxon-unaligned")
{
    vmx_turn_off(vm);
    must_succeed("VMXON", vmxon(physical(prepared(caps.revision)) + 8));
}

MISTAKE(vmxon_high, "vmxon-address-too-wide")
{
    vmx_turn_off(vm);
    must_succeed("VMXON", vmxon(physical(prepared(caps.revision)) | TOO_HIGH));
}

MISTAKE(vmxon_revision, "vmxon-no-revision")
{
    vmx_turn_off(vm);
    must_succeed("VMXON", vmxon(physical(prepared(0))));
}

MISTAKE(vmxon_twice, "vmxon-twice")
{
    must_succeed("VMXON", vmxon(physical(prepared(caps.revision))));
}

MISTAKE(vmxon_vmxe, "vmxon-without-vmxe")
{
    vmx_turn_off(vm);
    write_cr4(read_cr4() & ~(word)CR4_VMXE);
    must_succeed("VMXON", vmxon(physical(prepared(caps.revision))));
}

MISTAKE(vmxon_ne, "vmxon-without-cr0-ne")
{
    vmx_turn_off(vm);
    write_cr0(read_cr0() & ~(word)CR0_NE);
    must_succeed("VMXON", vmxon(physical(prepared(caps.revision))));
}

/* ---- VMCLEAR and VMPTRLD ---- */

MISTAKE(vmclear_unaligned, "vmclear-unaligned")
{
    must_succeed("VMCLEAR", vmclear(physical(vmcs_region(1)) + 16));
}

MISTAKE(vmclear_vmxon, "vmclear-of-the-vmxon-region")
{
    must_succeed("VMCLEAR", vmclear(physical(vm->vmxon_region)));
}

MISTAKE(vmptrld_unaligned, "vmptrld-unaligned")
{
    must_succeed("VMPTRLD", vmptrld(physical(vmcs_region(1)) + 64));
}

MISTAKE(vmptrld_high, "vmptrld-address-too-wide")
{
    must_succeed("VMPTRLD", vmptrld(physical(vmcs_region(1)) | TOO_HIGH));
}

MISTAKE(vmptrld_revision, "vmptrld-no-revision")
{
    memset(region[1], 0, PAGE_SIZE);
    must_succeed("VMPTRLD", vmptrld(physical(region[1])));
}

MISTAKE(vmptrld_shadow, "vmptrld-shadow-bit")
{
    memset(region[1], 0, PAGE_SIZE);
    *(u32 *)region[1] = (caps.revision + 1) | BIT(31);
    must_succeed("VMPTRLD", vmptrld(physical(region[1])));
}

MISTAKE(vmptrld_vmxon, "vmptrld-of-the-vmxon-region")
{
    must_succeed("VMPTRLD", vmptrld(physical(vm->vmxon_region)));
}

/* ---- VMREAD and VMWRITE ---- */

MISTAKE(vmwrite_unknown, "vmwrite-of-no-field")
{
    must_succeed("VMWRITE", try_vmwrite(0x6c20, 1));
}

MISTAKE(vmread_unknown, "vmread-of-no-field")
{
    word value;
    must_succeed("VMREAD", try_vmread(0x4890, &value));
}

MISTAKE(vmwrite_no_current, "vmwrite-without-vmptrld")
{
    vmclear(physical(vm->vmcs));
    must_succeed("VMWRITE", try_vmwrite(VMCS_GUEST_RIP, 1));
}

MISTAKE(vmwrite_off, "vmwrite-without-vmxon")
{
    vmx_turn_off(vm);
    must_succeed("VMWRITE", try_vmwrite(VMCS_GUEST_RIP, 1));
}

/* ---- VMLAUNCH and VMRESUME ---- */

MISTAKE(launch_no_current, "vmlaunch-without-vmptrld")
{
    start_nothing(vm);
    vmclear(physical(vm->vmcs));
    must_succeed("VMLAUNCH", try_vmlaunch());
}

MISTAKE(launch_twice, "vmlaunch-twice")
{
    start_nothing(vm);
    vm_expect_done(vm);
    must_succeed("VMLAUNCH", try_vmlaunch());
}

MISTAKE(resume_first, "vmresume-before-vmlaunch")
{
    start_nothing(vm);
    must_succeed("VMRESUME", try_vmresume());
}

MISTAKE(resume_after_clear, "vmresume-after-vmclear")
{
    start_nothing(vm);
    vm_expect_done(vm);
    vmclear(physical(vm->vmcs));
    vmptrld(physical(vm->vmcs));
    must_succeed("VMRESUME", try_vmresume());
}

MISTAKE(launch_mov_ss, "vmlaunch-behind-mov-ss")
{
    start_nothing(vm);
    must_succeed("VMLAUNCH", VMX_INSTRUCTION("mov %2, %%ss; vmlaunch", "r"(SEL_DATA)));
}

MISTAKE(call_in_root, "vmcall-in-root")
{
    must_succeed("VMCALL", try_vmcall());
}

/* ---- INVEPT and INVVPID ---- */

MISTAKE(invept_type, "invept-no-such-type")
{
    struct invept_operand operand = { .eptp = vm->ept.eptp };
    must_succeed("INVEPT", try_invept(0, operand));
}

MISTAKE(invept_root, "invept-of-the-root-address")
{
    struct invept_operand operand = { .eptp = physical(vm->ept.root) };
    must_succeed("INVEPT", try_invept(INVEPT_SINGLE, operand));
}

MISTAKE(invvpid_zero, "invvpid-of-vpid-0")
{
    must_succeed("INVVPID", try_invvpid(INVVPID_SINGLE, (struct invvpid_operand){ 0 }));
}

MISTAKE(invvpid_type, "invvpid-no-such-type")
{
    must_succeed("INVVPID", try_invvpid(4, (struct invvpid_operand){ .vpid = 1 }));
}

MISTAKE(invvpid_address, "invvpid-address-not-canonical")
{
    struct invvpid_operand operand = { .vpid = 1, .linear = BIT64(60) };
    must_succeed("INVVPID", try_invvpid(INVVPID_ADDRESS, operand));
}

/* ---- control registers ---- */

MISTAKE(vmxe_early, "cr4-vmxe-cleared-in-vmx-operation")
{
    write_cr4(read_cr4() & ~(word)CR4_VMXE);
}

MISTAKE(ne_early, "cr0-ne-cleared-in-vmx-operation") { write_cr0(read_cr0() & ~(word)CR0_NE); }

/* ---- MSRs and ports ---- */

MISTAKE(rdmsr_unknown, "rdmsr-of-no-msr")
{
    u64 value;
    if (try_rdmsr(0x1f00, &value).happened)
        fail("RDMSR faulted");
}

MISTAKE(wrmsr_value, "wrmsr-of-a-bad-value")
{
    if (try_wrmsr(MSR_PAT, 2).happened)
        fail("WRMSR faulted");
}

MISTAKE(port_unknown, "in-from-no-device")
{
    check_equal("a device's register", inb(0x5a5a), 0);
}
