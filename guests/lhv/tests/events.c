/* Event injection by VM entries, and the windows in which events are possible. */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

L2_CODE(l2_nop, "", "nop; nop");
L2_CODE(l2_int, "", "int $0x55");
L2_CODE(l2_int3, "", "int3");
L2_CODE(l2_int1, "", ".byte 0xf1");

static const struct injection {
    const char *name;
    const struct code *code; /* at whose first instruction L2 stands */
    u32 event;
    u32 error;
    u32 length;
    bool interrupts; /* RFLAGS.IF */
} rows[] = {
    { "external interrupt", &l2_nop, EVENT_EXTERNAL | 0x50, 0, 0, true },
    { "external interrupt, vector 255", &l2_nop, EVENT_EXTERNAL | 0xff, 0, 0, true },
    { "NMI", &l2_nop, EVENT_NMI | EXC_NMI, 0, 0, false },
    { "#DE", &l2_nop, EVENT_HARDWARE | EXC_DE, 0, 0, false },
    { "#UD", &l2_nop, EVENT_HARDWARE | EXC_UD, 0, 0, false },
    { "#DF", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_DF, 0, 0, false },
    { "#TS", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_TS, 0x28, 0, false },
    { "#GP", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP, 0x1234, 0, false },
    { "#PF", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF, 7, 0, false },
    { "#AC", &l2_nop, EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_AC, 0, 0, false },
    { "INT n", &l2_int, EVENT_SOFTWARE | 0x55, 0, 2, false },
    { "INT n, interrupts on", &l2_int, EVENT_SOFTWARE | 0x55, 0, 2, true },
    { "INT3", &l2_int3, EVENT_SOFT_EXCEPTION | EXC_BP, 0, 1, false },
    { "INT1", &l2_int1, EVENT_PRIV_SOFTWARE | EXC_DB, 0, 1, false },
};

static void inject(struct vm *vm, const struct injection *it)
{
    vm_start(vm, it->code->start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | (it->interrupts ? RFLAGS_IF : 0));
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | it->event);
    vmwrite(VMCS_ENTRY_EVENT_ERROR, it->error);
    vmwrite(VMCS_ENTRY_LENGTH, it->length);
}

/* The event reaches L2's handler, whatever the exception bitmap says, and L2 returns from it. */
static void check_injection(struct vm *vm, const struct injection *it, u32 bitmap)
{
    vmwrite(VMCS_EXCEPTION_BITMAP, bitmap);
    inject(vm, it);
    struct l2_frame frame = vm_expect_trap(vm, (u8)it->event);
    check_equal("pushed IP", frame.ip, (word)it->code->start + it->length);
    check_equal("pushed error code", frame.error, it->error);
    check_equal("pushed CS", frame.cs, SEL_CODE);
    check_equal("pushed IF", frame.flags & RFLAGS_IF, it->interrupts ? RFLAGS_IF : 0);
    check_equal("IF in the handler", vmread(VMCS_GUEST_RFLAGS) & RFLAGS_IF, 0);
    check_equal("the injection is used up", vmread(VMCS_ENTRY_EVENT) & EVENT_VALID, 0);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING) & EVENT_VALID, 0);
    vm_skip(vm);
    vm_expect_done(vm);
}

TEST("events", injection, "event-injection", 0)
{
    l2_use_idt(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        check_injection(vm, &rows[i], 0);
        check_injection(vm, &rows[i], 0xffffffff);
    }
}

/* An event ends the halt of a halted L2; what L2 returns to is behind the HLT. */
TEST("events", injection_hlt, "event-injection-wakes-hlt", 0)
{
    if (!(caps.misc & BIT(6)))
        skip("no activity state HLT");
    l2_use_idt(vm);
    for (unsigned i = 0; i < 3; i++) { /* interrupts and the NMI: the others may not be injected */
        row(rows[i].name);
        inject(vm, &rows[i]);
        vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
        struct l2_frame frame = vm_expect_trap(vm, (u8)rows[i].event);
        check_equal("pushed IP", frame.ip, (word)rows[i].code->start);
        check_equal("activity state", vmread(VMCS_GUEST_ACTIVITY), ACTIVITY_ACTIVE);
        vm_skip(vm);
        vm_expect_done(vm);
    }
}

/* ---- blocking by STI and by MOV SS ---- */

L2_CODE(l2_sti, "sti", "cpuid");
L2_CODE(l2_sti_nop, "sti; nop", "cpuid");
L2_CODE(l2_mov_ss, "mov %ss, %ecx; mov %ecx, %ss", "cpuid");
L2_CODE(l2_pop_ss, "mov %ss, %ecx; mov %ecx, %ss; nop", "cpuid");

