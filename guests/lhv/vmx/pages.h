/*
 * Memory for tests: every processor has an arena of its own, handed out page by page and taken back
 * as a whole when the next test begins.  lhv runs at its physical addresses: a pointer is one.
 */
#pragma once
#include "lib/types.h"

enum { ARENA_PAGES = 112 };

void *page_alloc(void); /* zeroed; gives up the test if there is none */
void *pages_alloc(unsigned count);
void pages_free_all(void);

static inline u64 physical(const void *pointer) { return (word)pointer; }

/* RAM above lhv, in whole 2 MiB pages, two for each processor; 0 if the PC has too little. */
u64 large_page(unsigned which);
extern u64 ram_end; /* of the RAM that begins at 1 MiB */
