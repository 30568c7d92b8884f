/* The virtual APIC: its registers in memory and as MSRs, virtual interrupts, posted interrupts. */
#include "pc/apic.h"
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/pair.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2apic.h"
#include "vmx/l2traps.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum {
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_ISR = 0x100,
    APIC_IRR = 0x200,
    APIC_ICR_LOW = 0x300,
    APIC_ICR_HIGH = 0x310,
    ICR_SELF = 1 << 18,
    ACCESS_READ = 0 << 12,
    ACCESS_WRITE = 1 << 12,
    LOW_VECTOR = 0x61,
    VECTOR = 0x72,
    HIGH_VECTOR = 0x83,
    NOTIFICATION = VECTOR_TEST + 2,
    LONG_ENOUGH = 5000,
};

static u32 *use_shadow(struct vm *vm, u32 controls)
{
    vm_needs(CPU, CPU_TPR_SHADOW);
    vm_needs(CPU2, controls);
    u32 *page = page_alloc();
    vmwrite(VMCS_VIRTUAL_APIC, physical(page));
    vmwrite(VMCS_TPR_THRESHOLD, 0);
    vm_control(vm, CPU, CPU_TPR_SHADOW, 0);
    vm_control(vm, CPU2, controls, 0);
    return page;
}

/* The APIC-access page at NOTE_PAGE, and the virtual-APIC page, which is returned */
static u32 *use_pages(struct vm *vm, u32 controls)
{
    vm_needs(CPU2, CPU2_APIC_ACCESSES);
    void *access = page_alloc();
    vmwrite(VMCS_APIC_ACCESS, physical(access));
    ept_map(&vm->ept, NOTE_PAGE, physical(access), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    vm_control(vm, CPU2, CPU2_APIC_ACCESSES, 0);
    return use_shadow(vm, controls);
}

static u32 *use_interrupts(struct vm *vm, u32 controls)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    return controls & CPU2_APIC_ACCESSES ? use_pages(vm, controls | CPU2_VIRTUAL_INTERRUPTS)
                                         : use_shadow(vm, controls | CPU2_VIRTUAL_INTERRUPTS);
}

/* ---- Registers in memory ---- */

enum handling { EXITS, READ_ONLY, VIRTUAL, EMULATED };

static const struct {
    u16 first, last;
    enum handling handling;
} registers[] = {
    { 0x00, 0x10, EXITS },     { 0x20, 0x20, VIRTUAL },   { 0x30, 0x30, READ_ONLY },
    { 0x40, 0x70, EXITS },     { 0x80, 0x80, EMULATED },  { 0x90, 0xa0, EXITS },
    { 0xb0, 0xb0, VIRTUAL },   { 0xc0, 0xc0, EXITS },     { 0xd0, 0xf0, VIRTUAL },
    { 0x100, 0x270, READ_ONLY }, { 0x280, 0x280, VIRTUAL }, { 0x290, 0x2f0, EXITS },
    { 0x300, 0x300, VIRTUAL }, { 0x310, 0x310, EMULATED }, { 0x320, 0x380, VIRTUAL },
    { 0x390, 0x3d0, EXITS },   { 0x3e0, 0x3e0, VIRTUAL }, { 0x3f0, 0x3f0, EXITS },
    { 0x400, 0x400, EXITS },   { 0xff0, 0xff0, EXITS },
};

L2_CODE(l2_read_32, "", "movl (" BX "), %esi");

static void start_read(struct vm *vm, u32 offset)
{
    vm_start(vm, l2_read_32.start, 0);
    vm->regs.bx = NOTE_PAGE + offset;
}

static void check_read(struct vm *vm, u32 *page, u32 offset, enum handling handling)
{
    page[offset / 4] = 0xa5000000 | offset;
    start_read(vm, offset);
    if (handling == EXITS) {
        vm_expect(vm, REASON_APIC_ACCESS);
        check_equal("qualification", vm->qualification & 0xffff, ACCESS_READ | offset);
        return;
    }
    vm_expect_done(vm);
    check_equal("value", (u32)vm->regs.si, 0xa5000000 | offset);
}

