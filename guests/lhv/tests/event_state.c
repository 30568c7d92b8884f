/* What events change besides what they deliver: registers, blocking, the state that an exit saves. */
#include "pc/apic.h"
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

L2_CODE(l2_nop, "", "nop; nop");
L2_CODE(l2_ud, "", "ud2");
L2_CODE(l2_cpuid, "", "cpuid");

#define DR6_RESET 0xffff0ff0u
#define DR7_GD BIT(13)

/* An injected #DB leaves the debug registers alone. */
TEST("event-state", debug, "event-state-injected-db", 0)
{
    vm_needs(ENTRY, ENTRY_LOAD_DEBUG);
    vm_control(vm, ENTRY, ENTRY_LOAD_DEBUG, 0);
    if (may_set(EXIT, EXIT_SAVE_DEBUG))
        vm_control(vm, EXIT, EXIT_SAVE_DEBUG, 0);
    l2_use_idt(vm);
    vm_start(vm, l2_nop.start, 0);
    write_dr6(DR6_RESET);
    vmwrite(VMCS_GUEST_DR7, 0x400 | DR7_GD);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_HARDWARE | EXC_DB);
    vm_expect_trap(vm, EXC_DB);
    check_equal("DR6", read_dr6(), DR6_RESET);
    check_equal("DR7", vmread(VMCS_GUEST_DR7), 0x400 | DR7_GD);
}

/*
 * An exception whose delivery causes the exit ends blocking by STI and MOV SS: it has been taken.
 * L2's stack is where no page is.
 */
TEST("event-state", indirect, "event-state-indirect-exit", TEST_EPT)
{
    static const struct {
        const char *name;
        u32 blocking, left;
    } rows[] = {
        { "STI", BLOCKING_STI, 0 },
        { "MOV SS", BLOCKING_MOV_SS, 0 },
        { "NMI", BLOCKING_NMI, BLOCKING_NMI },
    };
    l2_use_idt(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        vm_start(vm, l2_ud.start, 0);
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
        vmwrite(VMCS_GUEST_RSP, NOTE_PAGE + 0x800);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, rows[i].blocking);
        vm_expect(vm, REASON_EPT_VIOLATION);
        check_equal("vectoring", vmread(VMCS_IDT_VECTORING),
                    EVENT_VALID | EVENT_HARDWARE | EXC_UD);
        check_equal("interruptibility", vmread(VMCS_GUEST_INTERRUPTIBILITY), rows[i].left);
        row("an exit that the exception causes itself");
        vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_UD));
        vm_start(vm, l2_ud.start, 0);
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, rows[i].blocking);
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("interruptibility", vmread(VMCS_GUEST_INTERRUPTIBILITY), rows[i].blocking);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
        vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    }
}

/* An entry that fails while it loads MSRs leaves NMIs as they were before it. */
TEST("event-state", failed, "event-state-failed-entry", 0)
{
    struct {
        u32 index, reserved;
        u64 value;
    } *list = page_alloc();
    list->index = MSR_FS_BASE; /* never loaded by an entry */
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(list));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vm_start(vm, l2_nop.start, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    vm_expect(vm, REASON_ENTRY_FAILURE | REASON_BAD_MSRS);
    u32 before = this_cpu()->interrupts[EXC_NMI];
    apic_send_nmi(this_cpu()->apic_id);
    for (unsigned i = 0; i < 5000 && this_cpu()->interrupts[EXC_NMI] == before; i++)
        cpu_pause();
    check_equal("NMIs that lhv took", this_cpu()->interrupts[EXC_NMI] - before, 1);
    nmi_unblock();
}

/* What is left of the preemption timer is exact: many short stays do not use it up. */
TEST("event-state", timer, "event-state-timer-saved", 0)
{
    vm_needs(PIN, PIN_PREEMPTION_TIMER);
    vm_needs(EXIT, EXIT_SAVE_TIMER);
    enum { ROUNDS = 200, ENOUGH = 100000 };
    vm_control(vm, PIN, PIN_PREEMPTION_TIMER, 0);
    vm_control(vm, EXIT, EXIT_SAVE_TIMER, 0);
    u32 shift = caps.misc & 31;
    vmwrite(VMCS_PREEMPTION_TIMER, ENOUGH);
    u64 begin = rdmsr(MSR_TSC);
    for (unsigned i = 0; i < ROUNDS; i++) {
        vm_start(vm, l2_cpuid.start, 0);
        vm_expect(vm, REASON_CPUID);
    }
    u64 passed = (rdmsr(MSR_TSC) - begin) >> shift;
    u32 used = ENOUGH - (u32)vmread(VMCS_PREEMPTION_TIMER);
    check(used <= passed + 1, "the timer went down no faster than time passed");
}

/* What ends the shutdown state: NMI windows and the timer, but no interrupt window. */
static void enter_shutdown(struct vm *vm)
{
    vm_start(vm, l2_nop.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_SHUTDOWN);
}

TEST("event-state", shutdown, "event-state-shutdown", 0)
{
    if (!(caps.misc & BIT(7)))
        skip("no shutdown state");
    vm_needs(PIN, PIN_PREEMPTION_TIMER);
    vm_control(vm, PIN, PIN_PREEMPTION_TIMER, 0);
    vmwrite(VMCS_PREEMPTION_TIMER, 500);
    row("interrupt window");
    vm_control(vm, CPU, CPU_INTERRUPT_WINDOW, 0);
    enter_shutdown(vm);
    vm_expect(vm, REASON_TIMER);
    check_equal("activity state", vmread(VMCS_GUEST_ACTIVITY), ACTIVITY_SHUTDOWN);
    vm_control(vm, CPU, 0, CPU_INTERRUPT_WINDOW);
    row("NMI window");
    vm_needs(PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
    vm_needs(CPU, CPU_NMI_WINDOW);
    vm_control(vm, PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS, 0);
    vm_control(vm, CPU, CPU_NMI_WINDOW, 0);
    enter_shutdown(vm);
    vm_expect(vm, REASON_NMI_WINDOW);
}

/* MWAIT tells whether a range is monitored. */
L2_CODE(l2_mwait, "xor %eax, %eax; xor %ecx, %ecx", "mwait");
L2_CODE(l2_monitor, "mov " SP ", " AX "; xor %ecx, %ecx; xor %edx, %edx; monitor; xor %eax, %eax",
        "mwait");

TEST("event-state", mwait, "event-state-mwait", 0)
{
    vm_needs(CPU, CPU_MWAIT_EXITING);
    if (!caps.monitor)
        skip("no MONITOR");
    vm_control(vm, CPU, CPU_MWAIT_EXITING, 0);
    row("monitored");
    vm_start(vm, l2_monitor.start, 0);
    vm_expect(vm, REASON_MWAIT);
    check_equal("qualification", vm->qualification, 1);
    check_equal("IP", vm->ip, (word)l2_monitor.at);
}

/* An OUTS that exits does so before its operand is looked at. */
#ifdef __x86_64__
L2_CODE(l2_outs, "mov $0x8000000000000000, %rsi; mov $0xe9, %edx", "outsb");

TEST("event-state", outs, "event-state-outs", 0)
{
    vm_needs(CPU, CPU_IO_EXITING);
    vm_control(vm, CPU, CPU_IO_EXITING, 0);
    vm_start(vm, l2_outs.start, 0);
    vm_expect(vm, REASON_IO);
    check_equal("IP", vm->ip, (word)l2_outs.at);
    vm_control(vm, CPU, 0, CPU_IO_EXITING);
    vm_start(vm, l2_outs.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("vector", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_GP);
}
#endif
