#include "test/runner.h"
#include "lib/print.h"
#include "pc/apic.h"
#include "pc/console.h"
#include "pc/leave.h"
#include "pc/smp.h"
#include "test/options.h"
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

static void run_in_vm(const struct test *test, struct vm *vm)
{
    if ((test->flags & TEST_PAIR) && cpu_count < 2)
        skip("needs two processors");
    if ((test->flags & TEST_EPT) && !may_set(CPU2, CPU2_EPT))
        skip("no EPT");
    vm_reset(vm);
    test->run(vm);
}

/* Whatever the test before may have left: interrupts that wait or were not ended, blocked NMIs */
static void drain_interrupts(void)
{
    apic_timer_stop();
    apic_end_of_interrupt();
    interrupts_take();
    nmi_unblock();
}

/* On the processor that shall run the test */
static void run_here(void *argument)
{
    struct cpu *cpu = this_cpu();
    struct context context;
    reset_result(&cpu->result);
    drain_interrupts();
    if (!context_save(&context)) {
        cpu->abort = &context;
        run_in_vm(argument, cpu->vm);
    }
    cpu->abort = NULL;
}

/* ---- reporting ---- */

static unsigned reported, failures;

static void report(const struct test *test, const struct cpu *cpu)
{
    const struct result *result = &cpu->result;
    bool bad = result->outcome == FAILED || result->outcome == BROKEN;
    reported++;
    failures += bad;
    if (options.quiet && !bad)
        return;
    print("%s %u - %s cpu%u", bad ? "not ok" : "ok", reported, test->name, cpu->index);
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
        report(test, &cpus[i]);
    }
}

void runner_list(void)
{
    for (const struct test *const *t = tests_start; t < tests_end; t++)
        if (options_select((*t)->subject, (*t)->name))
            print("# %s/%s\n", (*t)->subject, (*t)->name);
}

unsigned runner_run_all(void)
{
    for (const struct test *const *t = tests_start; t < tests_end; t++)
        if (options_select((*t)->subject, (*t)->name))
            run_everywhere(*t);
    print("1..%u\n", reported);
    if (failures)
        print("# lhv: %u of %u tests failed\n", failures, reported);
    else
        print("# lhv: all %u tests passed\n", reported);
    return failures;
}