static void check_write(struct vm *vm, u32 *page, u32 offset, enum handling handling)
{
    page[offset / 4] = 0;
    start_access(vm, WRITE, NOTE_PAGE + offset);
    if (handling == EXITS || handling == READ_ONLY) {
        vm_expect(vm, REASON_APIC_ACCESS);
        check_equal("qualification", vm->qualification & 0xffff, ACCESS_WRITE | offset);
        check_equal("not written", page[offset / 4], 0);
        return;
    }
    if (handling == VIRTUAL) {
        /* The exit comes behind the instruction. */
        vm_expect(vm, REASON_APIC_WRITE);
        check_equal("qualification", vm->qualification & 0xffff, offset);
        check_equal("written", page[offset / 4], WRITTEN);
    }
    vm_expect_done(vm);
}

TEST("vapic", registers, "vapic-registers", TEST_EPT)
{
    u32 *page = use_pages(vm, CPU2_APIC_REGISTERS);
    for (unsigned i = 0; i < ARRAY_LEN(registers); i++)
        for (u32 offset = registers[i].first; offset <= registers[i].last; offset += 0x10) {
            row(registers[i].handling == EXITS ? "no register" : "register");
            check_read(vm, page, offset, registers[i].handling);
            check_write(vm, page, offset, registers[i].handling);
        }
    row("TPR: only its low byte stays");
    check_equal("VTPR", page[APIC_TPR / 4], WRITTEN & 0xff);
    row("ICR, high half: only its high byte stays");
    check_equal("VICR_HI", page[APIC_ICR_HIGH / 4], 0);
}

L2_CODE(l2_read_16, "xor %esi, %esi", "movw (" BX "), %si");
L2_CODE(l2_change, "", "orl $0x20, (" BX ")");

TEST("vapic", shapes, "vapic-access-shapes", TEST_EPT)
{
    u32 *page = use_pages(vm, CPU2_APIC_REGISTERS);
    page[0x20 / 4] = 0x12345678;
    row("part of a register");
    vm_start(vm, l2_read_16.start, 0);
    vm->regs.bx = NOTE_PAGE + 0x22;
    vm_expect_done(vm);
    check_equal("value", (u32)vm->regs.si, 0x1234);
    row("beyond a register");
    vm_start(vm, l2_read_16.start, 0);
    vm->regs.bx = NOTE_PAGE + 0x23;
    vm_expect(vm, REASON_APIC_ACCESS);
    check_equal("qualification", vm->qualification & 0xffff, ACCESS_READ | 0x23);
    row("between registers");
    start_read(vm, 0x24);
    vm_expect(vm, REASON_APIC_ACCESS);
    row("read and written: TPR");
    page[APIC_TPR / 4] = 0x51;
    vm_start(vm, l2_change.start, 0);
    vm->regs.bx = NOTE_PAGE + APIC_TPR;
    vm_expect_done(vm);
    check_equal("VTPR", page[APIC_TPR / 4], 0x71);
    row("read and written: divide configuration");
    vm_start(vm, l2_change.start, 0);
    vm->regs.bx = NOTE_PAGE + 0x3e0;
    vm_expect(vm, REASON_APIC_WRITE);
    check_equal("qualification", vm->qualification & 0xffff, 0x3e0);
    check_equal("written", page[0x3e0 / 4], 0x20);
    row("read, but not written: version");
    vm_start(vm, l2_change.start, 0);
    vm->regs.bx = NOTE_PAGE + 0x30;
    vm_expect(vm, REASON_APIC_ACCESS);
    check_equal("qualification", vm->qualification & 0xf0ff, ACCESS_WRITE | 0x30);
    check_equal("version", page[0x30 / 4], 0);
}

