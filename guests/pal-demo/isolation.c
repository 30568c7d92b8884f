/*
 * Hostile code on all other processors reads and writes a PAL's pages, in L1 and in L2, before it is
 * registered, while it is, and after.  The generation is odd while it is: what happens between two
 * looks at the same odd generation has happened to a registered PAL.
 */
#include "lib/string.h"
#include "pc/smp.h"
#include "session.h"
#include "test/ept_cases.h"
#include "test/options.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "x86/cpu.h"
#include "x86/instructions.h"
#include "x86/try.h"

enum { ROUNDS = 2, GUARD_ROUNDS = 200, POISON = 0x60c3, SECRET = 0x5ec2e7 };

struct attack {
    u8 *base;
    volatile word generation, stop;
};

struct hostile {
    struct attack *attack;
    struct request request;
    volatile word tries, refused, reads, writes; /* the last two: of a registered PAL */
    volatile word ready;
    bool in_l2;
};

static struct attack attacks[MAX_CPUS];
static struct hostile hostiles[MAX_CPUS];

/* One access; true if it was not refused. */
typedef bool (*probe)(struct vm *vm, u8 *address);

static bool read_in_l1(struct vm *vm __attribute__((unused)), u8 *address)
{
    word value;
    try_begin();
    asm volatile(TRY("mov %1, %0") : "=r"(value) : "m"(*(word *)address) : "memory");
    return !try_result().happened;
}

static bool write_in_l1(struct vm *vm __attribute__((unused)), u8 *address)
{
    try_begin();
    asm volatile(TRY("mov %1, %0") : "=m"(*(word *)address) : "r"((word)POISON) : "memory");
    return !try_result().happened;
}

static bool probe_in_l2(struct vm *vm, enum access access, u8 *address)
{
    start_access(vm, access, (word)address);
    return vm_run(vm) == REASON_VMCALL;
}

static bool read_in_l2(struct vm *vm, u8 *address) { return probe_in_l2(vm, READ, address); }
static bool write_in_l2(struct vm *vm, u8 *address) { return probe_in_l2(vm, WRITE, address); }

static bool succeeds(struct hostile *hostile, struct vm *vm, probe access, u8 *address)
{
    word before = hostile->attack->generation;
    bool done = access(vm, address);
    hostile->tries++;
    hostile->refused += !done;
    return done && (before & 1) && hostile->attack->generation == before;
}

/* With a VPID, what L2 knows outlasts entries and exits: as much as may ever be kept. */
static void make_l2(struct vm *vm)
{
    vm_reset(vm);
    if (!may_set(CPU2, CPU2_VPID))
        return;
    vmwrite(VMCS_VPID, 7);
    vm_control(vm, CPU2, CPU2_VPID, 0);
}

/* Writes go where the PAL has nothing, so that those before its registration do not harm it. */
static void harass(void *arg)
{
    struct hostile *hostile = arg;
    struct vm *vm = this_cpu()->vm;
    probe read = hostile->in_l2 ? read_in_l2 : read_in_l1;
    probe write = hostile->in_l2 ? write_in_l2 : write_in_l1;
    if (hostile->in_l2)
        make_l2(vm);
    while (!hostile->attack->stop) {
        for (unsigned page = CODE_PAGE; page <= STACK_PAGE; page++) {
            u8 *at = hostile->attack->base + page * PAGE_SIZE;
            hostile->reads += succeeds(hostile, vm, read, at);
            hostile->reads += succeeds(hostile, vm, read, at + PAL_MARK);
            if (page != STACK_PAGE)
                hostile->writes += succeeds(hostile, vm, write, at + PAL_MARK);
        }
        hostile->ready++;
    }
}

static void begin(struct attack *attack, bool in_l2)
{
    for (unsigned i = 0; i < cpu_count; i++) {
        struct hostile *hostile = &hostiles[i];
        if (&cpus[i] == this_cpu())
            continue;
        memset(hostile, 0, sizeof *hostile);
        hostile->attack = attack;
        hostile->in_l2 = in_l2;
        hostile->request = (struct request){ .work = harass, .arg = hostile };
        smp_begin(&cpus[i], &hostile->request);
    }
}

