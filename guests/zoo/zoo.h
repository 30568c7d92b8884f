/*
 * Scenarios: small hypervisors that make one of the mistakes that broke real ones (form=faulty), or
 * do not (form=fixed).  Each is a test of lhv's runner that must pass when it is done right: what a
 * scenario checks is what the one that made the mistake relied on.
 *
 * src/turducken/zoo has a record for each, which tells its story.
 */
#pragma once
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "vmx/space.h"
#include "x86/bits.h"

extern bool faulty;

/* A scenario runs once, from the boot processor. */
#define SCENARIO(id, name)                                                                         \
    static void scenario_##id(struct vm *vm);                                                      \
    TEST("zoo", id, name, TEST_EPT)                                                                \
    {                                                                                              \
        if (this_cpu()->index)                                                                     \
            skip("runs from the boot processor");                                                  \
        scenario_##id(vm);                                                                         \
    }                                                                                              \
    static void scenario_##id(struct vm *vm __attribute__((unused)))

/* What L2 finds in a page: a value behind the RET of an access_page(). */
enum { VALUE = sizeof(word), PAGE_VALUE = NOTE_PAGE + VALUE };
enum { OLD = 0x01d, NEW = 0x4e3, SECRET = 0x5ec2e7, OTHER = 0x07e2 };

enum { PATIENCE = 20000000 }; /* rounds of a loop that waits for another processor */

/* Map NOTE_PAGE for L2. */
static inline void show(struct vm *vm, const void *page, u64 rights)
{
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, rights | EPT_WB);
}

/* Hypercalls of L1's to the application that L0 has for some scenarios (turducken.zoo.apps).  False
   if there is none: that is a failure. */
enum { CALL_MOVE = 0x200a0001, CALL_TAKE = 0x200a0002, CALL_GUARD = 0x200a0003 };
bool call_l0(u32 function, u64 page, u64 argument);