/* The TPR below its threshold: behind the instruction that lowers it, and at an entry. */
TEST("vapic", threshold, "vapic-tpr-threshold", TEST_EPT)
{
    u32 *page = use_pages(vm, 0);
    row("written");
    page[APIC_TPR / 4] = 0xe0;
    vmwrite(VMCS_TPR_THRESHOLD, 0xd);
    start_access(vm, WRITE, NOTE_PAGE + APIC_TPR);
    vm_expect(vm, REASON_TPR);
    check_equal("VTPR", page[APIC_TPR / 4], WRITTEN & 0xff);
    row("entered");
    page[APIC_TPR / 4] = 0x30;
    vmwrite(VMCS_TPR_THRESHOLD, 4);
    start_read(vm, APIC_TPR);
    word begin = (word)vmread(VMCS_GUEST_RIP);
    vm_expect(vm, REASON_TPR);
    check_equal("IP", vm->ip, begin);
    vmwrite(VMCS_TPR_THRESHOLD, 3);
    vm_expect_done(vm);
}

/* ---- Registers as MSRs ---- */

L2_CODE(l2_read_msr, "mov " BX ", " CX, "rdmsr");
L2_CODE(l2_write_msr, "mov " BX ", " CX "; mov " SI ", " AX "; mov " DI ", " DX, "wrmsr");

static void start_msr(struct vm *vm, const struct code *code, u32 offset, u64 value)
{
    vm_start(vm, code->start, 0);
    vm->regs.bx = 0x800 + offset / 16;
    vm->regs.si = (u32)value;
    vm->regs.di = (u32)(value >> 32);
}

static u32 *use_x2apic(struct vm *vm, u32 controls)
{
    vm_needs(CPU, CPU_MSR_BITMAPS);
    vmwrite(VMCS_MSR_BITMAP, physical(page_alloc()));
    vm_control(vm, CPU, CPU_MSR_BITMAPS, 0);
    return use_shadow(vm, CPU2_X2APIC | controls);
}

static void expect_general_protection(struct vm *vm)
{
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("vector", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_GP);
}

TEST("vapic", x2apic_tpr, "vapic-x2apic-tpr", TEST_EPT)
{
    u32 *page = use_x2apic(vm, 0);
    page[APIC_TPR / 4] = 0x41;
    row("read");
    start_msr(vm, &l2_read_msr, APIC_TPR, 0);
    vm_expect_done(vm);
    row("written");
    start_msr(vm, &l2_write_msr, APIC_TPR, 0x52);
    vm_expect_done(vm);
    check_equal("VTPR", page[APIC_TPR / 4], 0x52);
    row("reserved bits");
    start_msr(vm, &l2_write_msr, APIC_TPR, 0x152);
    expect_general_protection(vm);
    start_msr(vm, &l2_write_msr, APIC_TPR, BIT64(32) | 0x52);
    expect_general_protection(vm);
    row("below its threshold");
    vmwrite(VMCS_TPR_THRESHOLD, 5);
    start_msr(vm, &l2_write_msr, APIC_TPR, 0x49);
    vm_expect(vm, REASON_TPR);
    check_equal("IP", vm->ip, (word)l2_write_msr.next);
}

L2_CODE(l2_keep_msr, "mov " BX ", " CX "; rdmsr", "mov " AX ", " SI "; mov " DX ", " DI);

TEST("vapic", x2apic_registers, "vapic-x2apic-registers", TEST_EPT)
{
    u32 *page = use_x2apic(vm, CPU2_APIC_REGISTERS);
    for (u32 offset = 0; offset < 0x1000; offset += 0x10) {
        page[offset / 4] = 0x11110000 | offset;
        page[offset / 4 + 1] = 0x22220000 | offset;
    }
    /* All of them are read from the page, even those that no APIC has. */
    static const u32 some[] = { 0x20, 0x80, 0xe0, 0x100, 0x300, 0x3f0, 0x400, 0xff0 };
    for (unsigned i = 0; i < ARRAY_LEN(some); i++) {
        start_msr(vm, &l2_keep_msr, some[i], 0);
        vm_expect_done(vm);
        check_equal("EAX", (u32)vm->regs.si, 0x11110000 | some[i]);
        check_equal("EDX", (u32)vm->regs.di, 0x22220000 | some[i]);
    }
}

