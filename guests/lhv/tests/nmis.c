/*
 * NMIs of L2 under the settings of "NMI exiting" and "virtual NMIs": injected, blocked, waiting, and
 * the NMI window. SDM 3C, "Interruptibility State", "Changes to Instruction Behavior in VMX Non-Root
 * Operation", "Other Causes of VM Exits".
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

enum { VECTOR = VECTOR_TEST + 1, LONG_ENOUGH = 5000, NMI = EVENT_VALID | EVENT_NMI | EXC_NMI };

L2_CODE(l2_nop, "", "nop; nop; nop");

/* IRET to the next instruction */
#ifdef __x86_64__
L2_CODE(l2_iret,
        "mov %rsp, %rcx; mov %ss, %eax; push %rax; push %rcx; pushf; mov %cs, %eax; push %rax;"
        "lea .Ll2_iret_next(%rip), %rax; push %rax",
        "iretq");
#else
L2_CODE(l2_iret, "pushf; push %cs; push $.Ll2_iret_next", "iret");
#endif

/* ---- the three settings that a VM entry accepts ---- */

enum setting { NEITHER, EXITING, VIRTUAL, SETTINGS };

static const struct {
    const char *name;
    u32 pin;
} settings[SETTINGS] = {
    { "neither", 0 },
    { "NMI exiting", PIN_NMI_EXITING },
    { "NMI exiting and virtual NMIs", PIN_NMI_EXITING | PIN_VIRTUAL_NMIS },
};

/* A fresh L2 under a setting, where the processor has it; it will begin at `code`. */
static bool begin(struct vm *vm, enum setting setting, const struct code *code, u32 blocking)
{
    u32 on = settings[setting].pin, off = settings[VIRTUAL].pin & ~on;
    row(settings[setting].name);
    if (!may_set(PIN, on) || !may_clear(PIN, off))
        return false;
    vm_reset(vm);
    vm_control(vm, PIN, on, off);
    l2_use_idt(vm);
    vm_start(vm, code->start, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, blocking);
    return true;
}

static void check_blocking(const char *when, bool is_blocked)
{
    check_equal(when, vmread(VMCS_GUEST_INTERRUPTIBILITY), is_blocked ? BLOCKING_NMI : 0);
}

static void expect_nmi_exit(struct vm *vm, word ip)
{
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT), NMI);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    check_equal("IP", vm->ip, ip);
}

/* lhv itself has an NMI waiting, which comes when NMIs are no longer blocked. */
static void check_lhv_takes_one(void)
{
    u32 before = this_cpu()->interrupts[EXC_NMI];
    nmi_unblock();
    check_equal("NMIs that lhv took", this_cpu()->interrupts[EXC_NMI] - before, 1);
}

/* ---- sent by L2 to itself ---- */

static void wait(void)
{
    for (unsigned i = 0; i < LONG_ENOUGH; i++)
        cpu_pause();
}

static void l2_nmi_self(word id)
{
    apic_send_nmi((u32)id);
    wait();
}

static void start_nmi(struct vm *vm)
{
    vm_give_apic(vm);
    vm_start(vm, l2_nmi_self, this_cpu()->apic_id);
}

TEST("nmis", taken, "nmi-exit", 0)
{
    vm_needs(PIN, PIN_NMI_EXITING);
    vm_control(vm, PIN, PIN_NMI_EXITING, 0);
    start_nmi(vm);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT), NMI);
    check_blocking("the exit saves what was before it", false);
    nmi_unblock();
    vm_expect_done(vm);
}

TEST("nmis", not_taken, "nmi-delivered-to-l2", 0)
{
    if (!may_clear(PIN, PIN_NMI_EXITING))
        skip("NMIs always exit");
    l2_use_idt(vm);
    start_nmi(vm);
    vm_expect_trap(vm, EXC_NMI);
    check_blocking("in the handler", true);
    vm_skip(vm);
    vm_expect_done(vm);
    check_blocking("after IRET", false);
}

/* Blocked NMIs wait; they exit nevertheless where it is virtual NMIs that are blocked. */
TEST("nmis", blocked, "nmi-blocked", 0)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin(vm, s, &l2_nop, 0))
            continue;
        start_nmi(vm);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
        if (s == VIRTUAL) {
            vm_expect(vm, REASON_EXCEPTION);
            check_equal("interruption information", vmread(VMCS_EXIT_EVENT), NMI);
            check_blocking("virtual NMIs at the exit", true);
            nmi_unblock();
            vm_expect_done(vm);
        } else {
            vm_expect_done(vm);
            check_blocking("at the end", true);
            check_lhv_takes_one();
        }
    }
}

/* ---- injected ---- */

/* What is injected blocks virtual NMIs; others are blocked only where L1 says so. */
TEST("nmis", injected, "nmi-injected", 0)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        for (unsigned blocked = 0; blocked <= (s != VIRTUAL); blocked++) {
            if (!begin(vm, s, &l2_nop, blocked ? BLOCKING_NMI : 0))
                continue;
            vmwrite(VMCS_ENTRY_EVENT, NMI);
            vm_expect_trap(vm, EXC_NMI);
            check_blocking("in the handler", s == VIRTUAL || blocked);
            vm_skip(vm);
            vm_expect_done(vm);
            check_blocking("after IRET", s == EXITING && blocked);
            nmi_unblock();
        }
    }
}

