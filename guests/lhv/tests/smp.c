/*
 * Two processors: shared EPTs and their shootdown, VMCSs that move, events sent to the processor
 * that runs L2.
 *
 * Where one processor waits for the other, it does so in a loop with an end; a test that met it
 * says so and still comes to an orderly end, so that the other processor does, too.
 */
#include "pc/apic.h"
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/pair.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { PATIENCE = 20000000, VECTOR_FLUSH = VECTOR_TEST + 2, VALUE = sizeof(word) };

/* Wait until a counter has reached a value. */
static bool reaches(const volatile word *counter, word value, const char *what)
{
    for (unsigned i = 0; i < PATIENCE; i++) {
        if (*counter >= value)
            return true;
        cpu_pause();
    }
    return check(false, what);
}

/* ---- one EPT for two processors, changed by one while L2 runs on the other ---- */

/* In a page that both processors and both L2s see. */
struct watch {
    struct ept *ept;        /* this processor's, also used by the other */
    volatile word count;    /* rounds of the other's L2 */
    volatile word seen;     /* what it read last */
    volatile word stop;     /* tells it to end */
    volatile word requests; /* flushes that were asked for */
    volatile word flushes;  /* and done */
    volatile word violations;
    volatile word resume; /* violations after which L2 may go on */
};

/* The L2 of the other processor reads, or writes, the page all the time. */
static void l2_read_loop(struct watch *watch)
{
    while (!watch->stop) {
        watch->seen = *(volatile word *)(NOTE_PAGE + VALUE);
        watch->count++;
    }
}

static void l2_write_loop(struct watch *watch)
{
    while (!watch->stop) {
        *(volatile word *)(NOTE_PAGE + 64) = watch->count;
        watch->count++;
    }
}

/* The hypervisor's part of a shootdown: INVEPT, then say so. */
static void flush_if_asked(struct watch *watch)
{
    interrupts_take();
    word requests = watch->requests;
    if (watch->flushes == requests)
        return;
    ept_invalidate(watch->ept);
    watch->flushes = requests;
}

/* L2 met a violation: it goes on when the page is back. */
static void wait_for_page(struct watch *watch)
{
    watch->violations++;
    while (watch->resume < watch->violations && !watch->stop)
        flush_if_asked(watch);
}

static void run_watched(struct vm *vm, struct watch *watch, void (*code)(struct watch *))
{
    vm_reset(vm);
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    ept_invalidate(watch->ept); /* it is another processor's */
    vm_use_ept(watch->ept);
    vm_start(vm, code, (word)watch);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    for (;;) {
        vm_run(vm);
        if (vm->reason == REASON_EXTINT) {
            flush_if_asked(watch);
        } else if (vm->reason == REASON_EPT_VIOLATION) {
            wait_for_page(watch);
            if (watch->stop)
                return;
        } else {
            break;
        }
    }
    if (vm->reason != REASON_VMCALL)
        vm_expect_done(vm); /* reports what it was */
}

static void watch_reads(struct vm *vm, void *arg) { run_watched(vm, arg, l2_read_loop); }
static void watch_writes(struct vm *vm, void *arg) { run_watched(vm, arg, l2_write_loop); }

static struct watch *watch_begin(struct vm *vm, struct pair *pair)
{
    struct watch *watch = (void *)vm->shared;
    vm_needs(PIN, PIN_EXTINT_EXITING);
    watch->ept = &vm->ept;
    pair->arg = watch;
    pair_begin(pair);
    return watch;
}

static void watch_end(struct watch *watch, struct pair *pair)
{
    watch->stop = 1;
    pair_end(pair);
}

/* The remote half of a shootdown: ask, interrupt, wait for the answer.  Only then is the old entry
   out of use. */
static bool shootdown(struct watch *watch)
{
    ept_invalidate(watch->ept);
    watch->requests++;
    apic_send(pair_other()->apic_id, VECTOR_FLUSH);
    return reaches(&watch->flushes, watch->requests, "the other processor flushed");
}

/* L2 over there has made two whole rounds since. */
static bool two_rounds(struct watch *watch)
{
    return reaches(&watch->count, watch->count + 2, "L2 runs on the other processor");
}

