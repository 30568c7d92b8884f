/*
 * What is taken first between two instructions, when more than one thing is due (SDM 3C, "Other
 * causes of VM exits" and "Delivery of pending debug exceptions after VM entry").
 */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { DR6_CLEAR = 0xffff0ff0, DB_B0 = BIT(0), DB_B1 = BIT(1), DB_ENABLED = BIT(12), DB_BS = BIT(14) };

L2_CODE(l2_nop, "", "nop");
L2_CODE(l2_nops, "", "nop; nop");
L2_CODE(l2_wbinvd, "", "wbinvd");
L2_CODE(l2_out, "", "out %al, $0x80");
L2_CODE(l2_rdmsr, "", "rdmsr");
L2_CODE(l2_cpuid, "", "cpuid");
L2_CODE(l2_ud, "", "ud2");
L2_CODE(l2_int, "", "int $0x55");
L2_CODE(l2_int1, "", ".byte 0xf1");

/* The instructions of a single step: some processors, and hypervisors, execute them differently. */
static const struct {
    const char *name;
    const struct code *code;
} steps[] = {
    { "NOP", &l2_nop }, { "WBINVD", &l2_wbinvd }, { "OUT", &l2_out }, { "RDMSR", &l2_rdmsr }
};

static void start(struct vm *vm, const struct code *code, word flags)
{
    vm_start(vm, code->start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | flags);
}

/* RDMSR does not exit either, and reads an MSR that hypervisors answer for. */
static void start_step(struct vm *vm, unsigned i, word flags)
{
    row(steps[i].name);
    start(vm, steps[i].code, flags);
    vm->regs.cx = MSR_VMX_BASIC;
}

static void use_msr_bitmaps(struct vm *vm)
{
    vm_needs(CPU, CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_MSR_BITMAPS, 0);
}

/* ---- the monitor trap flag ---- */

static void use_mtf(struct vm *vm)
{
    vm_needs(CPU, CPU_MONITOR_TRAP);
    vm_control(vm, CPU, CPU_MONITOR_TRAP, 0);
}

/* It comes before the single-step trap, which stays pending. */
TEST("boundary", mtf_step, "monitor-trap-before-single-step", 0)
{
    l2_use_idt(vm);
    use_msr_bitmaps(vm);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        start_step(vm, i, RFLAGS_TF);
        use_mtf(vm);
        vm_expect(vm, REASON_MONITOR_TRAP);
        check_equal("IP", vm->ip, (word)steps[i].code->next);
        check_equal("pending debug exceptions", vmread(VMCS_GUEST_PENDING_DEBUG), DB_BS);
        vm_control(vm, CPU, 0, CPU_MONITOR_TRAP);
        struct l2_frame frame = vm_expect_trap(vm, EXC_DB);
        check_equal("pushed IP", frame.ip, (word)steps[i].code->next);
        write_dr6(DR6_CLEAR);
    }
}

/* It comes behind the delivery of what the instruction caused, before the handler begins. */
TEST("boundary", mtf_event, "monitor-trap-behind-delivery", 0)
{
    static const struct {
        const char *name;
        const struct code *code;
        u8 vector;
        bool is_fault;
    } rows[] = { { "a fault", &l2_ud, EXC_UD, true },
                 { "INT n", &l2_int, 0x55, false },
                 { "INT1", &l2_int1, EXC_DB, false } };
    l2_use_idt(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        use_mtf(vm);
        start(vm, rows[i].code, 0);
        vm_expect(vm, REASON_MONITOR_TRAP);
        vm_control(vm, CPU, 0, CPU_MONITOR_TRAP);
        struct l2_frame frame = vm_expect_trap(vm, rows[i].vector);
        const u8 *back = rows[i].is_fault ? rows[i].code->at : rows[i].code->next;
        check_equal("pushed IP", frame.ip, (word)back);
    }
}

/* An instruction that exits by itself causes no trap. */
TEST("boundary", mtf_exit, "monitor-trap-cancelled-by-exit", 0)
{
    use_mtf(vm);
    start(vm, &l2_cpuid, 0);
    vm_expect(vm, REASON_CPUID);
    vm_skip(vm);
    vm_expect(vm, REASON_MONITOR_TRAP);
}

/* ---- pending debug exceptions ---- */

/* Behind MOV SS they wait for the next instruction, and come together with its single step. */
TEST("boundary", behind_mov_ss, "pending-debug-behind-mov-ss", 0)
{
    write_dr6(DR6_CLEAR);
    use_msr_bitmaps(vm);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        start_step(vm, i, RFLAGS_TF);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
        vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_BS | DB_ENABLED | DB_B0);
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("event", vmread(VMCS_EXIT_EVENT), EVENT_VALID | EVENT_HARDWARE | EXC_DB);
        check_equal("IP", vm->ip, (word)steps[i].code->next);
        check_equal("qualification", vm->qualification, DB_BS | DB_B0);
        check_equal("still pending", vmread(VMCS_GUEST_PENDING_DEBUG), 0);
        check_equal("interruptibility", vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
        check_equal("DR6", read_dr6(), DR6_CLEAR);
    }
    row("without single step");
    start(vm, &l2_nops, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_ENABLED | DB_B1);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("IP", vm->ip, (word)l2_nops.start + 1);
    check_equal("qualification", vm->qualification, DB_B1);
}

