/*
 * Mistakes that writers of hypervisors make, one each: a small hypervisor that is right but for one
 * thing.  mistake=NAME chooses it; the run then ends with status 1, in a triple fault, or never.
 *
 * tests/mistakes says for each what the first diagnosis of `turducken run` must name.
 */
#pragma once
#include "lib/print.h"
#include "lib/string.h"
#include "test/code.h"
#include "test/entry_cases.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

/* A mistake is made once, by the boot processor. */
#define MISTAKE(id, name)                                                                          \
    static void mistake_##id(struct vm *vm);                                                       \
    TEST("mistake", id, name, 0)                                                                   \
    {                                                                                              \
        if (this_cpu()->index)                                                                     \
            skip("is made by the boot processor");                                                 \
        mistake_##id(vm);                                                                          \
    }                                                                                              \
    static void mistake_##id(struct vm *vm __attribute__((unused)))

/* L2 is set up, and then bits of one field of its VMCS are wrong. */
#define WRONG_FIELD(id, name, field, clear, set)                                                   \
    MISTAKE(id, name)                                                                              \
    {                                                                                              \
        start_nothing(vm);                                                                         \
        change(VMCS_##field, clear, set);                                                          \
        vm_expect_done(vm);                                                                        \
    }

/* The same, with a control (of a word other than the field's) that makes the field matter. */
#define WRONG_FIELD_IF(id, name, word, control, field, clear, set)                                 \
    MISTAKE(id, name)                                                                              \
    {                                                                                              \
        start_nothing(vm);                                                                         \
        vm_control(vm, word, control, 0);                                                          \
        change(VMCS_##field, clear, set);                                                          \
        vm_expect_done(vm);                                                                        \
    }

static inline void change(u32 field, u64 clear, u64 set)
{
    vmwrite(field, (vmread(field) & ~clear) | set);
}

/* The first address bit that this processor has not */
#define TOO_HIGH BIT64(caps.physical_bits)

/* What a hypervisor does that looks at the outcome of an instruction */
static inline void must_succeed(const char *what, enum vmx_status status)
{
    if (status != VMX_OK)
        fail("%s failed (%u)", what, status);
}