TEST("smp", remap, "smp-shootdown-remap", TEST_EPT | TEST_PAIR)
{
    struct pair pair = { .work = watch_reads };
    void *pages[2] = { access_page(0xf0), access_page(0xf1) };
    ept_map(&vm->ept, NOTE_PAGE, physical(pages[0]), 1, EPT_RWX | EPT_WB);
    struct watch *watch = watch_begin(vm, &pair);
    bool alive = two_rounds(watch);
    check_equal("read by L2 at first", watch->seen, 0xf0);
    for (unsigned round = 1; round <= 6 && alive; round++) {
        ept_map(&vm->ept, NOTE_PAGE, physical(pages[round % 2]), 1, EPT_RWX | EPT_WB);
        alive = shootdown(watch) && two_rounds(watch);
        check_equal("read by L2 after the shootdown", watch->seen, 0xf0 + round % 2);
    }
    watch_end(watch, &pair);
}

TEST("smp", unmap, "smp-shootdown-unmap", TEST_EPT | TEST_PAIR)
{
    struct pair pair = { .work = watch_writes };
    word *page = access_page(0);
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    struct watch *watch = watch_begin(vm, &pair);
    bool alive = two_rounds(watch);
    for (unsigned round = 1; round <= 4 && alive; round++) {
        u32 left = round % 2 ? 0 : EPT_READ; /* all rights go, or that to write */
        ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, left | EPT_WB);
        alive = shootdown(watch);
        page[64 / sizeof(word)] = (word)-1; /* ours alone now */
        alive = alive && reaches(&watch->violations, round, "L2 met the violation");
        check_equal("not written by L2", page[64 / sizeof(word)], (word)-1);
        ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB); /* no flush needed */
        watch->resume = round;
        alive = alive && two_rounds(watch);
        check(page[64 / sizeof(word)] != (word)-1, "written by L2 again");
    }
    watch_end(watch, &pair);
}

/* ---- one EPT, violations on both processors ---- */

struct share {
    struct ept *ept;
    void *pages[8];
};

/* Each processor maps every second page when its L2 meets the violation. */
static void touch_pages(struct vm *vm, const struct share *share, unsigned first)
{
    for (unsigned i = first; i < ARRAY_LEN(share->pages); i += 2) {
        word address = NOTE_PAGE + i * PAGE_SIZE + VALUE;
        start_access(vm, READ, address);
        expect_violation(vm, VIOLATION_READ, 0, address, address);
        ept_map(share->ept, NOTE_PAGE + i * PAGE_SIZE, physical(share->pages[i]), 1,
                EPT_RWX | EPT_WB);
        vm_expect_done(vm);
        check_equal("read by L2", read_value(vm), 0x100 + i);
    }
}

static void touch_odd_pages(struct vm *vm, void *arg)
{
    const struct share *share = arg;
    vm_reset(vm);
    ept_invalidate(share->ept);
    vm_use_ept(share->ept);
    touch_pages(vm, share, 1);
}

TEST("smp", share, "smp-share-ept", TEST_EPT | TEST_PAIR)
{
    struct share *share = (void *)vm->shared;
    struct pair pair = { .work = touch_odd_pages, .arg = share };
    share->ept = &vm->ept;
    for (unsigned i = 0; i < ARRAY_LEN(share->pages); i++)
        share->pages[i] = access_page(0x100 + i);
    ept_entry(&vm->ept, NOTE_PAGE,
              1); /* the tables above, before two processors want to add them */
    pair_begin(&pair);
    for (unsigned i = 0; i < ARRAY_LEN(share->pages); i += 2) {
        word address = NOTE_PAGE + i * PAGE_SIZE + VALUE;
        start_access(vm, READ, address);
        if (vm_run(vm) == REASON_EPT_VIOLATION)
            ept_map(&vm->ept, NOTE_PAGE + i * PAGE_SIZE, physical(share->pages[i]), 1,
                    EPT_RWX | EPT_WB);
        if (vm_run(vm) != REASON_VMCALL)
            fail("L2 did not come to its end");
        check_equal("read by L2", read_value(vm), 0x100 + i);
    }
    pair_end(&pair);
}

