/*
 * Mistakes of whoever changes an EPT that several processors use.  The other processor's L2 reads
 * NOTE_PAGE all the time; this processor takes the page away and gives it to an L2 of its own, which
 * keeps a secret there.
 *
 * The other processor's hypervisor looks for requests whenever its L2 exits, as many do that cannot
 * be interrupted at any time; so a request is answered some time later.
 */
#include "test/pair.h"
#include "x86/cpu.h"
#include "x86/instructions.h"
#include "zoo.h"

enum { ROUNDS_TO_EXIT = 1000 };

/* In a page that both processors and their L2s see. */
struct watch {
    struct ept *ept;          /* under which the other's L2 runs */
    volatile word rounds;     /* of the other's L2 */
    volatile word seen;       /* what it read last */
    volatile word leaks;      /* how often it has read the secret */
    volatile word stop;       /* tells it to end */
    volatile word requests;   /* flushes that were asked for, */
    volatile word flushes;    /* and done */
    volatile word violations; /* the other's L2 has met */
    volatile u32 users;       /* a bit for each processor whose L2 uses the EPT */
};

static bool reaches(const volatile word *counter, word value)
{
    for (unsigned i = 0; i < PATIENCE; i++) {
        if (*counter >= value)
            return true;
        cpu_pause();
    }
    return check(false, "the other processor goes on");
}

/* ---- the other processor ---- */

static void l2_watch(struct watch *watch)
{
    while (!watch->stop) {
        watch->seen = *(volatile word *)PAGE_VALUE;
        if (watch->seen == SECRET)
            watch->leaks++;
        if (++watch->rounds % ROUNDS_TO_EXIT == 0)
            cpuid(0, 0);
    }
}

static void serve(struct watch *watch)
{
    word requests = watch->requests;
    if (watch->flushes == requests)
        return;
    ept_invalidate(watch->ept);
    watch->flushes = requests;
}

static void run_watch(struct vm *vm, void *arg)
{
    struct watch *watch = arg;
    vm_reset(vm);
    ept_invalidate(watch->ept); /* it is another processor's */
    vm_use_ept(watch->ept);
    vm_start(vm, l2_watch, (word)watch);
    watch->users |= BIT(this_cpu()->index);
    while (vm_run(vm) == REASON_CPUID) {
        serve(watch);
        vm_skip(vm);
    }
    if (vm->reason != REASON_EPT_VIOLATION) {
        if (vm->reason != REASON_VMCALL)
            vm_expect_done(vm); /* says what it was */
        return;
    }
    watch->violations++;
    while (!watch->stop) {
        serve(watch);
        cpu_pause();
    }
}

/* ---- this processor ---- */

static struct watch *begin(struct vm *vm, struct pair *pair, struct ept *ept)
{
    struct watch *watch = (void *)vm->shared;
    watch->ept = ept;
    watch->users = BIT(this_cpu()->index);
    pair->work = run_watch;
    pair->arg = watch;
    pair_begin(pair);
    reaches(&watch->rounds, 2);
    return watch;
}

/* The other L2 has gone on for a while, or has met the violation. */
static void let_it_run(struct watch *watch)
{
    word rounds = watch->rounds + ROUNDS_TO_EXIT + 2;
    for (unsigned i = 0; i < PATIENCE; i++) {
        if (watch->rounds >= rounds || watch->violations)
            return;
        cpu_pause();
    }
}

static void end(struct watch *watch, struct pair *pair)
{
    let_it_run(watch);
    watch->stop = 1;
    pair_end(pair);
    if (watch->leaks)
        fail("L2 on the other processor has read the secret of a page that was taken away");
}

/* The new owner of the page; L1 gives it the page's own address. */
static void l2_keeps_secret(volatile word *page) { page[VALUE / sizeof(word)] = SECRET; }

static void hand_over(struct vm *vm, word *page)
{
    vm_start(vm, l2_keeps_secret, (word)page);
    vm_expect_done(vm);
}

static void request(struct watch *watch) { watch->requests++; }
static void wait_for_flush(struct watch *watch) { reaches(&watch->flushes, watch->requests); }

static void needs_other(void)
{
    if (pair_other() == this_cpu())
        skip("needs two processors");
}

/* TrustVisor's: INVEPT here, and none there. */
SCENARIO(no_shootdown, "shrink-without-remote-invept")
{
    struct pair pair;
    needs_other();
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    struct watch *watch = begin(vm, &pair, &vm->ept);
    ept_write(ept_entry(&vm->ept, NOTE_PAGE, 1), 0);
    ept_invalidate(&vm->ept);
    if (!faulty) {
        request(watch);
        wait_for_flush(watch);
    }
    hand_over(vm, page);
    end(watch, &pair);
}

/* The request is made, and the answer comes; but the page has changed hands before. */
SCENARIO(early, "handed-over-before-shootdown")
{
    struct pair pair;
    needs_other();
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    struct watch *watch = begin(vm, &pair, &vm->ept);
    ept_write(ept_entry(&vm->ept, NOTE_PAGE, 1), 0);
    ept_invalidate(&vm->ept);
    request(watch);
    if (faulty)
        hand_over(vm, page);
    wait_for_flush(watch);
    if (!faulty)
        hand_over(vm, page);
    end(watch, &pair);
}

