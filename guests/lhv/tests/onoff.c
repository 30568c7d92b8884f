/* VMX operation on and off, and several VMCSs on one processor. */
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

L2_CODE(l2_count, "inc " BX, "cpuid");

/* Off and on again; the VMCS, cleared first, goes on where it was. */
TEST("onoff", cycles, "vmxoff-vmxon-cycles", 0)
{
    vm_start(vm, l2_count.start, 0);
    for (unsigned i = 1; i <= 5; i++) {
        vm_expect(vm, REASON_CPUID);
        check_equal("count", vm->regs.bx, i);
        vmclear(physical(vm->vmcs));
        vmx_turn_off(vm);
        check_equal("CR4.VMXE can be cleared", (write_cr4(read_cr4() & ~(word)CR4_VMXE), 0), 0);
        vmx_turn_on(vm);
        u64 pointer = 0;
        vmptrst(&pointer);
        check_equal("no current VMCS", pointer, ~0ull);
        vmptrld(physical(vm->vmcs));
        vm->launched = false;
        vmwrite(VMCS_GUEST_RIP, (word)l2_count.start);
    }
}

/* Where INVEPT was executed before VMXOFF, nothing old is used after VMXON. */
TEST("onoff", invept, "vmxoff-after-invept", TEST_EPT)
{
    for (unsigned i = 0; i < 3; i++) {
        ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0xe0 + i)), 1, EPT_RWX | EPT_WB);
        ept_invalidate(&vm->ept);
        vmclear(physical(vm->vmcs));
        vmx_turn_off(vm);
        vmx_turn_on(vm);
        vmptrld(physical(vm->vmcs));
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + sizeof(word)), 0xe0 + i);
    }
}

/* Two guests in turn, each with its own VMCS, launched once and then resumed */
static void copy_fields(unsigned from, unsigned to)
{
    for (unsigned i = 0; i < vmcs_field_count; i++) {
        if (!field_exists(&vmcs_fields[i]) || field_kind(vmcs_fields[i].encoding) == KIND_READ_ONLY)
            continue;
        vmptrld(physical(vmcs_region(from)));
        u64 value;
        word part = 0;
        if (try_vmread(vmcs_fields[i].encoding, &part) != VMX_OK)
            continue;
        value = vmread(vmcs_fields[i].encoding);
        vmptrld(physical(vmcs_region(to)));
        vmwrite(vmcs_fields[i].encoding, value);
    }
}

L2_CODE(l2_loop, "", "1: inc " BX "; cpuid; jmp 1b");

TEST("onoff", switching, "vmcs-switching", 0)
{
    struct registers regs[2];
    bool launched[2] = { false, false };
    vm_start(vm, l2_loop.start, 0);
    copy_fields(0, 1);
    for (unsigned i = 0; i < 2; i++) {
        regs[i] = vm->regs;
        regs[i].bx = 0x100 * i;
    }
    for (unsigned round = 0; round < 8; round++) {
        unsigned which = round % 2;
        vmptrld(physical(vmcs_region(which)));
        vm->regs = regs[which];
        vm->launched = launched[which];
        vm_expect(vm, REASON_CPUID);
        vm_skip(vm);
        check_equal("count", vm->regs.bx, 0x100 * which + round / 2 + 1);
        regs[which] = vm->regs;
        launched[which] = vm->launched;
    }
    vmclear(physical(vmcs_region(1)));
}

/* INIT is held back in VMX root operation, and so are interrupts while IF is clear: lhv just goes
   on.  CR4.VMXE outside VMX operation means nothing. */
TEST("onoff", vmxe, "vmxe-without-vmxon", 0)
{
    vmclear(physical(vm->vmcs));
    vmx_turn_off(vm);
    write_cr4(read_cr4() | CR4_VMXE);
    write_cr4(read_cr4() & ~(word)CR4_VMXE);
    vmx_turn_on(vm);
    vmptrld(physical(vm->vmcs));
    vm->launched = false;
    vm_start(vm, l2_count.start, 0);
    vm_expect(vm, REASON_CPUID);
}