/* Every other processor has looked at all pages since. */
static void let_all_look(void)
{
    for (unsigned i = 0; i < cpu_count; i++) {
        word seen = hostiles[i].ready;
        while (&cpus[i] != this_cpu() && hostiles[i].ready < seen + 2)
            cpu_pause();
    }
}

static void end(struct attack *attack)
{
    attack->stop = 1;
    for (unsigned i = 0; i < cpu_count; i++) {
        struct hostile *hostile = &hostiles[i];
        if (&cpus[i] == this_cpu())
            continue;
        smp_end(&hostile->request);
        check_equal("reads of a registered PAL", hostile->reads, 0);
        check_equal("writes to a registered PAL", hostile->writes, 0);
        check(hostile->refused > 0, "accesses were refused");
        check(hostile->refused < hostile->tries, "others were not");
    }
}

struct victim {
    struct pal pal;
    struct attack *attack;
    u32 registered, unregistered;
    word stored, loaded, marks[3];
    u8 buffer[PAL_BUFFER];
};
static struct victim victims[MAX_CPUS];

static void live(void *arg)
{
    struct victim *victim = arg;
    struct pal *pal = &victim->pal;
    victim->registered = pal_register(pal);
    if (victim->registered != TV_SUCCESS)
        return;
    victim->attack->generation++;
    victim->stored = pal_call(pal, PAL_STORE, SECRET, victim->buffer);
    victim->marks[0] = pal_call(pal, PAL_GUARD, 1, victim->buffer);
    let_all_look();
    victim->marks[1] = pal_call(pal, PAL_GUARD, GUARD_ROUNDS, victim->buffer);
    let_all_look();
    victim->marks[2] = pal_call(pal, PAL_GUARD, 1, victim->buffer);
    victim->loaded = pal_call(pal, PAL_LOAD, 0, victim->buffer);
    victim->attack->generation++;
    victim->unregistered = pal_unregister(pal);
}

static void check_isolation(struct vm *vm, const struct place *place, bool hostile_in_l2)
{
    struct victim *victim = &victims[this_cpu()->index];
    struct attack *attack = &attacks[this_cpu()->index];
    memset(victim, 0, sizeof *victim);
    memset(attack, 0, sizeof *attack);
    tv_begin();
    attack->base = pal_slot(this_cpu()->index, 0);
    victim->attack = attack;
    begin(attack, hostile_in_l2);
    for (unsigned round = 0; round < ROUNDS * options.seed; round++) {
        pal_prepare(&victim->pal, 0);
        let_all_look();
        place->run(vm, live, victim);
        check_equal("status of registration", victim->registered, TV_SUCCESS);
        check_equal("stored", victim->stored, SECRET);
        check_equal("loaded", victim->loaded, SECRET);
        check_equal("marks while it ran", victim->marks[1], victim->marks[0]);
        check_equal("marks at the end", victim->marks[2], victim->marks[0]);
        check_equal("status of unregistration", victim->unregistered, TV_SUCCESS);
    }
    end(attack);
}

enum { HARD = TEST_EPT | TEST_PAIR | TEST_ALONE };

TEST("isolation", l1_l1, "isolation-pal-l1-hostile-l1", HARD)
{
    check_isolation(vm, &places[0], false);
}
TEST("isolation", l1_l2, "isolation-pal-l1-hostile-l2", HARD)
{
    check_isolation(vm, &places[0], true);
}
TEST("isolation", l2_l1, "isolation-pal-l2-hostile-l1", HARD)
{
    check_isolation(vm, &places[1], false);
}
TEST("isolation", l2_l2, "isolation-pal-l2-hostile-l2", HARD)
{
    check_isolation(vm, &places[1], true);
}

/* ---- several processors call one PAL ---- */

enum { CALLS = 20 };