/* Whom to wait for: a bit too few in a mask, and the loop ends at once. */
SCENARIO(nobody, "shootdown-waits-for-nobody")
{
    struct pair pair;
    needs_other();
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    struct watch *watch = begin(vm, &pair, &vm->ept);
    ept_write(ept_entry(&vm->ept, NOTE_PAGE, 1), 0);
    ept_invalidate(&vm->ept);
    request(watch);
    u32 own = BIT(this_cpu()->index);
    u32 waited_for = faulty ? watch->users & own & ~own : watch->users & ~own;
    if (waited_for)
        wait_for_flush(watch);
    hand_over(vm, page);
    end(watch, &pair);
}

/* L0 takes the page from L1, on every processor, and writes the secret itself. */
SCENARIO(taken, "page-taken-by-l0")
{
    struct pair pair;
    needs_other();
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    struct watch *watch = begin(vm, &pair, &vm->ept);
    call_l0(CALL_TAKE, physical(page), SECRET);
    end(watch, &pair);
}

/* ---- one root for each processor, with copied upper levels ---- */

/* Copies of the root and of the first table below it at each level down to that of 2-MiB entries. */
static void copy_upper_levels(struct ept *copy, const struct ept *ept)
{
    ept_create(copy);
    const u64 *from = ept->root;
    u64 *to = copy->root;
    for (unsigned level = 4; level >= 2; level--) {
        for (unsigned i = 0; i < 512; i++)
            to[i] = from[i];
        if (level == 2)
            break;
        from = (const u64 *)(word)(from[0] & EPT_ADDRESS);
        u64 *below = page_alloc();
        to[0] = physical(below) | EPT_RWX;
        to = below;
    }
}

SCENARIO(one_root, "one-root-of-two-changed")
{
    struct pair pair;
    struct ept copy;
    needs_other();
    word *page = access_page(OLD);
    show(vm, page, EPT_RWX);
    copy_upper_levels(&copy, &vm->ept);
    struct watch *watch = begin(vm, &pair, &copy);
    ept_write(ept_entry(&vm->ept, NOTE_PAGE, 2), 0);
    if (!faulty)
        ept_write(ept_entry(&copy, NOTE_PAGE, 2), 0);
    ept_invalidate(&vm->ept);
    request(watch);
    wait_for_flush(watch);
    hand_over(vm, page);
    end(watch, &pair);
}

/* ---- an entry that is written in two halves ---- */

enum { LOW_PAGE = 0x02000000 };
#define HIGH_PAGE 0x102000000ull

struct torn {
    struct ept *ept;
    volatile word violations, done, finished, value;
};

/* L2 wants the page until it is there, and once more when the entry is finished. */
static void read_when_there(struct vm *vm, void *arg)
{
    struct torn *torn = arg;
    vm_reset(vm);
    ept_invalidate(torn->ept);
    vm_use_ept(torn->ept);
    start_access(vm, READ, NOTE_PAGE);
    while (vm_run(vm) == REASON_EPT_VIOLATION && !torn->finished)
        torn->violations++;
    torn->done = 1;
    reaches(&torn->finished, 1);
    torn->value = l2_reads(vm, NOTE_PAGE);
}

/* What an L2 writes into a page above 4 GiB, where lhv itself has no linear addresses. */
static void write_high_page(struct vm *vm)
{
    ept_map(&vm->ept, NOTE_PAGE, HIGH_PAGE, 1, EPT_RWX | EPT_WB);
    l2_writes(vm, NOTE_PAGE);
    if ((u32)l2_reads(vm, NOTE_PAGE) != WRITTEN)
        skip("needs RAM above 4 GiB");
    ept_write(ept_entry(&vm->ept, NOTE_PAGE, 1), 0);
    ept_invalidate(&vm->ept);
}

SCENARIO(torn, "entry-written-in-halves")
{
    struct torn *torn = (void *)vm->shared;
    struct pair pair = { .work = read_when_there, .arg = torn };
    needs_other();
    write_high_page(vm);
    *(volatile word *)LOW_PAGE = OTHER;
    u64 entry = HIGH_PAGE | EPT_RWX | EPT_WB, *where = ept_entry(&vm->ept, NOTE_PAGE, 1);
    torn->ept = &vm->ept;
    pair_begin(&pair);
    reaches(&torn->violations, 2);
    if (faulty) {
        ((volatile u32 *)where)[0] = (u32)entry; /* something interrupts here */
        reaches(&torn->done, 1);
        ((volatile u32 *)where)[1] = (u32)(entry >> 32);
    } else {
        ept_write(where, entry);
        reaches(&torn->done, 1);
    }
    check_equal("read by L2", l2_reads(vm, NOTE_PAGE), WRITTEN);
    torn->finished = 1;
    pair_end(&pair);
    check_equal("read by L2 on the other processor", torn->value, WRITTEN);
}
