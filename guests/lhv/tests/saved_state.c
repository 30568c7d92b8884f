/* What an exit saves of the instruction it came at: RF, lengths, blocking by MOV SS and not by STI. */
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

L2_CODE(l2_ud, "", "ud2");
L2_CODE(l2_cpuid, "", "cpuid");
L2_CODE(l2_cpuid_66, "", ".byte 0x66; cpuid");
L2_CODE(l2_cpuid_f3, "", ".byte 0xf3; cpuid");
L2_CODE(l2_int, "", ".byte 0x66; int $0x30");

/* "The value saved is 0" for instructions, 1 for faults and for accesses that EPT refuses. */
TEST("saved-state", resume_flag, "saved-state-resume-flag", TEST_EPT)
{
    row("#UD");
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_UD));
    vm_start(vm, l2_ud.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("RF", vmread(VMCS_GUEST_RFLAGS) & BIT(16), BIT(16));
    row("EPT violation");
    start_access(vm, READ, NOTE_PAGE);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("RF", vmread(VMCS_GUEST_RFLAGS) & BIT(16), BIT(16));
    row("CPUID, entered with RF");
    vm_start(vm, l2_cpuid.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | BIT(16));
    vm_expect(vm, REASON_CPUID);
    check_equal("RF", vmread(VMCS_GUEST_RFLAGS) & BIT(16), 0);
}

TEST("saved-state", prefixes, "saved-state-prefixed-lengths", 0)
{
    row("66 CPUID");
    vm_start(vm, l2_cpuid_66.start, 0);
    vm_expect(vm, REASON_CPUID);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 3);
    row("F3 CPUID");
    vm_start(vm, l2_cpuid_f3.start, 0);
    vm_expect(vm, REASON_CPUID);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 3);
}

/* MOV SS from memory by an instruction that ends in FBH, and an exit in its shadow. */
#ifdef __x86_64__
L2_CODE(l2_mov_ss,
        "push %rbp; sub $16, %rsp; mov %ss, 1(%rsp); lea 6(%rsp), %rbp; .byte 0x8e, 0x55, 0xfb",
        "mov (%rbx), %eax; add $16, %rsp; pop %rbp");
L2_CODE(l2_mov_ss_tf,
        "push %rbp; mov %ss, %ecx; pushf; orl $0x100, (%rsp); popf; mov %ecx, %ss",
        "mov (%rbx), %eax; pushf; andl $0xfffffeff, (%rsp); popf; pop %rbp");
#else
L2_CODE(l2_mov_ss,
        "push %ebp; sub $16, %esp; mov %ss, 1(%esp); lea 6(%esp), %ebp; .byte 0x8e, 0x55, 0xfb",
        "mov (%ebx), %eax; add $16, %esp; pop %ebp");
L2_CODE(l2_mov_ss_tf,
        "push %ebp; mov %ss, %ecx; pushf; orl $0x100, (%esp); popf; mov %ecx, %ss",
        "mov (%ebx), %eax; pushf; andl $0xfffffeff, (%esp); popf; pop %ebp");
#endif

TEST("saved-state", mov_ss, "saved-state-behind-mov-ss", TEST_EPT)
{
    vm_start(vm, l2_mov_ss.start, 0);
    vm->regs.bx = NOTE_PAGE;
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("blocking", vmread(VMCS_GUEST_INTERRUPTIBILITY), BLOCKING_MOV_SS);
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_expect_done(vm);
}

/* The single step behind MOV SS waits for the next instruction, and goes through exits as pending. */
TEST("saved-state", mov_ss_step, "saved-state-step-behind-mov-ss", TEST_EPT)
{
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    vm_start(vm, l2_mov_ss_tf.start, 0);
    vm->regs.bx = NOTE_PAGE;
    u32 reason;
    while ((reason = vm_run(vm)) == REASON_EXCEPTION)
        continue;
    if (reason != REASON_EPT_VIOLATION)
        fail("exit reason %x", reason);
    check_equal("blocking", vmread(VMCS_GUEST_INTERRUPTIBILITY), BLOCKING_MOV_SS);
    check_equal("pending", vmread(VMCS_GUEST_PENDING_DEBUG) & BIT(14), BIT(14));
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    while ((reason = vm_run(vm)) == REASON_EXCEPTION)
        continue;
    if (reason != REASON_VMCALL)
        fail("exit reason %x", reason);
}

TEST("saved-state", software, "saved-state-prefixed-interrupt", TEST_EPT)
{
    l2_use_idt(vm);
    vm_start(vm, l2_int.start, 0);
    vmwrite(VMCS_GUEST_RSP, NOTE_PAGE + 0x800);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 3);
}
