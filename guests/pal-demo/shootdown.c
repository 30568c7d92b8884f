/*
 * The hole of the original TrustVisor, step by step: another processor has used a page before it is
 * lent, takes a VM exit in the meantime as any guest does, and uses it again.  What it sees is said
 * on the console, for `turducken demo shootdown`.
 */
#include "lib/print.h"
#include "lib/string.h"
#include "pc/smp.h"
#include "session.h"
#include "test/pair.h"
#include "test/test.h"
#include "x86/cpu.h"
#include "x86/instructions.h"
#include "x86/try.h"

enum { SECRET = 0x5ec2e7, FORGED = 0xbad };

enum step { PREPARE, USED_BEFORE, SECRET_INSIDE, READ, WRITTEN_OVER };

struct spy {
    volatile word *page; /* the PAL's data */
    volatile word step;
    word before, after;
    bool read_refused, write_refused;
};

static void wait_for(const struct spy *spy, enum step step)
{
    while (spy->step < (word)step)
        cpu_pause();
}

static bool try_read(volatile word *from, word *value)
{
    *value = 0;
    try_begin();
    asm volatile(TRY("mov %1, %0") : "+r"(*value) : "m"(*from) : "memory");
    return !try_result().happened;
}

static bool try_write(volatile word *to, word value)
{
    try_begin();
    asm volatile(TRY("mov %1, %0") : "=m"(*to) : "r"(value) : "memory");
    return !try_result().happened;
}

/* On the other processor */
static void spy_on(struct vm *vm __attribute__((unused)), void *arg)
{
    struct spy *spy = arg;
    u32 ax = 0, cx = 0;
    try_read(spy->page, &spy->before);
    spy->step = USED_BEFORE;
    wait_for(spy, SECRET_INSIDE);
    asm volatile("cpuid" : "+a"(ax), "+c"(cx) : : "ebx", "edx"); /* a VM exit, as any other */
    spy->read_refused = !try_read(spy->page, &spy->after);
    spy->step = READ;
    spy->write_refused = !try_write(spy->page, FORGED);
    spy->step = WRITTEN_OVER;
}

struct victim {
    struct pal pal;
    struct spy *spy;
    u32 registered, unregistered;
    word stored, loaded;
    u8 buffer[PAL_BUFFER];
};

static void live(void *arg)
{
    struct victim *victim = arg;
    victim->registered = pal_register(&victim->pal);
    victim->stored = pal_call(&victim->pal, PAL_STORE, SECRET, victim->buffer);
    victim->spy->step = SECRET_INSIDE;
    wait_for(victim->spy, WRITTEN_OVER);
    victim->loaded = pal_call(&victim->pal, PAL_LOAD, 0, victim->buffer);
    victim->unregistered = pal_unregister(&victim->pal);
}

static void say(const struct spy *spy, const struct victim *victim)
{
    print("# shootdown: secret %lx\n", (word)SECRET);
    print("# shootdown: before %lx\n", spy->before);
    if (spy->read_refused)
        print("# shootdown: read refused\n");
    else
        print("# shootdown: read %lx\n", spy->after);
    print("# shootdown: write %s\n", spy->write_refused ? "refused" : "done");
    print("# shootdown: inside %lx\n", victim->loaded);
}

TEST("shootdown", leak, "shootdown-leak", TEST_PAIR)
{
    static struct victim victim;
    static struct spy spy;
    struct pair pair = { .work = spy_on, .arg = &spy };
    tv_begin();
    memset(&spy, 0, sizeof spy);
    memset(&victim, 0, sizeof victim);
    pal_prepare(&victim.pal, 0);
    spy.page = (word *)(victim.pal.base + DATA_PAGE * PAGE_SIZE);
    victim.spy = &spy;
    pair_begin(&pair);
    wait_for(&spy, USED_BEFORE);
    in_l1(vm, live, &victim);
    pair_end(&pair);
    say(&spy, &victim);
    check_equal("status of registration", victim.registered, TV_SUCCESS);
    check_equal("status of unregistration", victim.unregistered, TV_SUCCESS);
    check(spy.read_refused, "another processor read the PAL's secret");
    check(spy.write_refused, "another processor wrote over it");
    check_equal("what the PAL finds", victim.loaded, SECRET);
}
