/*
 * What PALs cost, for whoever counts from outside: each step is named on the console when it begins
 * and when it has ended, with as many characters as any other.  "none" is what the saying and the way
 * to ring 3 cost by themselves.  All steps are made twice: the first time warms everything up.
 */
#include "lib/print.h"
#include "lib/string.h"
#include "session.h"
#include "test/test.h"
#include "x86/cpu.h"

enum { CALLS = 10 };

struct customer {
    struct pal pal;
    u32 status;
    u8 buffer[PAL_BUFFER];
};
static struct customer customer;

static void nothing(void *arg __attribute__((unused))) {}
static void enroll(void *arg __attribute__((unused))) { customer.status |= pal_register(&customer.pal); }
static void leave_again(void *arg __attribute__((unused)))
{
    customer.status |= pal_unregister(&customer.pal);
}
static void call_once(void *arg __attribute__((unused)))
{
    pal_call(&customer.pal, PAL_LOAD, 0, customer.buffer);
}
static void call_often(void *arg __attribute__((unused)))
{
    for (unsigned i = 0; i < CALLS; i++)
        pal_call(&customer.pal, PAL_LOAD, 0, customer.buffer);
}

static const struct step {
    const char *name;
    user_function run;
    unsigned count;
} steps[] = {
    { "none", nothing, 1 },   { "join", enroll, 1 },
    { "call", call_once, 1 }, { "more", call_often, CALLS },
    { "part", leave_again, 1 },
};

static void count_steps(struct vm *vm, const struct place *place)
{
    if (this_cpu()->index)
        skip("the boot processor's is enough");
    memset(&customer, 0, sizeof customer);
    tv_begin();
    pal_prepare(&customer.pal, 0);
    for (unsigned i = 0; i < 2 * ARRAY_LEN(steps); i++) {
        const struct step *step = &steps[i % ARRAY_LEN(steps)];
        print("# begin %s %s %02u\n", place->name, step->name, step->count);
        place->run(vm, step->run, NULL);
        print("# end %s %s\n", place->name, step->name);
    }
    check_equal("status", customer.status, TV_SUCCESS);
}

TEST("cost", l1, "cost-l1", 0) { count_steps(vm, &places[0]); }
TEST("cost", l2, "cost-l2", TEST_EPT) { count_steps(vm, &places[1]); }
