/*
 * ACPI: the RSDP is found by its signature, leads to the RSDT or XSDT, and one of the tables listed
 * there, the MADT, lists the local APICs.  Without ACPI: the table of the MultiProcessor
 * Specification 1.4.  Without that too: none, and lhv uses the boot processor alone.
 */
#include "pc/firmware.h"
#include "lib/string.h"

static bool sums_to_zero(const void *start, word length)
{
    const u8 *at = start;
    u8 sum = 0;
    while (length--)
        sum = (u8)(sum + *at++);
    return sum == 0;
}

/* Read a word of the BIOS data area; the address is hidden from the compiler, which distrusts
   pointers close to null. */
static u16 bios_word(word address)
{
    asm("" : "+r"(address));
    return *(const volatile u16 *)address;
}

/* Look for `signature` on 16-byte boundaries where firmware leaves its tables. */
static const void *scan(const char *signature, word length)
{
    word ebda = (word)bios_word(0x40e) << 4;
    const word areas[][2] = { { ebda, ebda + 1024 }, { 0x9fc00, 0xa0000 }, { 0xe0000, 0x100000 } };
    for (unsigned i = 0; i < ARRAY_LEN(areas); i++) {
        if (areas[i][0] < 0x400)
            continue;
        for (word at = areas[i][0]; at < areas[i][1]; at += 16)
            if (!memcmp((const void *)at, signature, strlen(signature)) &&
                sums_to_zero((const void *)at, length))
                return (const void *)at;
    }
    return NULL;
}

/* ---- ACPI ---- */

struct rsdp {
    char signature[8];
    u8 checksum;
    char oem[6];
    u8 revision;
    u32 rsdt;
    u32 length;
    u64 xsdt;
} __attribute__((packed));

struct acpi_table {
    char signature[4];
    u32 length;
    u8 revision, checksum;
    char oem[6], oem_table[8];
    u32 oem_revision, creator, creator_revision;
} __attribute__((packed));

struct madt_entry {
    u8 type, length;
    union {
        struct {
            u8 processor, apic_id;
            u32 flags;
        } __attribute__((packed)) local_apic;
        struct {
            u16 reserved;
            u32 apic_id, flags, processor;
        } __attribute__((packed)) local_x2apic;
    };
} __attribute__((packed));

enum { MADT_LOCAL_APIC = 0, MADT_LOCAL_X2APIC = 9, MADT_ENABLED = 1, MADT_ENTRIES = 44 };

static const struct acpi_table *table_at(u64 address, const char *signature)
{
    const struct acpi_table *table = (const void *)(word)address;
    bool usable = address && address < 0xfffff000 && !memcmp(table->signature, signature, 4);
    return usable ? table : NULL;
}

/* Find a table listed in the XSDT (entries of 8 bytes) or the RSDT (of 4). */
static const struct acpi_table *listed(const struct acpi_table *list, word entry_size,
                                       const char *signature)
{
    const u8 *entry = (const u8 *)(list + 1), *end = (const u8 *)list + list->length;
    for (; entry + entry_size <= end; entry += entry_size) {
        u64 address = 0;
        memcpy(&address, entry, entry_size);
        const struct acpi_table *table = table_at(address, signature);
        if (table)
            return table;
    }
    return NULL;
}

static const struct acpi_table *find_madt(void)
{
    const struct rsdp *rsdp = scan("RSD PTR ", 20);
    if (!rsdp)
        return NULL;
    const struct acpi_table *xsdt = rsdp->revision >= 2 ? table_at(rsdp->xsdt, "XSDT") : NULL;
    const struct acpi_table *madt = xsdt ? listed(xsdt, 8, "APIC") : NULL;
    const struct acpi_table *rsdt = table_at(rsdp->rsdt, "RSDT");
    return madt || !rsdt ? madt : listed(rsdt, 4, "APIC");
}

static unsigned processors_of_madt(const struct acpi_table *madt, u32 *ids, unsigned max)
{
    const u8 *at = (const u8 *)madt + MADT_ENTRIES, *end = (const u8 *)madt + madt->length;
    unsigned n = 0;
    while (at + 2 <= end && n < max) {
        const struct madt_entry *entry = (const void *)at;
        if (entry->type == MADT_LOCAL_APIC && (entry->local_apic.flags & MADT_ENABLED))
            ids[n++] = entry->local_apic.apic_id;
        if (entry->type == MADT_LOCAL_X2APIC && (entry->local_x2apic.flags & MADT_ENABLED))
            ids[n++] = entry->local_x2apic.apic_id;
        if (!entry->length)
            break;
        at += entry->length;
    }
    return n;
}

/* ---- MultiProcessor Specification ---- */

struct mp_pointer {
    char signature[4];
    u32 table;
    u8 length, revision, checksum, features[5];
} __attribute__((packed));

struct mp_table {
    char signature[4];
    u16 length;
    u8 revision, checksum;
    char oem[8], product[12];
    u32 oem_table;
    u16 oem_size, entries;
    u32 local_apic;
    u16 extended_length;
    u8 extended_checksum, reserved;
} __attribute__((packed));

struct mp_processor {
    u8 type, apic_id, version, flags;
    u32 signature, features, reserved[2];
} __attribute__((packed));

enum { MP_PROCESSOR = 0, MP_ENABLED = 1 };

static unsigned processors_of_mp(u32 *ids, unsigned max)
{
    const struct mp_pointer *pointer = scan("_MP_", 16);
    const struct mp_table *table = pointer ? (const void *)(word)pointer->table : NULL;
    if (!table || memcmp(table->signature, "PCMP", 4))
        return 0;
    const u8 *at = (const u8 *)(table + 1);
    unsigned n = 0;
    for (unsigned i = 0; i < table->entries && n < max; i++) {
        const struct mp_processor *processor = (const void *)at;
        bool is_processor = processor->type == MP_PROCESSOR;
        if (is_processor && (processor->flags & MP_ENABLED))
            ids[n++] = processor->apic_id;
        at += is_processor ? sizeof *processor : 8; /* all other entries have 8 bytes */
    }
    return n;
}

unsigned firmware_processors(u32 *apic_ids, unsigned max)
{
    const struct acpi_table *madt = find_madt();
    unsigned n = madt ? processors_of_madt(madt, apic_ids, max) : 0;
    return n ? n : processors_of_mp(apic_ids, max);
}
