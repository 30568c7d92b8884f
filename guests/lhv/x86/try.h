/*
 * Instructions that may fault.  Each try_... puts its address and the address behind it into the
 * table .try; the exception handler looks there, notes vector and error code in this_cpu()->fault,
 * and goes on behind the instruction.
 */
#pragma once
#include "x86/cpu.h"

#define TRY(instruction)                                                                           \
    "771: " instruction "\n"                                                                       \
    "772:\n"                                                                                       \
    ".pushsection .try, \"a\"\n"                                                                   \
    ".long 771b, 772b\n"                                                                           \
    ".popsection\n"

struct try_row {
    u32 from, to;
};
extern const struct try_row try_start[], try_end[];

static inline void try_begin(void) { this_cpu()->fault.happened = false; }
static inline struct fault try_result(void) { return this_cpu()->fault; }

static inline struct fault try_rdmsr(u32 index, u64 *value)
{
    u32 low = 0, high = 0;
    try_begin();
    asm volatile(TRY("rdmsr") : "+a"(low), "+d"(high) : "c"(index) : "memory");
    *value = (u64)high << 32 | low;
    return try_result();
}

static inline struct fault try_wrmsr(u32 index, u64 value)
{
    try_begin();
    asm volatile(TRY("wrmsr") : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
    return try_result();
}