/* The mapping that L2 misses here is made by the other processor: no INVEPT is needed for it. */
static void map_for_other(struct vm *vm __attribute__((unused)), void *arg)
{
    struct share *share = arg;
    ept_map(share->ept, NOTE_PAGE, physical(share->pages[0]), 1, EPT_RWX | EPT_WB);
}

TEST("smp", map_by_other, "smp-mapped-by-other", TEST_EPT | TEST_PAIR)
{
    struct share *share = (void *)vm->shared;
    share->ept = &vm->ept;
    share->pages[0] = access_page(0x110);
    ept_entry(&vm->ept, NOTE_PAGE, 1);
    start_access(vm, READ, NOTE_PAGE + VALUE);
    expect_violation(vm, VIOLATION_READ, 0, NOTE_PAGE + VALUE, NOTE_PAGE + VALUE);
    pair_call(map_for_other, share);
    vm_expect_done(vm);
    check_equal("read by L2", read_value(vm), 0x110);
}

/* ---- each processor its own EPT for the same addresses, at the same time ---- */

static void run_own(struct vm *vm, word value)
{
    ept_map(&vm->ept, NOTE_PAGE, physical(access_page(value)), 1, EPT_RWX | EPT_WB);
    for (unsigned i = 0; i < 50; i++)
        check_equal("read by L2", l2_reads(vm, NOTE_PAGE + VALUE), value);
}

static void run_own_here(struct vm *vm, void *arg __attribute__((unused)))
{
    vm_reset(vm);
    run_own(vm, 0x121);
}

TEST("smp", own_roots, "smp-own-epts", TEST_EPT | TEST_PAIR)
{
    struct pair pair = { .work = run_own_here };
    u64 page = physical(access_page(0x120));
    ept_map(&vm->ept, NOTE_PAGE, page, 1, EPT_RWX | EPT_WB);
    pair_begin(&pair);
    for (unsigned i = 0; i < 50; i++) {
        start_access(vm, READ, NOTE_PAGE + VALUE);
        if (vm_run(vm) != REASON_VMCALL)
            fail("L2 did not come to its end");
        check_equal("read by L2", read_value(vm), 0x120);
    }
    pair_end(&pair);
}

/* ---- a VMCS moves from processor to processor: VMCLEAR here, VMPTRLD there ---- */

L2_CODE(l2_loop, "", "1: inc " BX "; cpuid; jmp 1b");

struct move {
    struct vm *vm; /* the first processor's */
    word count;
};

static void continue_here(struct vm *vm, void *arg)
{
    struct move *move = arg;
    vm_reset(vm);
    vm->regs = move->vm->regs;
    if (may_set(CPU2, CPU2_EPT))
        ept_invalidate(&move->vm->ept);
    vmclear(physical(vm->vmcs));
    vmptrld(physical(move->vm->vmcs));
    vm_load_host(vm);
    vm->launched = false;
    for (unsigned i = 0; i < 3; i++) {
        vm_expect(vm, REASON_CPUID);
        check_equal("count", vm->regs.bx, ++move->count);
        vm_skip(vm);
    }
    vmclear(physical(move->vm->vmcs));
    move->vm->regs = vm->regs;
}

TEST("smp", move, "smp-vmcs-moves", TEST_PAIR)
{
    struct move move = { .vm = vm };
    vm_start(vm, l2_loop.start, 0);
    vm->regs.bx = 0;
    for (unsigned round = 0; round < 3; round++) {
        vm_expect(vm, REASON_CPUID);
        check_equal("count", vm->regs.bx, ++move.count);
        vm_skip(vm);
        vmclear(physical(vm->vmcs));
        pair_call(continue_here, &move);
        vmptrld(physical(vm->vmcs));
        vm_load_host(vm);
        vm->launched = false;
    }
}

/* ---- events from the other processor ---- */

struct event {
    volatile word running; /* counts rounds of L2 */
    volatile word over;
    u32 target;
    void (*send)(u32 apic_id);
};