static const struct {
    const char *name;
    const struct code *code;
    u32 blocking;
} blocking_rows[] = {
    { "behind STI", &l2_sti, BLOCKING_STI },
    { "one instruction later", &l2_sti_nop, 0 },
    { "behind MOV SS", &l2_mov_ss, BLOCKING_MOV_SS },
    { "one instruction after MOV SS", &l2_pop_ss, 0 },
};

TEST("events", blocking, "event-blocking", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(blocking_rows); i++) {
        row(blocking_rows[i].name);
        vm_start(vm, blocking_rows[i].code->start, 0);
        vm_expect(vm, REASON_CPUID);
        check_equal("interruptibility", vmread(VMCS_GUEST_INTERRUPTIBILITY),
                    blocking_rows[i].blocking);
        vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
        vm_skip(vm);
        vm_expect_done(vm);
    }
}

/* ---- windows ---- */

L2_CODE(l2_open, "nop; sti", "nop; cpuid");

TEST("events", interrupt_window, "interrupt-window", 0)
{
    vm_needs(CPU, CPU_INTERRUPT_WINDOW);
    vm_control(vm, CPU, CPU_INTERRUPT_WINDOW, 0);
    row("open at once");
    vm_start(vm, l2_open.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vm_expect(vm, REASON_INTERRUPT_WINDOW);
    check_equal("IP", vm->ip, (word)l2_open.start);
    row("opened by STI, one instruction later");
    vm_start(vm, l2_open.start, 0);
    vm_expect(vm, REASON_INTERRUPT_WINDOW);
    check_equal("IP", vm->ip, (word)l2_open.at + 1);
    row("entered with blocking by STI");
    vm_start(vm, l2_open.start, 0);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_STI);
    vm_expect(vm, REASON_INTERRUPT_WINDOW);
    check_equal("IP", vm->ip, (word)l2_open.start + 1);
    row("closed");
    vm_start(vm, l2_nop.start, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    vm_expect_done(vm);
    row("not taken");
    vm_control(vm, CPU, 0, CPU_INTERRUPT_WINDOW);
    vm_start(vm, l2_open.start, 0);
    vm_expect(vm, REASON_CPUID);
}

/* An interrupt is injected when the window opens: what windows are for. */
TEST("events", window_inject, "interrupt-window-then-inject", 0)
{
    vm_needs(CPU, CPU_INTERRUPT_WINDOW);
    l2_use_idt(vm);
    vm_control(vm, CPU, CPU_INTERRUPT_WINDOW, 0);
    vm_start(vm, l2_open.start, 0);
    vm_expect(vm, REASON_INTERRUPT_WINDOW);
    vm_control(vm, CPU, 0, CPU_INTERRUPT_WINDOW);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_EXTERNAL | 0x61);
    struct l2_frame frame = vm_expect_trap(vm, 0x61);
    check_equal("pushed IP", frame.ip, (word)l2_open.at + 1);
    vm_skip(vm);
    vm_expect(vm, REASON_CPUID);
}

/* ---- virtual NMIs ---- */

/* IRET to the next instruction; it ends blocking by NMI. */
#ifdef __x86_64__
L2_CODE(l2_iret,
        "mov %rsp, %rcx; mov %ss, %eax; push %rax; push %rcx; pushf; mov %cs, %eax; push %rax;"
        "lea .Ll2_iret_next(%rip), %rax; push %rax",
        "iretq");
#else
L2_CODE(l2_iret, "pushf; push %cs; push $.Ll2_iret_next", "iret");
#endif

static void use_virtual_nmis(struct vm *vm)
{
    vm_needs(PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
    vm_control(vm, PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS, 0);
}

TEST("events", nmi_window, "nmi-window", 0)
{
    vm_needs(CPU, CPU_NMI_WINDOW);
    use_virtual_nmis(vm);
    vm_control(vm, CPU, CPU_NMI_WINDOW, 0);
    row("open at once");
    vm_start(vm, l2_iret.start, 0);
    vm_expect(vm, REASON_NMI_WINDOW);
    check_equal("IP", vm->ip, (word)l2_iret.start);
    row("opened by IRET");
    vm_start(vm, l2_iret.start, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    vm_expect(vm, REASON_NMI_WINDOW);
    check_equal("IP", vm->ip, (word)l2_iret.next);
    check_equal("interruptibility", vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
    row("not taken");
    vm_control(vm, CPU, 0, CPU_NMI_WINDOW);
    vm_expect_done(vm);
}

TEST("events", virtual_nmi, "virtual-nmi-blocking", 0)
{
    use_virtual_nmis(vm);
    l2_use_idt(vm);
    inject(vm, &rows[2]);
    vm_expect_trap(vm, EXC_NMI);
    check_equal("in the handler", vmread(VMCS_GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    vm_skip(vm);
    vm_expect_done(vm);
    check_equal("after IRET", vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
}
