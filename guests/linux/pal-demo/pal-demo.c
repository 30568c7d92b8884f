/* pal-demo as a process of Linux: a PAL that TrustVisor isolates from the process, the kernel, and
 * everything else.  The PAL is that of guests/pal-demo.
 *
 * `pal-demo l2` does the same in user mode of a guest of KVM, whose memory is that of the process, at
 * the same addresses: the same functions run there.
 */
#include "lib/print.h"
#include "lib/program.h"
#include "lib/string.h"
#include "pal-demo/l2.h"
#include "pals.h"

enum {
    PROT_ALL = 7,
    MAP_FIXED_PRIVATE_ANONYMOUS = 0x32,
    SECRET = 0x5ec2e75,
    OTHERS = 20,
    MISSING = 2,
    MADV_DONTFORK = 10,
};

static struct tv_descriptor descriptor;
static u8 *base;
static u32 number;

static bool is(const char *what, u64 found, u64 expected)
{
    if (found != expected)
        print("# %s: %llx, not %llx\n", what, found, expected);
    return found == expected;
}

/* -- registering and calling ---------------------------------------------------------------------- */

static void add_section(u32 kind, unsigned page)
{
    u32 n = descriptor.sections++;
    descriptor.section[n].kind = kind;
    descriptor.section[n].pages = 1;
    descriptor.section[n].address = (word)(base + page * PAGE_SIZE);
}

/* The pages must be there, and stay: TrustVisor lends what the page tables have now. */
static void prepare(void)
{
    base = (u8 *)WINDOW;
    syscall(SYS_mmap, WINDOW, WINDOW_SIZE, PROT_ALL, MAP_FIXED_PRIVATE_ANONYMOUS, -1, 0);
    memset(base, 0, WINDOW_SIZE);
    syscall1(SYS_mlockall, 1);
    syscall3(SYS_madvise, base, WINDOW_SIZE, MADV_DONTFORK);
    memcpy(base, pal_code, (word)(pal_code_end - pal_code));
    descriptor.version = 1;
    descriptor.entry = (word)base;
    descriptor.parameters = 3;
    descriptor.parameter[0].kind = TV_INTEGER;
    descriptor.parameter[1].kind = TV_INTEGER;
    descriptor.parameter[2].kind = TV_IN_OUT;
    descriptor.parameter[2].size = PAL_BUFFER;
    add_section(TV_CODE, CODE_PAGE);
    add_section(TV_DATA, DATA_PAGE);
    add_section(TV_PARAMETERS, PARAMETER_PAGE);
    add_section(TV_STACK, STACK_PAGE);
}

/* TrustVisor writes to the buffer, so the process must be able to: after fork() it is shared. */
static word call(enum pal_operation operation, word value, void *buffer)
{
    *(volatile u8 *)buffer = *(volatile u8 *)buffer;
    struct tv_result result = tv_call((word)base, operation, value, (word)buffer);
    return result.failed ? ~result.value : result.value;
}

/* -- the cases ------------------------------------------------------------------------------------ */

static u8 buffer[PAL_BUFFER];

static bool registers(void)
{
    struct tv_answer answer = tv_hypercall(TV_REGISTER, (word)&descriptor, 0);
    number = answer.value;
    return is("status of registration", answer.status, TV_SUCCESS);
}

static bool remembers(void)
{
    return is("stored", call(PAL_STORE, SECRET, buffer), SECRET) &
           is("loaded", call(PAL_LOAD, 0, buffer), SECRET);
}

static bool passes_buffers(void)
{
    word sum = 0;
    for (unsigned i = 0; i < PAL_BUFFER; i++) {
        buffer[i] = (u8)i;
        sum += i ^ 7;
    }
    bool good = is("sum", call(PAL_ECHO, 7, buffer), sum);
    for (unsigned i = 0; good && i < PAL_BUFFER; i++)
        good = is("byte", buffer[i], i ^ 7);
    return good;
}

