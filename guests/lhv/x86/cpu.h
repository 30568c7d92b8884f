/* One record per processor.  %gs points to it. */
#pragma once
#include "lib/print.h"
#include "x86/asm.h"
#include "x86/traps.h"

struct request;
struct vm;

/* The part of the task-state segment that lhv uses: the stack for a rise to ring 0. */
struct tss {
#ifdef __x86_64__
    u32 reserved0;
    word rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, io_map;
#else
    word link, esp0, ss0, unused[22];
    u16 trap, io_map;
#endif
} __attribute__((packed));

/* What a test found, on this processor. */
enum outcome { PASSED, FAILED, BROKEN, SKIPPED };

struct result {
    enum outcome outcome;
    const char *reason; /* of a skip */
    const char *row;    /* of the test's table, while it runs */
    struct text notes;  /* diagnostics, each line without its "# " */
    char space[1024];
};

struct cpu {
    struct cpu *self; /* first: %gs:0 */
    unsigned index;   /* 0: the boot processor */
    u32 apic_id;
    volatile bool online;

    struct fault fault;           /* what the last try_... met */
    struct context *abort;        /* where a test goes that cannot go on */
    struct context leave_user;    /* see x86/user.h */
    volatile u32 interrupts[256]; /* how often each vector came */

    u64 gdt[GDT_ENTRIES];
    struct tss tss ALIGNED(16);

    struct request *volatile mailbox; /* see pc/smp.h */
    struct result result;
    struct vm *vm;

    u8 *arena, *arena_next, *arena_end; /* see page_alloc() */
    u8 stack[STACK_SIZE] ALIGNED(16);
};

extern struct cpu cpus[MAX_CPUS];
extern unsigned cpu_count;

static inline struct cpu *this_cpu(void)
{
    struct cpu *cpu;
    asm volatile("mov %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

/* After a VM exit for an NMI, or with one blocked for another reason: let NMIs come again. */
static inline void nmi_unblock(void) { asm volatile("int %0" : : "i"(VECTOR_NOTHING) : "memory"); }

/* Let %gs point to this processor's record, through a segment that a return to ring 3 leaves alone
   (a VM exit loads one that it does not). */
void load_gs(struct cpu *cpu);

/* Give this processor its GDT, IDT, TSS and %gs. */
void cpu_set_up(struct cpu *cpu, unsigned index);
