/*
 * Work for other processors.  A processor without work halts.  One that wants something puts a
 * request into the other's mailbox and sends it a wake interrupt; it then halts too, until a done
 * interrupt comes, and serves its own mailbox meanwhile, so requests may cross.
 *
 * Exactly one wake interrupt belongs to a request, and it has come before the work begins: none can
 * arrive later, in the middle of a test.  The same is true of the done interrupt; a request that is
 * polled has none, because the one that asked is busy with a test of its own.
 *
 * Interrupts are off in lhv except while it halts here.
 */
#pragma once
#include "lib/types.h"
#include "x86/cpu.h"

struct request {
    void (*work)(void *arg);
    void *arg;
    struct cpu *from; /* who gets the done interrupt; null: nobody */
    volatile bool done;
};

/* Start the other processors, at most `limit` processors altogether. */
void smp_start(unsigned limit);

/* Have `cpu` do some work, and wait for its end.  On the calling processor itself: just call. */
void smp_call(struct cpu *cpu, void (*work)(void *), void *arg);

/* The same in two steps; the second one polls.  Not for the calling processor itself. */
void smp_begin(struct cpu *cpu, struct request *request);
void smp_end(struct request *request);