struct caller {
    const struct pal *pal;
    u8 buffer[PAL_BUFFER];
    word bad;
};
static struct caller callers[MAX_CPUS];
static struct request requests[MAX_CPUS];

static void add_often(void *arg)
{
    struct caller *caller = arg;
    for (unsigned i = 0; i < CALLS; i++)
        caller->bad += pal_call(caller->pal, PAL_ADD, 1, caller->buffer) > CALLS * cpu_count;
}

static void call_from_l1(void *arg) { in_l1(this_cpu()->vm, add_often, arg); }

static void call_from_l2(void *arg)
{
    struct vm *vm = this_cpu()->vm;
    vm_reset(vm);
    in_l2(vm, add_often, arg);
}

static void register_only(void *arg)
{
    struct victim *victim = arg;
    victim->registered = pal_register(&victim->pal);
}

static void check_concurrent(struct vm *vm, const struct place *place, void (*work)(void *))
{
    struct victim *victim = &victims[this_cpu()->index];
    unsigned own = this_cpu()->index;
    memset(victim, 0, sizeof *victim);
    tv_begin();
    pal_prepare(&victim->pal, 0);
    place->run(vm, register_only, victim);
    check_equal("status of registration", victim->registered, TV_SUCCESS);
    for (unsigned i = 0; i < cpu_count; i++) {
        callers[i] = (struct caller){ .pal = &victim->pal };
        requests[i] = (struct request){ .work = work, .arg = &callers[i] };
        if (i != own)
            smp_begin(&cpus[i], &requests[i]);
    }
    place->run(vm, add_often, &callers[own]);
    for (unsigned i = 0; i < cpu_count; i++)
        if (i != own)
            smp_end(&requests[i]);
    place->run(vm, add_often, &callers[own]);
    struct tv_record record;
    check_equal("PALs", tv_hypercall(TV_LIST, (word)&record, 1).value, 1);
    check_equal("calls", record.calls, CALLS * (cpu_count + 1));
    for (unsigned i = 0; i < cpu_count; i++)
        check_equal("sums that are too large", i == own ? 0 : callers[i].bad, 0);
    check_equal("status of unregistration", pal_unregister(&victim->pal), TV_SUCCESS);
}

TEST("pal", concurrent, "pal-concurrent-callers", HARD)
{
    check_concurrent(vm, &places[0], call_from_l1);
}
TEST("pal", concurrent_l2, "pal-concurrent-callers-l2", HARD)
{
    check_concurrent(vm, &places[1], call_from_l2);
}

/* ---- taking back what runs ---- */

enum { LONG_ROUNDS = 20000 };

static void run_long(void *arg)
{
    struct victim *victim = arg;
    victim->registered = pal_register(&victim->pal);
    victim->stored = pal_call(&victim->pal, PAL_GUARD, LONG_ROUNDS, victim->buffer);
}

struct thief {
    u32 status;
};

/* In ring 0, which may take any PAL: as soon as the PAL has been called. */
static void take(void *arg)
{
    struct thief *thief = arg;
    struct tv_record record = { .calls = 0 };
    while (!tv_hypercall(TV_LIST, (word)&record, 1).value || !record.calls)
        cpu_pause();
    thief->status = tv_hypercall(TV_UNREGISTER, record.id, 0).status;
}

TEST("pal", busy, "pal-busy", TEST_PAIR | TEST_ALONE)
{
    struct victim *victim = &victims[this_cpu()->index];
    static struct thief thief;
    struct request request = { .work = take, .arg = &thief };
    memset(victim, 0, sizeof *victim);
    tv_begin();
    pal_prepare(&victim->pal, 0);
    smp_begin(&cpus[(this_cpu()->index + 1) % cpu_count], &request);
    in_l1(vm, run_long, victim);
    smp_end(&request);
    check_equal("status of registration", victim->registered, TV_SUCCESS);
    check_equal("status of unregistration meanwhile", thief.status, TV_BUSY);
    check_equal("status of unregistration", pal_unregister(&victim->pal), TV_SUCCESS);
}
