#include "test/runner.h"
#include "lib/print.h"
#include "lib/random.h"
#include "pc/apic.h"
#include "pc/console.h"
#include "pc/leave.h"
#include "pc/smp.h"
#include "test/options.h"
#include "test/pair.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

/* ---- called by tests ---- */

static void worsen(enum outcome outcome)
{
    struct result *result = &this_cpu()->result;
    if (result->outcome == PASSED)
        result->outcome = outcome;
}

static void add_line(const char *prefix, const char *format, va_list args)
{
    struct result *result = &this_cpu()->result;
    text_print(&result->notes, "%s", prefix);
    if (result->row)
        text_print(&result->notes, "%s: ", result->row);
    text_vprint(&result->notes, format, args);
    text_print(&result->notes, "\n");
}

void row(const char *name) { this_cpu()->result.row = name; }

void note(const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    add_line("#   ", format, args);
    __builtin_va_end(args);
}

void fail(const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    add_line("# ", format, args);
    __builtin_va_end(args);
    worsen(FAILED);
}

void broken(const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    add_line("# set-up: ", format, args);
    __builtin_va_end(args);
    worsen(BROKEN);
    test_abort();
}

void skip(const char *reason)
{
    worsen(SKIPPED);
    this_cpu()->result.reason = reason;
    test_abort();
}

void test_abort(void)
{
    struct cpu *cpu = this_cpu();
    if (cpu->abort)
        context_restore(cpu->abort);
    print("Bail out! %s\n", cpu->result.space);
    leave(1);
}

bool check_equal(const char *what, u64 got, u64 expected)
{
    if (got != expected)
        fail("%s: got 0x%llx, expected 0x%llx", what, got, expected);
    return got == expected;
}

bool check(bool condition, const char *what)
{
    if (!condition)
        fail("%s", what);
    return condition;
}

void check_fault(u8 vector, u32 error)
{
    struct fault fault = this_cpu()->fault;
    if (!fault.happened)
        fail("expected exception %u, met none", vector);
    else if (fault.vector != vector || fault.error != error)
        fail("expected exception %u(%x), met %u(%x)", vector, error, fault.vector, fault.error);
}

/* ---- running ---- */

static void reset_result(struct result *result)
{
    result->outcome = PASSED;
    result->reason = NULL;
    result->row = NULL;
    result->space[0] = 0;
    result->notes = (struct text){ result->space, 0, sizeof result->space };
}

/* Whatever the test before may have left: interrupts that wait or were not ended, blocked NMIs */
static void drain_interrupts(void)
{
    apic_timer_stop();
    apic_end_of_interrupt();
    interrupts_take();
    nmi_unblock();
}

/* Run something that may give up; what it found is then in this processor's result. */
static void run_protected(void (*work)(struct vm *vm, void *arg), void *arg)
{
    struct cpu *cpu = this_cpu();
    struct context context;
    reset_result(&cpu->result);
    drain_interrupts();
    if (!context_save(&context)) {
        cpu->abort = &context;
        work(cpu->vm, arg);
    }
    cpu->abort = NULL;
}

static void run_in_vm(struct vm *vm, void *arg)
{
    const struct test *test = arg;
    if ((test->flags & TEST_PAIR) && cpu_count < 2)
        skip("needs two processors");
    if ((test->flags & TEST_EPT) && !may_set(CPU2, CPU2_EPT))
        skip("no EPT");
    vm_reset(vm);
    test->run(vm);
}

static bool is_bad(enum outcome outcome) { return outcome == FAILED || outcome == BROKEN; }

/* On the processor that shall run the test */
static void run_here(void *test) { run_protected(run_in_vm, test); }

/* ---- tests that use another processor (test/pair.h) ---- */

struct cpu *pair_other(void) { return &cpus[(this_cpu()->index + 1) % cpu_count]; }

static void pair_work(void *arg)
{
    struct pair *pair = arg;
    run_protected(pair->work, pair->arg);
}

/* What the other processor found counts as found here. */
static void pair_take_result(const struct cpu *other)
{
    if (!is_bad(other->result.outcome))
        return;
    fail("on the other processor:");
    text_print(&this_cpu()->result.notes, "%s", other->result.space);
}

