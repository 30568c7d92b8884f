/* Every field of the VMCS that this processor offers reads back what was written. */
#include "lib/string.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/instructions.h"
#include "x86/bits.h"

enum { MISC_WRITE_ALL_FIELDS = BIT(29), ACCESS_RIGHTS_MASK = 0x1f0ff };

/* Fields that exist under other conditions than a control bit; and read-only ones. */
static bool usable(const struct vmcs_field_row *field)
{
    u32 encoding = field->encoding;
    if (!field_exists(field))
        return false;
    if (encoding >= VMCS_CR3_TARGET_0 && encoding <= VMCS_CR3_TARGET_3)
        return (encoding - VMCS_CR3_TARGET_0) / 2 < (caps.misc >> 16 & 0x1ff);
    if (encoding == VMCS_EPTP_LIST)
        return caps.vmfunc & 1;
    return true;
}

static bool writable(const struct vmcs_field_row *field)
{
    return field_kind(field->encoding) != KIND_READ_ONLY || (caps.misc & MISC_WRITE_ALL_FIELDS);
}

static u64 all_ones(u32 encoding)
{
    switch (field_width(encoding)) {
    case WIDTH_16: return 0xffff;
    case WIDTH_32: return 0xffffffff;
    case WIDTH_64: return ~0ull;
    default: return (word)-1;
    }
}

/* A processor need not keep the reserved bits of access rights. */
static u64 kept_bits(u32 encoding)
{
    bool rights = encoding >= VMCS_GUEST_ES_AR && encoding <= VMCS_GUEST_TR_AR;
    return rights ? ACCESS_RIGHTS_MASK : all_ones(encoding);
}

/* Different for every field and round, so that two fields cannot be one. */
static u64 pattern(u32 encoding, unsigned round)
{
    u64 value = (encoding + 1) * 0x9e3779b97f4a7c15ull + round * 0x0123456789abcdefull;
    return (value ^ value >> 29) & kept_bits(encoding);
}

static void write_all(unsigned round)
{
    for (unsigned i = 0; i < vmcs_field_count; i++)
        if (usable(&vmcs_fields[i]) && writable(&vmcs_fields[i]))
            vmwrite(vmcs_fields[i].encoding, pattern(vmcs_fields[i].encoding, round));
}

static void check_all(unsigned round)
{
    for (unsigned i = 0; i < vmcs_field_count; i++) {
        u32 encoding = vmcs_fields[i].encoding;
        /* The fails of VMREAD itself would change this one. */
        if (!usable(&vmcs_fields[i]) || !writable(&vmcs_fields[i]))
            continue;
        row(vmcs_fields[i].name);
        check_equal("value", vmread(encoding) & kept_bits(encoding), pattern(encoding, round));
    }
}

/* All fields at once, so that a field that overlaps another is noticed. */
TEST("fields", read_back, "fields-read-back", 0)
{
    vmptrld(physical(vmcs_region(1)));
    for (unsigned round = 0; round < 2; round++) {
        write_all(round);
        check_all(round);
    }
    vmclear(physical(vmcs_region(1)));
}

/* One by one: all ones, all zeroes. */
TEST("fields", extremes, "fields-extremes", 0)
{
    vmptrld(physical(vmcs_region(1)));
    for (unsigned i = 0; i < vmcs_field_count; i++) {
        u32 encoding = vmcs_fields[i].encoding;
        if (!usable(&vmcs_fields[i]) || !writable(&vmcs_fields[i]))
            continue;
        row(vmcs_fields[i].name);
        vmwrite(encoding, kept_bits(encoding));
        check_equal("ones", vmread(encoding) & kept_bits(encoding), kept_bits(encoding));
        vmwrite(encoding, 0);
        check_equal("zeroes", vmread(encoding), 0);
    }
    vmclear(physical(vmcs_region(1)));
}

/* VMWRITE ignores what does not fit, VMREAD fills up with zeroes. */
TEST("fields", widths, "fields-widths", 0)
{
    word value;
    vmptrld(physical(vmcs_region(1)));
    try_vmwrite(VMCS_GUEST_ES, (word)-1);
    try_vmread(VMCS_GUEST_ES, &value);
    check_equal("16 bits", value, 0xffff);
    try_vmwrite(VMCS_GUEST_ES_LIMIT, (word)-1);
    try_vmread(VMCS_GUEST_ES_LIMIT, &value);
    check_equal("32 bits", value, 0xffffffff);
    vmclear(physical(vmcs_region(1)));
}

