/* A small monitor on KVM, which tests it: `kvm-test [PATTERN...]` runs the cases that match. */
#include "kvm-test/cases.h"
#include "kvm-test/threads.h"
#include "lib/print.h"
#include "lib/program.h"
#include "lib/string.h"

static bool is_wanted(const char *name, int count, char **patterns)
{
    for (int i = 0; i < count; i++)
        if (glob(patterns[i], name))
            return true;
    return count == 0;
}

int program(int count, char **arguments, char **environment)
{
    (void)environment;
    unsigned run = 0, failed = 0;
    count_processors();
    move_to(0);
    print("TAP version 13\n# %u processors\n", processor_count());
    for (unsigned i = 0; i < CASE_COUNT; i++) {
        if (!is_wanted(CASES[i].name, count - 1, arguments + 1))
            continue;
        bool good = run_case(&CASES[i]);
        failed += !good;
        print("%s %u - %s\n", good ? "ok" : "not ok", ++run, CASES[i].name);
    }
    print("1..%u\n# kvm-test: %u of %u failed\n", run, failed, run);
    return failed || !run;
}