/* Other processes and the timer's interrupts come between the calls; the secret stays. */
static bool survives_other_processes(void)
{
    long child = syscall0(SYS_fork);
    if (child == 0) {
        for (unsigned i = 0; i < OTHERS; i++)
            syscall0(SYS_sched_yield);
        leave(0);
    }
    bool good = true;
    for (unsigned i = 0; good && i < OTHERS; i++) {
        syscall0(SYS_sched_yield);
        good = is("loaded", call(PAL_LOAD, 0, buffer), SECRET);
    }
    int status = 0;
    syscall4(SYS_wait4, child, &status, 0, 0);
    return good & is("the other's status", (u64)status, 0);
}

static bool is_measured(void)
{
    static struct tv_record records[4];
    memset(records, 0, sizeof records);
    struct tv_answer answer = tv_hypercall(TV_LIST, (word)records, ARRAY_LEN(records));
    bool good = is("PALs", answer.value, 1) & is("calls", records[0].calls >= 3, 1);
    bool empty = true;
    for (unsigned i = 0; i < sizeof records[0].measurement; i++)
        empty &= !records[0].measurement[i];
    return good & is("has a measurement", !empty, 1);
}

static bool comes_back_empty(void)
{
    bool good =
        is("status", tv_hypercall(TV_UNREGISTER, number, 0).status, TV_SUCCESS);
    const struct pal_data *data = (const void *)(base + DATA_PAGE * PAGE_SIZE);
    return good & is("what is left of the secret", data->secret, 0) &
           is("the code", (u64)memcmp(base, pal_code, 16), 0);
}

static const struct {
    const char *name;
    bool (*run)(void);
    bool is_for_l2;
} CASES[] = {
    { "registers", registers, true },
    { "remembers", remembers, true },
    { "passes-buffers", passes_buffers, true },
    { "survives-other-processes", survives_other_processes, false },
    { "is-measured", is_measured, true },
    { "comes-back-empty", comes_back_empty, true },
};

static volatile bool passed[ARRAY_LEN(CASES)];

/* In user mode of L1 or of L2: the cases up to the first that fails.  In L2 nothing may be printed. */
static void run_cases(bool in_l2)
{
    for (unsigned i = 0; i < ARRAY_LEN(CASES); i++) {
        passed[i] = (in_l2 && !CASES[i].is_for_l2) || CASES[i].run();
        if (!passed[i])
            break;
    }
}

/* What L2 executes.  Its pages come when they are touched, and TrustVisor wants them to be there. */
static void run_in_l2(void)
{
    for (unsigned page = 0; page < PAL_PAGES; page++)
        *(volatile u8 *)(base + page * PAGE_SIZE) = base[page * PAGE_SIZE];
    run_cases(true);
    l2_end();
}

int program(int count, char **arguments, char **environment)
{
    (void)environment;
    bool in_l2 = count > 1 && streq(arguments[1], "l2");
    print("TAP version 13\n# a process of %u bits%s\n", IS_64BIT ? 64 : 32, in_l2 ? ", L2" : "");
    if (tv_hypercall(TV_PING, 0, 0).value != TV_SIGNATURE) {
        print("Bail out! no TrustVisor here (--app trustvisor)\n");
        return MISSING;
    }
    prepare();
    if (in_l2)
        l2_run(run_in_l2);
    else
        run_cases(false);
    unsigned failed = 0;
    for (unsigned i = 0; i < ARRAY_LEN(CASES); i++) {
        failed += !passed[i];
        print("%s %u - %s%s\n", passed[i] ? "ok" : "not ok", i + 1, CASES[i].name,
              in_l2 && !CASES[i].is_for_l2 ? " # SKIP" : "");
    }
    print("1..%u\n# pal-demo: %u failed\n", (unsigned)ARRAY_LEN(CASES), failed);
    return failed != 0;
}