TEST("vapic", x2apic_interrupts, "vapic-x2apic-interrupts", TEST_EPT)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    u32 *page = use_x2apic(vm, CPU2_VIRTUAL_INTERRUPTS);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    row("self IPI");
    start_msr(vm, &l2_write_msr, 0x3f0, VECTOR);
    vm_expect_done(vm);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), VECTOR);
    check_equal("VIRR", page[(APIC_IRR + VECTOR / 32 * 16) / 4], BIT(VECTOR % 32));
    row("self IPI with a vector that is not one");
    start_msr(vm, &l2_write_msr, 0x3f0, 0xf);
    vm_expect(vm, REASON_APIC_WRITE);
    check_equal("qualification", vm->qualification, 0x3f0);
    row("end of interrupt");
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, VECTOR << 8);
    page[(APIC_ISR + VECTOR / 32 * 16) / 4] = BIT(VECTOR % 32);
    start_msr(vm, &l2_write_msr, APIC_EOI, 0);
    vm_expect_done(vm);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), 0);
    check_equal("VISR", page[(APIC_ISR + VECTOR / 32 * 16) / 4], 0);
    row("reserved bits");
    start_msr(vm, &l2_write_msr, APIC_EOI, 1);
    expect_general_protection(vm);
    start_msr(vm, &l2_write_msr, 0x3f0, 0x100 | VECTOR);
    expect_general_protection(vm);
}

/* ---- Virtual interrupts ---- */

static void request(u32 *page, u8 vector)
{
    page[(APIC_IRR + vector / 32 * 16) / 4] |= BIT(vector % 32);
    if ((vmread(VMCS_GUEST_INTERRUPT_STATUS) & 0xff) < vector)
        vmwrite(VMCS_GUEST_INTERRUPT_STATUS,
                (vmread(VMCS_GUEST_INTERRUPT_STATUS) & 0xff00) | vector);
}

static bool is_set(const u32 *page, u32 block, u8 vector)
{
    return page[(block + vector / 32 * 16) / 4] & BIT(vector % 32);
}

L2_CODE(l2_nothing, "", "nop; nop");
L2_CODE(l2_sti, "", "sti; nop; nop");
L2_CODE(l2_sti_hlt, "", "sti; hlt; nop");
L2_CODE(l2_lower, "sti; movl $0, 0x80(" BX ")", "nop");

static void start(struct vm *vm, const struct code *code, bool on)
{
    vm_start(vm, code->start, 0);
    vm->regs.bx = NOTE_PAGE;
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | (on ? RFLAGS_IF : 0));
}

static void check_service(struct vm *vm, const u32 *page, u8 vector, u8 next)
{
    vm_expect_trap(vm, vector);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), vector << 8 | next);
    check(is_set(page, APIC_ISR, vector), "in service");
    check(!is_set(page, APIC_IRR, vector), "no longer requested");
    check_equal("VPPR", page[APIC_PPR / 4], vector & 0xf0);
}

static void forget(u32 *page)
{
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0);
    for (unsigned i = 0; i < PAGE_SIZE / 4; i++)
        page[i] = 0;
}

TEST("vapic", delivered, "virtual-interrupt", TEST_EPT)
{
    u32 *page = use_interrupts(vm, 0);
    l2_use_idt(vm);
    row("at the entry");
    request(page, LOW_VECTOR);
    request(page, VECTOR);
    start(vm, &l2_nothing, true);
    check_service(vm, page, VECTOR, LOW_VECTOR);
    row("interrupts off");
    forget(page);
    request(page, VECTOR);
    start(vm, &l2_nothing, false);
    vm_expect_done(vm);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), VECTOR);
    row("interrupts on again: behind the shadow of STI");
    start(vm, &l2_sti, false);
    vm_expect_trap(vm, VECTOR);
    check_equal("pushed IP", l2_read_frame(vm, VECTOR).ip, (word)l2_sti.at + 2);
    row("while halted");
    forget(page);
    request(page, VECTOR);
    start(vm, &l2_sti_hlt, false);
    check_service(vm, page, VECTOR, 0);
    row("entered halted");
    forget(page);
    request(page, VECTOR);
    start(vm, &l2_nothing, true);
    vmwrite(VMCS_GUEST_ACTIVITY, 1);
    check_service(vm, page, VECTOR, 0);
    vmwrite(VMCS_GUEST_ACTIVITY, 0);
    row("one of higher priority in service");
    forget(page);
    request(page, VECTOR);
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, HIGH_VECTOR << 8 | VECTOR);
    start(vm, &l2_nothing, true);
    vm_expect_done(vm);
    row("an interrupt window is wanted");
    forget(page);
    request(page, VECTOR);
    start(vm, &l2_nothing, true);
    vm_control(vm, CPU, CPU_INTERRUPT_WINDOW, 0);
    vm_expect(vm, REASON_INTERRUPT_WINDOW);
}

