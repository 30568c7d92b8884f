#include "vmx/pages.h"
#include "lib/string.h"
#include "test/test.h"
#include "x86/cpu.h"

static u8 arenas[MAX_CPUS][ARENA_PAGES][PAGE_SIZE] ALIGNED(4096);
u64 ram_end;

void pages_free_all(void)
{
    struct cpu *cpu = this_cpu();
    cpu->arena_next = arenas[cpu->index][0];
}

void *pages_alloc(unsigned count)
{
    struct cpu *cpu = this_cpu();
    u8 *start = cpu->arena_next, *end = arenas[cpu->index][0] + sizeof arenas[0];
    if (start + count * PAGE_SIZE > end)
        broken("out of pages");
    cpu->arena_next = start + count * PAGE_SIZE;
    return memset(start, 0, count * PAGE_SIZE);
}

void *page_alloc(void) { return pages_alloc(1); }

enum { LARGE_PAGES_START = 32 << 20, LARGE_PAGE = 2 << 20, LARGE_PER_CPU = 2 };

u64 large_page(unsigned which)
{
    u64 start = LARGE_PAGES_START + (this_cpu()->index * LARGE_PER_CPU + which) * (u64)LARGE_PAGE;
    return start + LARGE_PAGE <= ram_end ? start : 0;
}
