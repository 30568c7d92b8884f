/*
 * Traps in L1, one kind at a time: what a kernel does all the time besides computing.  A round is one
 * trap, or one exception with its return.
 */
#include "lib/print.h"
#include "test/options.h"
#include "test/test.h"

#define BENCH(id, name) TEST("bench", id, name, 0)

enum { ROUNDS = 1000 };
enum { EFER = 0xc0000080, EFER_SCE = 1, STAR = 0xc0000081, LSTAR = 0xc0000082, SFMASK = 0xc0000084 };

/* One kind of trap, `count` times */
#define LOOP(name, instructions)                                                                   \
    static void name##_loop(u32 count)                                                             \
    {                                                                                              \
        for (u32 i = 0; i < count; i++)                                                            \
            asm volatile(instructions : : : "rax", "rbx", "rcx", "rdx", "r11", "memory", "cc");    \
    }

LOOP(rdtsc, "rdtsc")
LOOP(cpuid, "xor %%eax, %%eax; xor %%ecx, %%ecx; cpuid")
LOOP(port, "in $0x21, %%al")
LOOP(rdmsr, "mov $0xc0000100, %%ecx; rdmsr")
LOOP(cr3, "mov %%cr3, %%rax; mov %%rax, %%cr3")
LOOP(invlpg, "invlpg 0x400000")
LOOP(undefined, "ud2")
LOOP(fault, "mov 0x7f0000000000, %%rax")
LOOP(syscalls, "syscall")

static void run(const char *name, void (*loop)(u32 count))
{
    u32 count = options.seed * ROUNDS;
    print("# begin %s %u\n", name, count);
    loop(count);
    print("# end %s\n", name);
}

BENCH(rdtsc, "rdtsc") { run("rdtsc", rdtsc_loop); }
BENCH(cpuid, "cpuid") { run("cpuid", cpuid_loop); }
BENCH(port, "port") { run("port", port_loop); }
BENCH(rdmsr, "rdmsr") { run("rdmsr", rdmsr_loop); }
BENCH(cr3, "cr3") { run("cr3", cr3_loop); }
BENCH(invlpg, "invlpg") { run("invlpg", invlpg_loop); }

/* ---- exceptions: handlers that step over the instruction ---- */

struct gate {
    u16 low, selector, flags, middle;
    u32 high, reserved;
};

struct table {
    u16 limit;
    u64 base;
} __attribute__((packed));

void skip_undefined(void);
void skip_fault(void);
void next_instruction(void);
asm(".pushsection .text\n"
    "skip_undefined: addq $2, (%rsp); iretq\n"
    "skip_fault: addq $8, %rsp; addq $8, (%rsp); iretq\n" /* over the error code */
    "next_instruction: jmp *%rcx\n"
    ".popsection");

static struct gate gates[256] __attribute__((aligned(16)));

/* Run with a handler of our own; everything else stays with lhv's. */
static void run_with(const char *name, void (*loop)(u32 count), u32 vector, void (*handler)(void))
{
    struct table old, own = { sizeof gates - 1, (u64)gates };
    asm volatile("sidt %0" : "=m"(old));
    for (u32 i = 0; i <= old.limit / sizeof(struct gate); i++)
        gates[i] = ((const struct gate *)old.base)[i];
    u64 target = (u64)handler;
    gates[vector].low = target;
    gates[vector].middle = target >> 16;
    gates[vector].high = target >> 32;
    asm volatile("lidt %0" : : "m"(own));
    run(name, loop);
    asm volatile("lidt %0" : : "m"(old));
}

BENCH(undefined, "undefined") { run_with("undefined", undefined_loop, 6, skip_undefined); }
BENCH(fault, "fault") { run_with("fault", fault_loop, 14, skip_fault); }

/* ---- SYSCALL, to a handler that jumps back: all in ring 0 ---- */

static u64 msr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (u64)high << 32;
}

static void set_msr(u32 index, u64 value)
{
    asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}

BENCH(syscalls, "syscalls")
{
    u16 code;
    asm volatile("mov %%cs, %0" : "=r"(code));
    set_msr(EFER, msr(EFER) | EFER_SCE);
    set_msr(STAR, (u64)code << 32);
    set_msr(LSTAR, (u64)next_instruction);
    set_msr(SFMASK, 0);
    run("syscalls", syscalls_loop);
    set_msr(EFER, msr(EFER) & ~(u64)EFER_SCE);
}