TEST("vapic", priority, "virtual-interrupt-tpr", TEST_EPT)
{
    u32 *page = use_interrupts(vm, CPU2_APIC_ACCESSES);
    l2_use_idt(vm);
    row("masked by the TPR");
    page[APIC_TPR / 4] = VECTOR & 0xf0;
    request(page, VECTOR);
    start(vm, &l2_nothing, true);
    vm_expect_done(vm);
    check_equal("VPPR", page[APIC_PPR / 4], VECTOR & 0xf0);
    row("TPR lowered");
    start(vm, &l2_lower, false);
    check_service(vm, page, VECTOR, 0);
    check_equal("pushed IP", l2_read_frame(vm, VECTOR).ip, (word)l2_lower.at);
}

L2_CODE(l2_send_self, "sti; movl $0x40072, 0x300(" BX ")", "nop");
L2_CODE(l2_send_other, "", "movl $0x000c0072, 0x300(" BX ")");
L2_CODE(l2_end, "", "movl $5, 0xb0(" BX ")");

TEST("vapic", self, "virtual-interrupt-self-ipi", TEST_EPT)
{
    u32 *page = use_interrupts(vm, CPU2_APIC_ACCESSES);
    l2_use_idt(vm);
    row("to itself");
    start(vm, &l2_send_self, false);
    check_service(vm, page, VECTOR, 0);
    row("to others");
    start(vm, &l2_send_other, false);
    vm_expect(vm, REASON_APIC_WRITE);
    check_equal("qualification", vm->qualification, APIC_ICR_LOW);
    check_equal("IP", vm->ip, (word)l2_send_other.next);
}

TEST("vapic", eoi, "virtual-interrupt-eoi", TEST_EPT)
{
    u32 *page = use_interrupts(vm, CPU2_APIC_ACCESSES);
    l2_use_idt(vm);
    row("the next in service");
    page[(APIC_ISR + LOW_VECTOR / 32 * 16) / 4] |= BIT(LOW_VECTOR % 32);
    page[(APIC_ISR + HIGH_VECTOR / 32 * 16) / 4] |= BIT(HIGH_VECTOR % 32);
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, HIGH_VECTOR << 8);
    start(vm, &l2_end, false);
    vm_expect_done(vm);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), LOW_VECTOR << 8);
    check(!is_set(page, APIC_ISR, HIGH_VECTOR), "no longer in service");
    check_equal("VEOI", page[APIC_EOI / 4], 0);
    check_equal("VPPR", page[APIC_PPR / 4], LOW_VECTOR & 0xf0);
    row("the next requested");
    request(page, VECTOR);
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, HIGH_VECTOR << 8 | VECTOR);
    start(vm, &l2_end, true);
    vm_expect_trap(vm, VECTOR);
    row("wanted by the hypervisor");
    forget(page);
    vmwrite(VMCS_GUEST_INTERRUPT_STATUS, VECTOR << 8);
    vmwrite(VMCS_EOI_EXIT_1, BIT64(VECTOR % 64));
    start(vm, &l2_end, false);
    vm_expect(vm, REASON_EOI);
    check_equal("qualification", vm->qualification, VECTOR);
    check_equal("IP", vm->ip, (word)l2_end.next);
    vmwrite(VMCS_EOI_EXIT_1, 0);
}

/* ---- Posted interrupts ---- */

static void l2_notify(word vector)
{
    apic_send_self((u8)vector);
    for (unsigned i = 0; i < LONG_ENOUGH; i++)
        cpu_pause();
}

struct descriptor {
    u32 requests[8], flags, unused[7];
};

