/* Time: the preemption timer, the monitor trap flag, TSC offsetting. */
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

/* ---- the preemption timer ---- */

L2_CODE(l2_nop, "", "nop; nop; nop");
L2_CODE(l2_spin, "", "1: pause; jmp 1b");
L2_CODE(l2_hlt, "", "hlt");

static void use_timer(struct vm *vm, u32 value)
{
    vm_needs(PIN, PIN_PREEMPTION_TIMER);
    vm_control(vm, PIN, PIN_PREEMPTION_TIMER, 0);
    vmwrite(VMCS_PREEMPTION_TIMER, value);
}

/* A timer of 0 exits before L2's first instruction. */
TEST("timer", zero, "preemption-timer-zero", 0)
{
    use_timer(vm, 0);
    vm_start(vm, l2_nop.start, 0);
    vm_expect(vm, REASON_TIMER);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    check_equal("qualification", vm->qualification, 0);
    row("not taken");
    vm_control(vm, PIN, 0, PIN_PREEMPTION_TIMER);
    vm_expect_done(vm);
}

TEST("timer", expires, "preemption-timer-expires", 0)
{
    for (u32 value = 1; value <= 4096; value *= 16) {
        use_timer(vm, value);
        vm_start(vm, l2_spin.start, 0);
        vm_expect(vm, REASON_TIMER);
    }
}

/* With "save timer", the VMCS has what is left; without, what it had. */
TEST("timer", saved, "preemption-timer-saved", 0)
{
    const u32 plenty = 0xffffff00;
    use_timer(vm, plenty);
    row("not saved");
    vm_start(vm, l2_nop.start, 0);
    vm_expect_done(vm);
    check_equal("value", vmread(VMCS_PREEMPTION_TIMER), plenty);
    vm_needs(EXIT, EXIT_SAVE_TIMER);
    vm_control(vm, EXIT, EXIT_SAVE_TIMER, 0);
    row("saved");
    vm_start(vm, l2_nop.start, 0);
    vm_expect_done(vm);
    check(vmread(VMCS_PREEMPTION_TIMER) <= plenty, "no more than before");
    row("saved when it expires");
    vmwrite(VMCS_PREEMPTION_TIMER, 1);
    vm_start(vm, l2_spin.start, 0);
    vm_expect(vm, REASON_TIMER);
    check_equal("value", vmread(VMCS_PREEMPTION_TIMER), 0);
}

/* It counts while L2 is halted, too. */
TEST("timer", halted, "preemption-timer-while-halted", 0)
{
    if (!may_clear(CPU, CPU_HLT_EXITING))
        skip("HLT always exits");
    for (u32 value = 64; value <= 1 << 24; value *= 8) {
        use_timer(vm, value);
        vm_start(vm, l2_hlt.start, 0);
        vm_expect(vm, REASON_TIMER);
        if (vm->ip == (word)l2_hlt.next)
            break; /* L2 had time to halt */
    }
    check_equal("IP", vm->ip, (word)l2_hlt.next);
    check_equal("activity state", vmread(VMCS_GUEST_ACTIVITY), ACTIVITY_HLT);
}

/* ---- the monitor trap flag: an exit after every instruction ---- */

L2_CODE(l2_steps, "nop; mov $5, %ecx", "1: dec %ecx; jnz 1b");
L2_CODE(l2_int, "", "int $0x55");

static void use_mtf(struct vm *vm)
{
    vm_needs(CPU, CPU_MONITOR_TRAP);
    vm_control(vm, CPU, CPU_MONITOR_TRAP, 0);
}

TEST("timer", mtf, "monitor-trap", 0)
{
    use_mtf(vm);
    vm_start(vm, l2_steps.start, 0);
    vm_expect(vm, REASON_MONITOR_TRAP);
    check_equal("IP after NOP", vm->ip, (word)l2_steps.start + 1);
    vm_expect(vm, REASON_MONITOR_TRAP);
    check_equal("IP after MOV", vm->ip, (word)l2_steps.at);
    for (unsigned i = 0; i < 2 * 5; i++)
        vm_expect(vm, REASON_MONITOR_TRAP);
    check_equal("IP after the loop", vm->ip, (word)l2_steps.next);
    row("not taken");
    vm_control(vm, CPU, 0, CPU_MONITOR_TRAP);
    vm_expect_done(vm);
}

/* After an injected event, the trap comes before the handler's first instruction. */
TEST("timer", mtf_event, "monitor-trap-after-injection", 0)
{
    use_mtf(vm);
    l2_use_idt(vm);
    vm_start(vm, l2_int.start, 0);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    vm_expect(vm, REASON_MONITOR_TRAP);
    check(vm->ip != (word)l2_int.start, "in the handler");
    vm_control(vm, CPU, 0, CPU_MONITOR_TRAP);
    vm_expect_trap(vm, EXC_UD);
}

/* "Other event", vector 0: a trap that is pending at the entry */
TEST("timer", mtf_inject, "monitor-trap-injected", 0)
{
    vm_needs(CPU, CPU_MONITOR_TRAP);
    vm_start(vm, l2_nop.start, 0);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_OTHER);
    vm_expect(vm, REASON_MONITOR_TRAP);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    vm_expect_done(vm);
}

/* ---- the time-stamp counter ---- */

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

L2_CODE(l2_rdtsc, "rdtsc", "mov " AX ", " SI "; mov " DX ", " DI);

/* What L2 reads: lhv's counter plus the offset, in between two of lhv's
   own readings */
static void check_tsc(struct vm *vm, u64 offset)
{
    vmwrite(VMCS_TSC_OFFSET, offset);
    vm_start(vm, l2_rdtsc.start, 0);
    u64 before = rdtsc();
    vm_expect_done(vm);
    u64 after = rdtsc();
    u64 seen = (u64)(u32)vm->regs.di << 32 | (u32)vm->regs.si;
    check(seen - offset >= before && seen - offset <= after, "the counter plus the offset");
}

TEST("timer", tsc, "tsc-offsetting", 0)
{
    vm_needs(CPU, CPU_TSC_OFFSETTING | CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_TSC_OFFSETTING | CPU_MSR_BITMAPS, 0);
    row("offset 0");
    check_tsc(vm, 0);
    row("ahead");
    check_tsc(vm, 0x123456789a);
    row("behind");
    check_tsc(vm, 0 - (u64)0x10);
    row("not in use");
    vm_control(vm, CPU, 0, CPU_TSC_OFFSETTING);
    vmwrite(VMCS_TSC_OFFSET, 0x4000000000000000);
    vm_start(vm, l2_rdtsc.start, 0);
    vm_expect_done(vm);
    check((u32)vm->regs.di < 0x40000000, "lhv's own counter");
}

/* The MSR is offset as well. */
L2_CODE(l2_tsc_msr, "mov $0x10, %ecx; rdmsr", "mov " AX ", " SI "; mov " DX ", " DI);

TEST("timer", tsc_msr, "tsc-offsetting-msr", 0)
{
    const u64 offset = 0x2000000000000000;
    vm_needs(CPU, CPU_TSC_OFFSETTING | CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_TSC_OFFSETTING | CPU_MSR_BITMAPS, 0);
    vmwrite(VMCS_TSC_OFFSET, offset);
    vm_start(vm, l2_tsc_msr.start, 0);
    u64 before = rdtsc();
    vm_expect_done(vm);
    u64 after = rdtsc();
    u64 seen = (u64)(u32)vm->regs.di << 32 | (u32)vm->regs.si;
    check(seen - offset >= before && seen - offset <= after, "the counter plus the offset");
}
