/*
 * Tests that use a second processor: the next one, counted around.  It has its own virtual machine,
 * which such work must reset by itself if it wants it.
 *
 * A processor that uses tables of another one must execute INVEPT before: what it may remember of
 * them is from an earlier test.
 */
#pragma once
#include "pc/smp.h"
#include "vmx/vm.h"

struct pair {
    void (*work)(struct vm *vm, void *arg);
    void *arg;
    struct request request;
};

struct cpu *pair_other(void);

/* Have the other processor do something, and wait. */
void pair_call(void (*work)(struct vm *vm, void *arg), void *arg);

/* Have it do something meanwhile.  A test must always come to pair_end(). */
void pair_begin(struct pair *pair);
void pair_end(struct pair *pair);