TEST("nmis", iret, "nmi-iret", 0)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin(vm, s, &l2_iret, BLOCKING_NMI))
            continue;
        vm_expect_done(vm);
        check_blocking("after IRET", s == EXITING);
        nmi_unblock();
    }
}

/* ---- one that waits at the entry ---- */

/* After a VM exit for an NMI NMIs are blocked: the next one waits. */
static void let_one_wait(struct vm *vm)
{
    vm_needs(PIN, PIN_NMI_EXITING);
    vm_reset(vm);
    vm_control(vm, PIN, PIN_NMI_EXITING, 0);
    start_nmi(vm);
    vm_expect(vm, REASON_EXCEPTION);
    u32 before = this_cpu()->interrupts[EXC_NMI];
    apic_send_nmi(this_cpu()->apic_id);
    wait();
    if (this_cpu()->interrupts[EXC_NMI] != before)
        broken("an NMI after a VM exit for an NMI is taken at once");
}

static bool begin_with_one(struct vm *vm, enum setting setting, const struct code *code,
                           u32 blocking)
{
    let_one_wait(vm);
    if (begin(vm, setting, code, blocking))
        return true;
    nmi_unblock();
    return false;
}

static word handler(u8 vector) { return (word)l2_trap_entry(vector); }

TEST("nmis", waits, "nmi-waits-at-entry", 0)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin_with_one(vm, s, &l2_nop, 0))
            continue;
        if (s == NEITHER) {
            check_equal("pushed IP", vm_expect_trap(vm, EXC_NMI).ip, (word)l2_nop.start);
            check_blocking("in the handler", true);
            vm_skip(vm);
        } else {
            expect_nmi_exit(vm, (word)l2_nop.start);
            nmi_unblock();
        }
        vm_expect_done(vm);
    }
}

TEST("nmis", waits_blocked, "nmi-waits-blocked", 0)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin_with_one(vm, s, &l2_iret, BLOCKING_NMI))
            continue;
        if (s == NEITHER) {
            check_equal("pushed IP", vm_expect_trap(vm, EXC_NMI).ip, (word)l2_iret.next);
            vm_skip(vm);
            vm_expect_done(vm);
        } else if (s == EXITING) {
            vm_expect_done(vm);
            check_blocking("at the end", true);
            check_lhv_takes_one();
        } else {
            expect_nmi_exit(vm, (word)l2_iret.start);
            check_blocking("virtual NMIs at the exit", true);
            nmi_unblock();
            vm_expect_done(vm);
        }
    }
}

/* Behind MOV SS an NMI waits for one instruction. */
TEST("nmis", mov_ss, "nmi-waits-behind-mov-ss", 0)
{
    word next = (word)l2_nop.start + 1;
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin_with_one(vm, s, &l2_nop, BLOCKING_MOV_SS))
            continue;
        if (s == NEITHER) {
            check_equal("pushed IP", vm_expect_trap(vm, EXC_NMI).ip, next);
            vm_skip(vm);
        } else {
            expect_nmi_exit(vm, next);
            nmi_unblock();
        }
        vm_expect_done(vm);
    }
}

/* What is injected comes first; the NMI follows before the handler's first instruction. */
static void check_behind(struct vm *vm, u32 event, u8 vector)
{
    for (enum setting s = NEITHER; s < SETTINGS; s++) {
        if (!begin_with_one(vm, s, &l2_nop, 0))
            continue;
        bool blocks = s == VIRTUAL && vector == EXC_NMI;
        vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
        vmwrite(VMCS_ENTRY_EVENT, event);
        if (s == NEITHER) {
            check_equal("pushed IP", vm_expect_trap(vm, EXC_NMI).ip, handler(vector));
            check_blocking("in the NMI's handler", true);
            vm_skip(vm);
        } else {
            expect_nmi_exit(vm, handler(vector));
            check_blocking("at the exit", blocks);
            nmi_unblock();
        }
        check_equal("pushed IP", vm_expect_trap(vm, vector).ip, (word)l2_nop.start);
        check_blocking("in the injected event's handler", blocks);
        vm_skip(vm);
        vm_expect_done(vm);
    }
}

TEST("nmis", behind_event, "nmi-behind-injected-interrupt", 0)
{
    check_behind(vm, EVENT_VALID | EVENT_EXTERNAL | VECTOR, VECTOR);
}

TEST("nmis", behind_nmi, "nmi-behind-injected-nmi", 0) { check_behind(vm, NMI, EXC_NMI); }

/*
 * Blocking closes the window, so the exit for the NMI comes first. (An open window would exit first,
 * and lhv would have to take the NMI where its stack is L2's registers.)
 */
TEST("nmis", window, "nmi-before-window", 0)
{
    vm_needs(PIN, settings[VIRTUAL].pin);
    vm_needs(CPU, CPU_NMI_WINDOW);
    if (!begin_with_one(vm, VIRTUAL, &l2_iret, BLOCKING_NMI))
        return;
    vm_control(vm, CPU, CPU_NMI_WINDOW, 0);
    expect_nmi_exit(vm, (word)l2_iret.start);
    check_blocking("virtual NMIs at the exit", true);
    nmi_unblock();
    vm_expect(vm, REASON_NMI_WINDOW);
    check_equal("IP", vm->ip, (word)l2_iret.next);
    vm_control(vm, CPU, 0, CPU_NMI_WINDOW);
    vm_expect_done(vm);
}
