/*
 * Work for other processors.  A processor without work halts; one that wants something puts a
 * request into the other's mailbox and sends it a wake interrupt.  A processor that waits for an
 * answer serves its own mailbox meanwhile, so requests may cross.
 *
 * Interrupts are off in lhv except while it halts here.
 */
#pragma once
#include "lib/types.h"
#include "x86/cpu.h"

struct request {
    void (*work)(void *arg);
    void *arg;
    struct cpu *from;
    volatile bool done;
};

/* Start the other processors, at most `limit` processors altogether. */
void smp_start(unsigned limit);

/* Have `cpu` do the work of a request; smp_wait() returns when it is done. */
void smp_post(struct cpu *cpu, struct request *request);
void smp_wait(struct request *request);

/* Both in one.  On the calling processor itself: just call. */
void smp_call(struct cpu *cpu, void (*work)(void *), void *arg);
