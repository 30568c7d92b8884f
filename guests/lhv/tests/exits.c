/* Instructions that exit: always, or because a control says so. */
#include "test/code.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "x86/bits.h"

/* Begin L2 and expect its instruction to exit, at the right place and with the right length. */
static void expect_exit(struct vm *vm, const struct code *code, u32 reason)
{
    vm_start(vm, code->start, 0);
    vm_expect(vm, reason);
    check_equal("IP", vm->ip, (word)code->at);
    check_equal("instruction length", vmread(VMCS_EXIT_LENGTH), (u64)(code->next - code->at));
}

/* L1 goes on behind the instruction, and L2 ends. */
static void finish(struct vm *vm)
{
    vm_skip(vm);
    vm_expect_done(vm);
}

L2_CODE(l2_vmcall, "mov $0x1234, %eax", "vmcall");

TEST("exits", vmcall, "vmcall", 0)
{
    expect_exit(vm, &l2_vmcall, REASON_VMCALL);
    check_equal("EAX", (u32)vm->regs.ax, 0x1234);
    check_equal("qualification", vm->qualification, 0);
    finish(vm);
}

L2_CODE(l2_cpuid, "xor %eax, %eax; xor %ecx, %ecx", "cpuid");

TEST("exits", cpuid, "cpuid-exit", 0)
{
    expect_exit(vm, &l2_cpuid, REASON_CPUID);
    check_equal("qualification", vm->qualification, 0);
    vm->regs.ax = 0x4c32;
    finish(vm);
}

L2_CODE(l2_hlt, "", "hlt");

TEST("exits", hlt, "hlt-exit", 0)
{
    vm_control(vm, CPU, CPU_HLT_EXITING, 0);
    expect_exit(vm, &l2_hlt, REASON_HLT);
    check_equal("qualification", vm->qualification, 0);
    finish(vm);
}

L2_CODE(l2_out, "mov $0x55, %al; mov $0x1f8, %edx", "out %al, %dx");
L2_CODE(l2_in, "", "in $0x80, %eax");

enum { IO_IN = BIT(3), IO_IMMEDIATE = BIT(6), IO_PORT_SHIFT = 16 };

TEST("exits", io, "io-exit", 0)
{
    vm_control(vm, CPU, CPU_IO_EXITING, 0);
    row("OUT");
    expect_exit(vm, &l2_out, REASON_IO);
    check_equal("qualification", vm->qualification, 0x1f8 << IO_PORT_SHIFT | (1 - 1));
    check_equal("AL", (u8)vm->regs.ax, 0x55);
    finish(vm);
    row("IN");
    expect_exit(vm, &l2_in, REASON_IO);
    check_equal("qualification", vm->qualification,
                0x80 << IO_PORT_SHIFT | IO_IMMEDIATE | IO_IN | (4 - 1));
    finish(vm);
}

L2_CODE(l2_rdmsr, "mov $0x10, %ecx", "rdmsr");
L2_CODE(l2_wrmsr, "mov $0x174, %ecx; mov $0x1234, %eax; xor %edx, %edx", "wrmsr");

TEST("exits", msr, "msr-exit", 0)
{
    row("RDMSR");
    expect_exit(vm, &l2_rdmsr, REASON_RDMSR);
    check_equal("ECX", (u32)vm->regs.cx, MSR_TSC);
    finish(vm);
    row("WRMSR");
    expect_exit(vm, &l2_wrmsr, REASON_WRMSR);
    check_equal("ECX", (u32)vm->regs.cx, MSR_SYSENTER_CS);
    check_equal("EAX", (u32)vm->regs.ax, 0x1234);
    finish(vm);
}

/* Set CR0.TS, which the test makes L1's by the guest/host mask. */
L2_CODE(l2_set_ts, "mov %cr0, " BX "; or $8, %ebx", "mov " BX ", %cr0");

enum { CR_FROM_BX = 3 << 8 };

TEST("exits", cr, "cr-exit", 0)
{
    vmwrite(VMCS_CR0_MASK, CR0_TS);
    expect_exit(vm, &l2_set_ts, REASON_CR);
    check_equal("qualification", vm->qualification, 0 | CR_FROM_BX);
    check(vm->regs.bx & CR0_TS, "the value to write has TS");
    finish(vm);
    check(!(vmread(VMCS_GUEST_CR0) & CR0_TS), "CR0 was not written");
}

L2_CODE(l2_ud2, "", "ud2");

TEST("exits", exception, "exception-exit", 0)
{
    vm_start(vm, l2_ud2.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    check_equal("IP", vm->ip, (word)l2_ud2.at);
    vmwrite(VMCS_GUEST_RIP, (word)l2_ud2.next);
    vm_expect_done(vm);
}
