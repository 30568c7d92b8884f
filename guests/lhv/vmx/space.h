/*
 * Linear address spaces of L2: paging structures in any of the three formats of the manual (SDM 3A,
 * "Paging").  A format is a row of data; there is one walker.
 */
#pragma once
#include "vmx/vm.h"

enum paging { PAGING_32, PAGING_PAE, PAGING_4LEVEL, PAGING_FORMATS };
#define PAGING_NATIVE (IS_64BIT ? PAGING_4LEVEL : IS_PAE ? PAGING_PAE : PAGING_32)

struct space {
    enum paging paging;
    void *root; /* what CR3 points to */
};

/* A space that maps the first 8 MiB, lhv among them, to themselves: large pages, user, writable. */
void space_create(struct space *space, enum paging paging);

/* Map one 4 KiB page. */
void space_map(struct space *space, u64 linear, u64 physical, u64 flags);

/* The entry of `level` (1: the 4 KiB page's) for an address; missing tables are created. */
void *space_entry(struct space *space, u64 linear, unsigned level);
u64 space_read(const struct space *space, const void *entry);
void space_write(const struct space *space, void *entry, u64 value);

/* Let L2 run in it: CR3, and the PDPTEs of PAE paging. */
void vm_use_space(struct vm *vm, const struct space *space);
