#include "vmx/ept.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"

void ept_create(struct ept *ept)
{
    ept->root = page_alloc();
    u64 type = has_ept_cap(EPT_CAP_WB) ? TYPE_WB : TYPE_UC;
    ept->eptp = physical(ept->root) | EPTP_WALK_4 | type;
}

/*
 * Another processor, or this one's page walker, may read the entry at any time.  Two 32-bit stores
 * would show it a mixture, so 32-bit code uses CMPXCHG8B.
 */
void ept_write(u64 *entry, u64 value)
{
#ifdef __x86_64__
    *(volatile u64 *)entry = value;
#else
    while (!__sync_bool_compare_and_swap(entry, *entry, value))
        ;
#endif
}

static unsigned index_at(u64 gpa, unsigned level)
{
    return (unsigned)(gpa >> (12 + 9 * (level - 1))) & 511;
}

u64 *ept_entry(struct ept *ept, u64 gpa, unsigned level)
{
    u64 *table = ept->root;
    for (unsigned at = 4; at > level; at--) {
        u64 *entry = &table[index_at(gpa, at)];
        if (!*entry)
            ept_write(entry, physical(page_alloc()) | EPT_RWX);
        if (*entry & EPT_LARGE)
            broken("level %u of the EPT is a leaf already", at);
        table = (u64 *)(word)(*entry & EPT_ADDRESS);
    }
    return &table[index_at(gpa, level)];
}

void ept_map(struct ept *ept, u64 gpa, u64 hpa, unsigned level, u64 flags)
{
    u64 large = level > 1 ? EPT_LARGE : 0;
    ept_write(ept_entry(ept, gpa, level), hpa | flags | large);
}

void ept_map_identity(struct ept *ept, u64 start, u64 end, u64 flags)
{
    u64 *entry = NULL;
    for (u64 gpa = start; gpa < end; gpa += PAGE_SIZE) {
        if (!entry || index_at(gpa, 1) == 0)
            entry = ept_entry(ept, gpa, 1); /* a new table begins */
        ept_write(entry++, gpa | flags);
    }
}

void ept_invalidate(const struct ept *ept)
{
    struct invept_operand operand = { .eptp = ept->eptp };
    bool single = caps.ept_vpid & EPT_CAP_INVEPT_SINGLE;
    enum vmx_status status = try_invept(single ? INVEPT_SINGLE : INVEPT_ALL, operand);
    if (status != VMX_OK)
        broken("INVEPT: status %u", status);
}