static struct descriptor *use_posting(struct vm *vm)
{
    vm_needs(PIN, PIN_POSTED_INTERRUPTS);
    vm_needs(EXIT, EXIT_ACK_INTERRUPT);
    struct descriptor *posted = (struct descriptor *)((u8 *)page_alloc() + 0x140);
    vmwrite(VMCS_POSTED_INTERRUPT_VECTOR, NOTIFICATION);
    vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR, physical(posted));
    vm_control(vm, PIN, PIN_POSTED_INTERRUPTS, 0);
    vm_control(vm, EXIT, EXIT_ACK_INTERRUPT, 0);
    return posted;
}

static void start_notify(struct vm *vm, u8 vector, bool on)
{
    vm_give_apic(vm);
    vm_start(vm, l2_notify, vector);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | (on ? RFLAGS_IF : 0));
}

TEST("vapic", posted, "posted-interrupt", TEST_EPT)
{
    u32 *page = use_interrupts(vm, 0);
    struct descriptor *posted = use_posting(vm);
    l2_use_idt(vm);
    row("taken");
    posted->requests[VECTOR / 32] = BIT(VECTOR % 32);
    posted->requests[LOW_VECTOR / 32] |= BIT(LOW_VECTOR % 32);
    posted->flags = 1;
    start_notify(vm, NOTIFICATION, true);
    check_service(vm, page, VECTOR, LOW_VECTOR);
    check_equal("requests", posted->requests[VECTOR / 32], 0);
    check_equal("outstanding notification", posted->flags, 0);
    check(!apic_is_pending(NOTIFICATION), "the notification has been taken");
    row("interrupts off");
    forget(page);
    posted->requests[VECTOR / 32] = BIT(VECTOR % 32);
    posted->flags = 3; /* the bit next to it is software's */
    start_notify(vm, NOTIFICATION, false);
    vm_expect_done(vm);
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), VECTOR);
    check_equal("outstanding notification", posted->flags, 2);
    row("nothing posted");
    forget(page);
    start_notify(vm, NOTIFICATION, true);
    vm_expect_done(vm);
    row("another vector");
    start_notify(vm, NOTIFICATION + 1, true);
    vm_expect(vm, REASON_EXTINT);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_EXTERNAL | (NOTIFICATION + 1));
    apic_end_of_interrupt();
}

/* Another processor posts while L2 runs here. */
struct posting {
    volatile u32 running; /* L2 says so */
    u32 target;
    struct descriptor *posted;
};

static void l2_wait(word arg)
{
    struct posting *posting = (void *)arg;
    posting->running = 1;
    for (unsigned i = 0; i < 100 * LONG_ENOUGH; i++)
        cpu_pause();
}

static void post_when_running(struct vm *vm __attribute__((unused)), void *arg)
{
    struct posting *posting = arg;
    for (unsigned i = 0; i < 100 * LONG_ENOUGH && !posting->running; i++)
        cpu_pause();
    posting->posted->requests[VECTOR / 32] |= BIT(VECTOR % 32);
    posting->posted->flags = 1;
    apic_send(posting->target, NOTIFICATION);
}

TEST("vapic", posted_by_other, "posted-interrupt-by-other", TEST_EPT | TEST_PAIR)
{
    u32 *page = use_interrupts(vm, 0);
    struct posting *posting = (void *)vm->shared;
    posting->running = 0;
    posting->target = this_cpu()->apic_id;
    posting->posted = use_posting(vm);
    l2_use_idt(vm);
    struct pair pair = { .work = post_when_running, .arg = posting };
    pair_begin(&pair);
    vm_start(vm, l2_wait, (word)posting);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vm_run(vm);
    pair_end(&pair);
    check(is_trap(vm, VECTOR), "L2's handler began");
    check_equal("interrupt status", vmread(VMCS_GUEST_INTERRUPT_STATUS), VECTOR << 8);
    check(is_set(page, APIC_ISR, VECTOR), "in service");
    check_equal("requests", posting->posted->requests[VECTOR / 32], 0);
    check_equal("outstanding notification", posting->posted->flags, 0);
}
