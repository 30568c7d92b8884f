/*
 * Extended page tables (SDM 3C, "The extended page table mechanism"): four levels, numbered 4 (the
 * root) down to 1.  Each entry covers 4 KiB at level 1, 2 MiB at level 2, 1 GiB at level 3.
 */
#pragma once
#include "lib/types.h"

/* Bits of an entry */
enum {
    EPT_READ = BIT(0),
    EPT_WRITE = BIT(1),
    EPT_EXEC = BIT(2),
    EPT_RWX = 7,
    EPT_TYPE_SHIFT = 3, /* memory type, in leaves */
    EPT_IGNORE_PAT = BIT(6),
    EPT_LARGE = BIT(7), /* a leaf at level 2 or 3 */
    EPT_ACCESSED = BIT(8),
    EPT_DIRTY = BIT(9),
};
enum memory_type { TYPE_UC = 0, TYPE_WC = 1, TYPE_WT = 4, TYPE_WP = 5, TYPE_WB = 6 };
#define EPT_TYPE(type) ((u64)(type) << EPT_TYPE_SHIFT)
#define EPT_WB EPT_TYPE(TYPE_WB)
#define EPT_ADDRESS 0x000ffffffffff000ull

/* Bits of the EPT pointer */
enum { EPTP_WALK = 7 << 3, EPTP_WALK_4 = 3 << 3, EPTP_WALK_5 = 4 << 3, EPTP_AD = BIT(6) };

/* Bits of the exit qualification of an EPT violation */
enum {
    VIOLATION_READ = BIT(0),
    VIOLATION_WRITE = BIT(1),
    VIOLATION_FETCH = BIT(2),
    VIOLATION_ALLOWS_SHIFT = 3, /* what the entries allowed: R, W, X */
    VIOLATION_LINEAR_VALID = BIT(7),
    VIOLATION_FINAL = BIT(8), /* of the linear address itself, not of a paging structure */
    VIOLATION_NMI_UNBLOCKING = BIT(12),
};

struct ept {
    u64 *root;
    u64 eptp;
};

/* An empty table; its EPTP asks for write-back structures, walk length 4, no A/D flags. */
void ept_create(struct ept *ept);

/* The entry of `level` for an address.  Missing tables on the way are created. */
u64 *ept_entry(struct ept *ept, u64 gpa, unsigned level);

/* Map the page or large page at `gpa`.  `flags`: permissions, type, ignore-PAT. */
void ept_map(struct ept *ept, u64 gpa, u64 hpa, unsigned level, u64 flags);

/* Map [start, end) to itself with 4 KiB pages. */
void ept_map_identity(struct ept *ept, u64 start, u64 end, u64 flags);

/* Change a live entry in one piece. */
void ept_write(u64 *entry, u64 value);

/* INVEPT of this table, on this processor. */
void ept_invalidate(const struct ept *ept);
