#include "vmx/space.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"

static const struct {
    u8 levels, entry_size, index_bits;
} formats[PAGING_FORMATS] = {
    [PAGING_32] = { 2, 4, 10 },
    [PAGING_PAE] = { 3, 8, 9 },
    [PAGING_4LEVEL] = { 4, 8, 9 },
};

enum { ALL_RIGHTS = PTE_PRESENT | PTE_WRITE | PTE_USER, IDENTITY_SIZE = 8 << 20 };

u64 space_read(const struct space *space, const void *entry)
{
    return formats[space->paging].entry_size == 4 ? *(const volatile u32 *)entry
                                                  : *(const volatile u64 *)entry;
}

void space_write(const struct space *space, void *entry, u64 value)
{
    if (formats[space->paging].entry_size == 4)
        *(volatile u32 *)entry = (u32)value;
    else
        ept_write(entry, value); /* in one piece */
}

/* The PDPTEs of PAE paging have no access rights; their R/W and U/S bits are reserved. */
static u64 table_rights(const struct space *space, unsigned level)
{
    return space->paging == PAGING_PAE && level == 3 ? PTE_PRESENT : ALL_RIGHTS;
}

static u8 *entry_in(const struct space *space, u8 *table, u64 linear, unsigned level)
{
    unsigned bits = formats[space->paging].index_bits;
    word index = (word)(linear >> (12 + bits * (level - 1))) & (BIT(bits) - 1);
    return table + index * formats[space->paging].entry_size;
}

void *space_entry(struct space *space, u64 linear, unsigned level)
{
    u8 *table = space->root;
    for (unsigned at = formats[space->paging].levels; at > level; at--) {
        void *entry = entry_in(space, table, linear, at);
        u64 value = space_read(space, entry);
        if (!value) {
            value = physical(page_alloc()) | table_rights(space, at);
            space_write(space, entry, value);
        }
        table = (u8 *)(word)(value & 0xfffff000);
    }
    return entry_in(space, table, linear, level);
}

void space_map(struct space *space, u64 linear, u64 physical_, u64 flags)
{
    space_write(space, space_entry(space, linear, 1), physical_ | flags);
}

void space_create(struct space *space, enum paging paging)
{
    space->paging = paging;
    space->root = page_alloc();
    u64 size = BIT64(12 + formats[paging].index_bits);
    for (u64 at = 0; at < IDENTITY_SIZE; at += size)
        space_write(space, space_entry(space, at, 2), at | ALL_RIGHTS | PTE_LARGE);
}

void vm_use_space(struct vm *vm __attribute__((unused)), const struct space *space)
{
    vmwrite(VMCS_GUEST_CR3, physical(space->root));
    if (space->paging != PAGING_PAE || !may_set(CPU2, CPU2_EPT))
        return;
    for (unsigned i = 0; i < 4; i++)
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, ((const u64 *)space->root)[i]);
}