void pair_begin(struct pair *pair)
{
    pair->request = (struct request){ .work = pair_work, .arg = pair };
    smp_begin(pair_other(), &pair->request);
}

void pair_end(struct pair *pair)
{
    smp_end(&pair->request);
    pair_take_result(pair_other());
}

void pair_call(void (*work)(struct vm *vm, void *arg), void *arg)
{
    struct pair pair = { .work = work, .arg = arg };
    smp_call(pair_other(), pair_work, &pair);
    pair_take_result(pair_other());
}

/* ---- soak: every processor runs tests at random, all at the same time ---- */

static const struct test *random_test(struct random *random)
{
    for (unsigned tries = 0; tries < 10000; tries++) {
        const struct test *test = tests_start[random_below(random, (u32)(tests_end - tests_start))];
        if (!(test->flags & (TEST_PAIR | TEST_ALONE)) && options_select(test->subject, test->name))
            return test;
    }
    return NULL;
}

static void soak_here(void *arg __attribute__((unused)))
{
    struct cpu *cpu = this_cpu();
    struct random random = { options.seed * 1000 + cpu->index };
    reset_result(&cpu->result);
    for (u32 i = 0; i < options.soak; i++) {
        const struct test *test = random_test(&random);
        if (!test)
            return;
        run_here((void *)test);
        if (is_bad(cpu->result.outcome)) {
            text_print(&cpu->result.notes, "# in test %s, round %u\n", test->name, i);
            return;
        }
    }
    cpu->result.outcome = PASSED;
}

/* ---- reporting ---- */

static unsigned reported, failures;

static void report(const char *name, const struct cpu *cpu)
{
    const struct result *result = &cpu->result;
    bool bad = is_bad(result->outcome);
    reported++;
    failures += bad;
    if (options.quiet && !bad)
        return;
    print("%s %u - %s cpu%u", bad ? "not ok" : "ok", reported, name, cpu->index);
    if (result->outcome == SKIPPED)
        print(" # SKIP %s", result->reason);
    print("\n");
    if (bad)
        console_write(result->space);
}

static void run_everywhere(const struct test *test)
{
    for (unsigned i = 0; i < cpu_count; i++) {
        smp_call(&cpus[i], run_here, (void *)test);
        report(test->name, &cpus[i]);
    }
}

static void soak_everywhere(void)
{
    struct request requests[MAX_CPUS];
    for (unsigned i = 1; i < cpu_count; i++) {
        requests[i] = (struct request){ .work = soak_here };
        smp_begin(&cpus[i], &requests[i]);
    }
    soak_here(NULL);
    for (unsigned i = 1; i < cpu_count; i++)
        smp_end(&requests[i]);
    for (unsigned i = 0; i < cpu_count; i++)
        report("soak", &cpus[i]);
}

void runner_list(void)
{
    unsigned n = 0;
    for (const struct test *const *t = tests_start; t < tests_end; t++) {
        if (!options_select((*t)->subject, (*t)->name))
            continue;
        print("# %s/%s\n", (*t)->subject, (*t)->name);
        n++;
    }
    print("# lhv: %u tests\n", n);
}

static bool names_a_test(const char *item)
{
    for (const struct test *const *t = tests_start; t < tests_end; t++)
        if (options_match(item, (*t)->subject, (*t)->name))
            return true;
    return false;
}

/* A test that is asked for and not there has not passed: a name may be misspelt. */
static bool all_names_known(void)
{
    char item[sizeof options.tests];
    const char *list = options.tests;
    do {
        list = options_item(list, item);
        if (!names_a_test(item)) {
            print("Bail out! no test is named \"%s\"\n", item);
            return false;
        }
    } while (*list);
    return true;
}

unsigned runner_run_all(void)
{
    if (!all_names_known())
        return 1;
    for (const struct test *const *t = tests_start; t < tests_end; t++)
        if (options_select((*t)->subject, (*t)->name))
            run_everywhere(*t);
    if (options.soak)
        soak_everywhere();
    if (!options.quiet)
        print("1..%u\n", reported);
    if (failures)
        print("# lhv: %u of %u tests failed\n", failures, reported);
    else
        print("# lhv: all %u tests passed\n", reported);
    return failures;
}