static void l2_spin(struct event *event)
{
    for (unsigned i = 0; i < PATIENCE && !event->over; i++) {
        event->running++;
        cpu_pause();
    }
}

static void send_when_running(struct vm *vm __attribute__((unused)), void *arg)
{
    struct event *event = arg;
    if (reaches(&event->running, 2, "L2 runs"))
        event->send(event->target);
}

/* L2 runs here until the event, which the other processor sends, makes it exit. */
static void run_until_event(struct vm *vm, void (*send)(u32), u32 reason)
{
    struct event *event = (void *)vm->shared;
    struct pair pair = { .work = send_when_running, .arg = event };
    event->target = this_cpu()->apic_id;
    event->send = send;
    pair_begin(&pair);
    vm_start(vm, l2_spin, (word)event);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vm_run(vm);
    pair_end(&pair);
    if (!check_equal("exit reason", vm->reason, reason)) {
        vm_describe(vm);
        test_abort();
    }
    event->over = 1;
}

static void send_interrupt(u32 target) { apic_send(target, VECTOR_FLUSH); }

TEST("smp", interrupt, "smp-interrupt-exit", TEST_PAIR)
{
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    run_until_event(vm, send_interrupt, REASON_EXTINT);
    u32 before = this_cpu()->interrupts[VECTOR_FLUSH];
    interrupts_take();
    check_equal("interrupts that lhv took", this_cpu()->interrupts[VECTOR_FLUSH] - before, 1);
    vm_expect_done(vm);
}

TEST("smp", nmi, "smp-nmi-exit", TEST_PAIR)
{
    vm_needs(PIN, PIN_NMI_EXITING);
    vm_control(vm, PIN, PIN_NMI_EXITING, 0);
    run_until_event(vm, apic_send_nmi, REASON_EXCEPTION);
    check_equal("interruption information", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_NMI | EXC_NMI);
    nmi_unblock();
    vm_expect_done(vm);
}

/* L2 waits for a start-up IPI.  Those that come before it does are lost: the other sends many. */
enum { STARTUP_VECTOR = 0x9a, MISC_WAIT_SIPI = BIT(8) };

static void send_startups(struct vm *vm __attribute__((unused)), void *arg)
{
    struct event *event = arg;
    for (unsigned i = 0; i < 2000 && !event->over; i++) {
        apic_send_startup(event->target, STARTUP_VECTOR);
        for (unsigned k = 0; k < 1000; k++)
            cpu_pause();
    }
}

TEST("smp", sipi, "smp-sipi-exit", TEST_PAIR)
{
    if (!(caps.misc & MISC_WAIT_SIPI))
        skip("no activity state \"wait for SIPI\"");
    struct event *event = (void *)vm->shared;
    struct pair pair = { .work = send_startups, .arg = event };
    event->target = this_cpu()->apic_id;
    pair_begin(&pair);
    vm_start(vm, l2_spin, (word)event);
    vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI);
    vm_run(vm);
    event->over = 1;
    pair_end(&pair);
    check_equal("exit reason", vm->reason, REASON_SIPI);
    check_equal("qualification", vm->qualification, STARTUP_VECTOR);
}

/* ---- INIT, which exits from L2 and does nothing else; last, because of what it does to processors
   that see it differently ---- */

TEST("smp", init, "smp-init-exit", TEST_PAIR)
{
    run_until_event(vm, apic_send_init, REASON_INIT);
    check_equal("qualification", vm->qualification, 0);
    vm_expect_done(vm); /* once only */
}

/* In VMX root operation INIT is held back, also while lhv halts; the next entry exits at once. */
L2_CODE(l2_nop, "", "nop");

static void send_init(struct vm *vm __attribute__((unused)), void *arg)
{
    apic_send_init(((struct cpu *)arg)->apic_id);
}

TEST("smp", init_root, "smp-init-held-in-root-operation", TEST_PAIR)
{
    pair_call(send_init, this_cpu());
    vm_start(vm, l2_nop.start, 0);
    vm_expect(vm, REASON_INIT);
    check_equal("IP", vm->ip, (word)l2_nop.start);
    vm_expect_done(vm);
}