/* The upper half of a 64-bit field has an encoding of its own, in every mode. */
TEST("fields", halves, "fields-upper-halves", 0)
{
    word value;
    vmptrld(physical(vmcs_region(1)));
    for (unsigned i = 0; i < vmcs_field_count; i++) {
        u32 encoding = vmcs_fields[i].encoding;
        if (field_width(encoding) != WIDTH_64 || !usable(&vmcs_fields[i]) ||
            !writable(&vmcs_fields[i]))
            continue;
        row(vmcs_fields[i].name);
        vmwrite(encoding, 0x1122334455667788);
        try_vmread(encoding + 1, &value);
        check_equal("upper half", value, 0x11223344);
        try_vmwrite(encoding + 1, 0x99aabbcc);
        check_equal("whole", vmread(encoding), 0x99aabbcc55667788);
    }
    vmclear(physical(vmcs_region(1)));
}

/* The values live in the region: they survive VMCLEAR, and two VMCSs do not mix. */
TEST("fields", survive, "fields-survive-vmclear", 0)
{
    for (unsigned which = 1; which <= 2; which++) {
        vmptrld(physical(vmcs_region(which)));
        write_all(which);
    }
    for (unsigned which = 1; which <= 2; which++)
        vmclear(physical(vmcs_region(which)));
    for (unsigned which = 1; which <= 2; which++) {
        vmptrld(physical(vmcs_region(which)));
        check_all(which);
    }
    row("switching without VMCLEAR");
    vmptrld(physical(vmcs_region(1)));
    check_all(1);
    vmclear(physical(vmcs_region(1)));
    vmclear(physical(vmcs_region(2)));
}

TEST("fields", pointer, "vmptrst", 0)
{
    u64 pointer = 0;
    for (unsigned which = 1; which < VMCS_REGIONS; which++) {
        vmptrld(physical(vmcs_region(which)));
        vmptrst(&pointer);
        check_equal("current VMCS", pointer, physical(vmcs_region(which)));
    }
    row("VMCLEAR of another VMCS");
    vmclear(physical(vmcs_region(1)));
    vmptrst(&pointer);
    check_equal("current VMCS", pointer, physical(vmcs_region(VMCS_REGIONS - 1)));
    row("VMCLEAR of the current VMCS");
    vmclear(physical(vmcs_region(VMCS_REGIONS - 1)));
    vmptrst(&pointer);
    check_equal("no current VMCS", pointer, ~0ull);
}

/* The two operand forms, and a register for the encoding that was not used above. */
TEST("fields", forms, "vmread-vmwrite-forms", 0)
{
    word in_register = 0, in_memory[2] = { 0, 0x77 };
    word encoding = VMCS_GUEST_RSP;
    asm volatile("vmwrite %0, %1" : : "r"((word)0x1234), "r"(encoding) : "cc");
    asm volatile("vmread %1, %0" : "=r"(in_register) : "r"(encoding) : "cc");
    asm volatile("vmread %1, %0" : "=m"(in_memory[0]) : "r"(encoding) : "cc");
    check_equal("register", in_register, 0x1234);
    check_equal("memory", in_memory[0], 0x1234);
    check_equal("behind", in_memory[1], 0x77);
    word source = 0x4321;
    asm volatile("vmwrite %0, %1" : : "m"(source), "r"(encoding) : "cc");
    check_equal("from memory", vmread(VMCS_GUEST_RSP), 0x4321);
}

/* IA32_VMX_VMCS_ENUM tells the highest index; the table's own fields must not exceed it. */
TEST("fields", highest, "fields-highest-index", 0)
{
    u32 highest = rdmsr(MSR_VMX_VMCS_ENUM) >> 1 & 0x1ff;
    for (unsigned i = 0; i < vmcs_field_count; i++)
        if (usable(&vmcs_fields[i]) && (vmcs_fields[i].encoding >> 1 & 0x1ff) > highest)
            fail("%s lies beyond the highest index", vmcs_fields[i].name);
}
