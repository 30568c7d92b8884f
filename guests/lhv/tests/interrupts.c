/*
 * Real interrupts while L2 runs: L2 sends them to itself with the processor's APIC, and
 * then waits, because an APIC takes its time.
 */
#include "pc/apic.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2apic.h"
#include "vmx/l2traps.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { VECTOR = VECTOR_TEST + 1, LONG_ENOUGH = 5000 };

static void wait(void)
{
    for (unsigned i = 0; i < LONG_ENOUGH; i++)
        cpu_pause();
}

static void l2_interrupt_self(word vector)
{
    apic_send_self((u8)vector);
    wait();
}

static void start_interrupt(struct vm *vm, bool interrupts_on_)
{
    vm_give_apic(vm);
    vm_start(vm, l2_interrupt_self, VECTOR);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | (interrupts_on_ ? RFLAGS_IF : 0));
}

/* lhv takes the interrupt that made L2 exit. */
static void check_pending(void)
{
    u32 before = this_cpu()->interrupts[VECTOR];
    interrupts_take();
    check_equal("interrupts that lhv took", this_cpu()->interrupts[VECTOR] - before, 1);
}

static void check_exit(struct vm *vm, bool interrupts_on_)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    start_interrupt(vm, interrupts_on_);
    vm_expect(vm, REASON_EXTINT);
    if (may_clear(EXIT, EXIT_ACK_INTERRUPT))
        check_equal("interruption information", vmread(VMCS_EXIT_EVENT) & EVENT_VALID, 0);
    check_pending();
    vm_expect_done(vm);
}

TEST("interrupts", taken, "interrupt-exit", 0) { check_exit(vm, true); }

/* RFLAGS.IF of L2 does not matter where interrupts exit. */
TEST("interrupts", taken_if_clear, "interrupt-exit-if-clear", 0) { check_exit(vm, false); }

/* The processor takes the vector from the APIC; what is left for lhv is the end of interrupt. */
TEST("interrupts", acknowledged, "interrupt-exit-acknowledged", 0)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_needs(EXIT, EXIT_ACK_INTERRUPT);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    vm_control(vm, EXIT, EXIT_ACK_INTERRUPT, 0);
    start_interrupt(vm, true);
    vm_expect(vm, REASON_EXTINT);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_EXTERNAL | VECTOR);
    check(!apic_is_pending(VECTOR), "acknowledged");
    apic_end_of_interrupt();
    vm_expect_done(vm);
}

TEST("interrupts", not_taken, "interrupt-delivered-to-l2", 0)
{
    if (!may_clear(PIN, PIN_EXTINT_EXITING))
        skip("interrupts always exit");
    l2_use_idt(vm);
    row("interrupts on");
    start_interrupt(vm, true);
    struct l2_frame frame = vm_expect_trap(vm, VECTOR);
    check_equal("pushed IF", frame.flags & RFLAGS_IF, RFLAGS_IF);
    apic_end_of_interrupt();
    vm_skip(vm);
    vm_expect_done(vm);
    row("interrupts off");
    start_interrupt(vm, false);
    vm_expect_done(vm);
    check_pending();
}

L2_CODE(l2_nop, "", "nop; nop; nop");

/* An interrupt that waits when L2 is entered exits before L2's first instruction. */
TEST("interrupts", pending, "interrupt-pending-at-entry", 0)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    apic_send_self(VECTOR);
    for (unsigned i = 0; i < LONG_ENOUGH && !apic_is_pending(VECTOR); i++)
        cpu_pause();
    vm_start(vm, l2_nop.start, 0);
    vm_run(vm);
    check_equal("exit reason", vm->reason, REASON_EXTINT);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    check_pending();
}

/* ---- L2 halts ---- */

/* The timer is set by lhv, and may go off before L2 halts: then again, with more time. */
L2_CODE(l2_hlt, "", "hlt");

static void check_halt(struct vm *vm, u32 flags)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    if (!may_clear(CPU, CPU_HLT_EXITING))
        skip("HLT always exits");
    for (u32 ticks = 20000; ticks < 200000000; ticks *= 8) {
        vm_start(vm, l2_hlt.start, 0);
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | flags);
        apic_timer(VECTOR, ticks);
        vm_expect(vm, REASON_EXTINT);
        check_pending();
        if (vm->ip == (word)l2_hlt.next)
            break;
    }
    check_equal("IP", vm->ip, (word)l2_hlt.next);
    check_equal("activity state", vmread(VMCS_GUEST_ACTIVITY), ACTIVITY_HLT);
    apic_timer_stop();
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    vm_expect_done(vm);
}

TEST("interrupts", hlt, "interrupt-wakes-halted-l2", 0) { check_halt(vm, RFLAGS_IF); }
TEST("interrupts", hlt_if_clear, "interrupt-wakes-halted-l2-if-clear", 0) { check_halt(vm, 0); }