/* Blocking by STI does not hold them back; without bit 12 or BS nothing is pending. */
TEST("boundary", pending, "pending-debug-or-not", 0)
{
    row("behind STI");
    start(vm, &l2_nop, RFLAGS_IF | RFLAGS_TF);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_STI);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_BS);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    row("no breakpoint enabled");
    start(vm, &l2_nop, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_B0 | DB_B1);
    vm_expect_done(vm);
}

/* They are gone when the entry injects an exception or interrupt. */
TEST("boundary", injected, "pending-debug-lost-by-injection", 0)
{
    l2_use_idt(vm);
    start(vm, &l2_nop, 0);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_ENABLED | DB_B0);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_HARDWARE | EXC_UD);
    vm_expect_trap(vm, EXC_UD);
    vm_skip(vm);
    vm_expect_done(vm);
}

/* ---- the preemption timer: behind debug exceptions and injected events ---- */

TEST("boundary", timer, "preemption-timer-priority", 0)
{
    vm_needs(PIN, PIN_PREEMPTION_TIMER);
    l2_use_idt(vm);
    vm_control(vm, PIN, PIN_PREEMPTION_TIMER, 0);
    row("behind an injected #DB");
    for (u32 bitmap = 0; bitmap <= BIT(EXC_DB); bitmap += BIT(EXC_DB)) {
        vmwrite(VMCS_EXCEPTION_BITMAP, bitmap);
        start(vm, &l2_nop, 0);
        vmwrite(VMCS_PREEMPTION_TIMER, 0);
        vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_HARDWARE | EXC_DB);
        vm_expect(vm, REASON_TIMER);
        vmwrite(VMCS_PREEMPTION_TIMER, 0xffffffff);
        check_equal("pushed IP", vm_expect_trap(vm, EXC_DB).ip, (word)l2_nop.start);
    }
    row("behind a pending #DB");
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    start(vm, &l2_nop, 0);
    vmwrite(VMCS_PREEMPTION_TIMER, 0);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_ENABLED | DB_B1);
    vm_expect(vm, REASON_TIMER);
    vmwrite(VMCS_PREEMPTION_TIMER, 0xffffffff);
    check_equal("pushed IP", vm_expect_trap(vm, EXC_DB).ip, (word)l2_nop.start);
    row("behind a #DB that exits");
    vmwrite(VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    start(vm, &l2_nop, 0);
    vmwrite(VMCS_PREEMPTION_TIMER, 0);
    vmwrite(VMCS_GUEST_PENDING_DEBUG, DB_ENABLED | DB_B1);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("qualification", vm->qualification, DB_B1);
    write_dr6(DR6_CLEAR);
}

/* ---- windows: they wake from HLT, and come behind an injected event ---- */

static void start_injecting(struct vm *vm)
{
    start(vm, &l2_nop, RFLAGS_IF);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_HARDWARE | EXC_DB);
}

static void expect_behind_injection(struct vm *vm, u32 reason)
{
    vm_expect(vm, reason);
    check_equal("pushed IP", *(word *)(word)vmread(VMCS_GUEST_RSP), (word)l2_nop.start);
    check_equal("activity state", vmread(VMCS_GUEST_ACTIVITY), ACTIVITY_ACTIVE);
}

static void check_active(struct vm *vm, u32 reason)
{
    row("#DB injected");
    start_injecting(vm);
    expect_behind_injection(vm, reason);
    row("behind MOV SS");
    start(vm, &l2_nop, RFLAGS_IF);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
    vm_expect(vm, reason);
    check_equal("IP", vm->ip, (word)l2_nop.next);
}

static void check_halted(struct vm *vm, u32 reason)
{
    if (!(caps.misc & BIT(6)))
        skip("no activity state HLT");
    row("nothing injected");
    start(vm, &l2_nop, RFLAGS_IF);
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
    vm_expect(vm, reason);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    row("#DB injected");
    start_injecting(vm);
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
    expect_behind_injection(vm, reason);
}

static void use_interrupt_window(struct vm *vm)
{
    void *idt = l2_use_idt(vm);
    l2_change_gate(idt, EXC_DB, GATE_TRAP, 0); /* RFLAGS.IF stays */
    vm_needs(CPU, CPU_INTERRUPT_WINDOW);
    vm_control(vm, CPU, CPU_INTERRUPT_WINDOW, 0);
}

static void use_nmi_window(struct vm *vm)
{
    l2_use_idt(vm);
    vm_needs(PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
    vm_needs(CPU, CPU_NMI_WINDOW);
    vm_control(vm, PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS, 0);
    vm_control(vm, CPU, CPU_NMI_WINDOW, 0);
}

TEST("boundary", interrupt_window, "interrupt-window-priority", 0)
{
    use_interrupt_window(vm);
    check_active(vm, REASON_INTERRUPT_WINDOW);
}

TEST("boundary", interrupt_window_hlt, "interrupt-window-wakes-hlt", 0)
{
    use_interrupt_window(vm);
    check_halted(vm, REASON_INTERRUPT_WINDOW);
}

TEST("boundary", nmi_window, "nmi-window-priority", 0)
{
    use_nmi_window(vm);
    check_active(vm, REASON_NMI_WINDOW);
}

TEST("boundary", nmi_window_hlt, "nmi-window-wakes-hlt", 0)
{
    use_nmi_window(vm);
    check_halted(vm, REASON_NMI_WINDOW);
}
