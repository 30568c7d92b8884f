/* VM-entry checks of the guest state: a VM exit with reason 33. */
#include "test/entry_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/instructions.h"

static const struct entry_row register_rows[] = {
    { "CR0.NE", VMCS_GUEST_CR0, CR0_NE, 0, ALWAYS, 0, 0 },
    { "CR0.PG without PE", VMCS_GUEST_CR0, CR0_PE, 0, ALWAYS, 0, 0 },
    { "CR4.VMXE", VMCS_GUEST_CR4, CR4_VMXE, 0, ALWAYS, 0, 0 },
    { "PAT, type 3", VMCS_GUEST_PAT, 0xff, 3, ENTRY, ENTRY_LOAD_PAT, 0 },
    { "PAT, bit 63", VMCS_GUEST_PAT, 0, BIT64(63), ENTRY, ENTRY_LOAD_PAT, 0 },
    { "EFER, reserved bit", VMCS_GUEST_EFER, 0, BIT(1), ENTRY, ENTRY_LOAD_EFER, 0 },
    { "EFER.LMA not as the entry control", VMCS_GUEST_EFER, IS_64BIT ? EFER_LMA : 0,
      IS_64BIT ? 0 : EFER_LMA, ENTRY, ENTRY_LOAD_EFER, 0 },
    { "EFER.LME not LMA while paging", VMCS_GUEST_EFER, IS_64BIT ? EFER_LME : 0,
      IS_64BIT ? 0 : EFER_LME, ENTRY, ENTRY_LOAD_EFER, 0 },
#ifdef __x86_64__
    { "CR3, too wide", VMCS_GUEST_CR3, 0, TOO_WIDE, ALWAYS, 0, 0 },
    { "CR4.PAE in IA-32e mode", VMCS_GUEST_CR4, CR4_PAE, 0, ALWAYS, 0, 0 },
    { "DR7, bit 32", VMCS_GUEST_DR7, 0, BIT64(32), ENTRY, ENTRY_LOAD_DEBUG, 0 },
    { "SYSENTER_ESP not canonical", VMCS_GUEST_SYSENTER_ESP, 0, BIT64(63), ALWAYS, 0, 0 },
    { "SYSENTER_EIP not canonical", VMCS_GUEST_SYSENTER_EIP, 0, BIT64(63), ALWAYS, 0, 0 },
#else
    { "CR4.PCIDE outside IA-32e mode", VMCS_GUEST_CR4, 0, CR4_PCIDE, ALWAYS, 0, 0 },
#endif
};

static const struct entry_row code_rows[] = {
    { "CS, type 1", VMCS_GUEST_CS_AR, 0xf, 1, ALWAYS, 0, 0 },
    { "CS, type 3: data", VMCS_GUEST_CS_AR, 0xf, 3, ALWAYS, 0, 0 },
    { "CS, type 8: not accessed", VMCS_GUEST_CS_AR, 0xf, 8, ALWAYS, 0, 0 },
    { "CS, a system segment", VMCS_GUEST_CS_AR, 0x10, 0, ALWAYS, 0, 0 },
    { "CS, DPL 3 in ring 0", VMCS_GUEST_CS_AR, 0, AR_DPL3, ALWAYS, 0, 0 },
    { "CS, conforming, DPL 3", VMCS_GUEST_CS_AR, 0xf, AR_DPL3 | 0xf, ALWAYS, 0, 0 },
    { "CS, not present", VMCS_GUEST_CS_AR, 0x80, 0, ALWAYS, 0, 0 },
    { "CS, bit 8", VMCS_GUEST_CS_AR, 0, 0x100, ALWAYS, 0, 0 },
    { "CS, bit 11", VMCS_GUEST_CS_AR, 0, 0x800, ALWAYS, 0, 0 },
    { "CS, bit 31", VMCS_GUEST_CS_AR, 0, BIT(31), ALWAYS, 0, 0 },
    { "CS, limit in bytes but high", VMCS_GUEST_CS_AR, AR_PAGES, 0, ALWAYS, 0, 0 },
    { "CS, limit in pages but odd", VMCS_GUEST_CS_LIMIT, 0xfff, 0, ALWAYS, 0, 0 },
#ifdef __x86_64__
    { "CS base, bit 32", VMCS_GUEST_CS_BASE, 0, BIT64(32), ALWAYS, 0, 0 },
    { "CS both 64-bit and 32-bit", VMCS_GUEST_CS_AR, 0, AR_32BIT, ALWAYS, 0, 0 },
#endif
};

static const struct entry_row data_rows[] = {
    { "SS in another ring than CS", VMCS_GUEST_SS, 0, 1, ALWAYS, 0, 0 },
    { "SS, type 1: read-only", VMCS_GUEST_SS_AR, 0xf, 1, ALWAYS, 0, 0 },
    { "SS, type 2: not accessed", VMCS_GUEST_SS_AR, 0xf, 2, ALWAYS, 0, 0 },
    { "SS, code", VMCS_GUEST_SS_AR, 0xf, 0xb, ALWAYS, 0, 0 },
    { "SS, a system segment", VMCS_GUEST_SS_AR, 0x10, 0, ALWAYS, 0, 0 },
    { "SS, DPL 3 in ring 0", VMCS_GUEST_SS_AR, 0, AR_DPL3, ALWAYS, 0, 0 },
    { "SS, not present", VMCS_GUEST_SS_AR, 0x80, 0, ALWAYS, 0, 0 },
    { "SS, bit 9", VMCS_GUEST_SS_AR, 0, 0x200, ALWAYS, 0, 0 },
    { "SS, limit in pages but odd", VMCS_GUEST_SS_LIMIT, 1, 0, ALWAYS, 0, 0 },
    { "DS, not accessed", VMCS_GUEST_DS_AR, 1, 0, ALWAYS, 0, 0 },
    { "DS, code that cannot be read", VMCS_GUEST_DS_AR, 0xf, 9, ALWAYS, 0, 0 },
    { "DS, a system segment", VMCS_GUEST_DS_AR, 0x10, 0, ALWAYS, 0, 0 },
    { "DS, not present", VMCS_GUEST_DS_AR, 0x80, 0, ALWAYS, 0, 0 },
    { "DS, bit 10", VMCS_GUEST_DS_AR, 0, 0x400, ALWAYS, 0, 0 },
    { "DS, limit in bytes but high", VMCS_GUEST_DS_AR, AR_PAGES, 0, ALWAYS, 0, 0 },
    { "ES, not accessed", VMCS_GUEST_ES_AR, 1, 0, ALWAYS, 0, 0 },
    { "ES, RPL above DPL", VMCS_GUEST_ES, 0, 3, ALWAYS, 0, 0 },
    { "FS, not present", VMCS_GUEST_FS_AR, 0x80, 0, ALWAYS, 0, 0 },
    { "GS, bit 20", VMCS_GUEST_GS_AR, 0, BIT(20), ALWAYS, 0, 0 },
#ifdef __x86_64__
    { "SS base, bit 63", VMCS_GUEST_SS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "DS base, bit 40", VMCS_GUEST_DS_BASE, 0, BIT64(40), ALWAYS, 0, 0 },
    { "FS base not canonical", VMCS_GUEST_FS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GS base not canonical", VMCS_GUEST_GS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
#endif
};

static const struct entry_row system_rows[] = {
    { "TR, local", VMCS_GUEST_TR, 0, 4, ALWAYS, 0, 0 },
    { "TR, available", VMCS_GUEST_TR_AR, 2, 0, ALWAYS, 0, 0 },
    { "TR, a code segment", VMCS_GUEST_TR_AR, 0, 0x10, ALWAYS, 0, 0 },
    { "TR, not present", VMCS_GUEST_TR_AR, 0x80, 0, ALWAYS, 0, 0 },
    { "TR, unusable", VMCS_GUEST_TR_AR, 0, AR_UNUSABLE, ALWAYS, 0, 0 },
    { "TR, bit 8", VMCS_GUEST_TR_AR, 0, 0x100, ALWAYS, 0, 0 },
    { "TR, limit in pages but odd", VMCS_GUEST_TR_AR, 0, AR_PAGES, ALWAYS, 0, 0 },
    { "LDTR, usable, type 0", VMCS_GUEST_LDTR_AR, AR_UNUSABLE, 0x80, ALWAYS, 0, 0 },
    { "LDTR, usable, a data segment", VMCS_GUEST_LDTR_AR, AR_UNUSABLE, AR_LDT | 0x10, ALWAYS, 0,
      0 },
    { "LDTR, usable, not present", VMCS_GUEST_LDTR_AR, AR_UNUSABLE, AR_LDT & 0x7f, ALWAYS, 0, 0 },
    { "GDTR limit, bit 16", VMCS_GUEST_GDTR_LIMIT, 0, BIT(16), ALWAYS, 0, 0 },
    { "IDTR limit, bit 31", VMCS_GUEST_IDTR_LIMIT, 0, BIT(31), ALWAYS, 0, 0 },
#ifdef __x86_64__
    { "TR base not canonical", VMCS_GUEST_TR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GDTR base not canonical", VMCS_GUEST_GDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "IDTR base not canonical", VMCS_GUEST_IDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "TR, a 16-bit TSS in IA-32e mode", VMCS_GUEST_TR_AR, 8, 0, ALWAYS, 0, 0 },
#endif
};

static const struct entry_row flag_rows[] = {
    { "RFLAGS, bit 1", VMCS_GUEST_RFLAGS, RFLAGS_FIXED, 0, ALWAYS, 0, 0 },
    { "RFLAGS, bit 3", VMCS_GUEST_RFLAGS, 0, 8, ALWAYS, 0, 0 },
    { "RFLAGS, bit 15", VMCS_GUEST_RFLAGS, 0, 0x8000, ALWAYS, 0, 0 },
    { "RFLAGS, bit 22", VMCS_GUEST_RFLAGS, 0, BIT(22), ALWAYS, 0, 0 },
#ifdef __x86_64__
    { "RFLAGS.VM in IA-32e mode", VMCS_GUEST_RFLAGS, 0, RFLAGS_VM, ALWAYS, 0, 0 },
    { "RFLAGS, bit 63", VMCS_GUEST_RFLAGS, 0, BIT64(63), ALWAYS, 0, 0 },
#endif
};

static const struct entry_row activity_rows[] = {
    { "activity state 4", VMCS_GUEST_ACTIVITY, 0, 4, ALWAYS, 0, 0 },
    { "activity state 2^31", VMCS_GUEST_ACTIVITY, 0, BIT(31), ALWAYS, 0, 0 },
    { "interruptibility, bit 5", VMCS_GUEST_INTERRUPTIBILITY, 0, 0x20, ALWAYS, 0, 0 },
    { "interruptibility, bit 31", VMCS_GUEST_INTERRUPTIBILITY, 0, BIT(31), ALWAYS, 0, 0 },
    { "blocking by STI with IF clear", VMCS_GUEST_INTERRUPTIBILITY, 0, BLOCKING_STI, ALWAYS, 0, 0 },
    { "blocking by STI and MOV SS", VMCS_GUEST_INTERRUPTIBILITY, 0, BLOCKING_STI | BLOCKING_MOV_SS,
      ALWAYS, 0, 0 },
    { "blocking by SMI outside SMM", VMCS_GUEST_INTERRUPTIBILITY, 0, BLOCKING_SMI, ALWAYS, 0, 0 },
};

static const struct entry_row pending_rows[] = {
    { "pending debug exceptions, bit 4", VMCS_GUEST_PENDING_DEBUG, 0, 0x10, ALWAYS, 0, 0 },
    { "pending debug exceptions, bit 13", VMCS_GUEST_PENDING_DEBUG, 0, 0x2000, ALWAYS, 0, 0 },
    { "pending debug exceptions, bit 31", VMCS_GUEST_PENDING_DEBUG, 0, BIT(31), ALWAYS, 0, 0 },
#ifdef __x86_64__
    { "pending debug exceptions, bit 63", VMCS_GUEST_PENDING_DEBUG, 0, BIT64(63), ALWAYS, 0, 0 },
#endif
};

static const struct entry_row debugctl_rows[] = {
    { "DEBUGCTL, reserved bits", VMCS_GUEST_DEBUGCTL, 0, 0xffff0000, ENTRY, ENTRY_LOAD_DEBUG, 0 },
};

#ifdef __x86_64__
static const struct entry_row rip_rows[] = {
    { "RIP not canonical", VMCS_GUEST_RIP, 0, BIT64(63), ALWAYS, 0, 0 },
};
#endif

static void give_guest_msrs(void)
{
    if (may_set(ENTRY, ENTRY_LOAD_PAT))
        vmwrite(VMCS_GUEST_PAT, rdmsr(MSR_PAT));
    if (may_set(ENTRY, ENTRY_LOAD_EFER))
        vmwrite(VMCS_GUEST_EFER, IS_64BIT ? EFER_LMA | EFER_LME : 0);
}

static void check_guest_rows(struct vm *vm, const struct entry_row *rows, unsigned count)
{
    give_guest_msrs();
    start_nothing(vm);
    check_rows(vm, rows, count, expect_bad_guest, 0);
}

#define GUEST_TEST(rows, name)                                                                     \
    TEST("entry", rows, name, 0) { check_guest_rows(vm, rows, ARRAY_LEN(rows)); }

GUEST_TEST(register_rows, "entry-guest-registers")
GUEST_TEST(code_rows, "entry-guest-cs")
GUEST_TEST(data_rows, "entry-guest-data-segments")
GUEST_TEST(system_rows, "entry-guest-tr-ldtr")
GUEST_TEST(flag_rows, "entry-guest-rflags")
GUEST_TEST(activity_rows, "entry-guest-activity")
GUEST_TEST(pending_rows, "entry-guest-pending-debug")
GUEST_TEST(debugctl_rows, "entry-guest-debugctl")

#ifdef __x86_64__
GUEST_TEST(rip_rows, "entry-guest-rip")

/* Outside 64-bit mode, RIP has 32 bits. */
TEST("entry", rip_high, "entry-guest-rip-compatibility", 0)
{
    start_nothing(vm);
    vmwrite(VMCS_GUEST_CS_AR, AR_CODE | AR_32BIT | AR_PAGES);
    vmwrite(VMCS_GUEST_RIP, nothing_ip() | BIT64(32));
    expect_bad_guest(vm, 0);
}
#endif

/* Without "unrestricted guest", protection and paging must be on. */
TEST("entry", restricted, "entry-guest-unpaged", 0)
{
    if (!may_clear(CPU2, CPU2_UNRESTRICTED))
        skip("guests are always unrestricted");
    static const struct entry_row rows[] = {
        { "CR0.PG", VMCS_GUEST_CR0, CR0_PG, 0, ALWAYS, 0, 0 },
        { "CR0.PE and PG", VMCS_GUEST_CR0, CR0_PG | CR0_PE, 0, ALWAYS, 0, 0 },
    };
    start_nothing(vm);
    check_rows(vm, rows, ARRAY_LEN(rows), expect_bad_guest, 0);
}

/* ---- guest state that must agree with the event to inject ---- */

struct agreement {
    const char *name;
    u32 event;
    u32 flags, interruptibility, activity;
};

static const struct agreement agreement_rows[] = {
    { "interrupt with IF clear", EVENT_EXTERNAL | 0x50, 0, 0, 0 },
    { "interrupt, blocking by STI", EVENT_EXTERNAL | 0x50, RFLAGS_IF, BLOCKING_STI, 0 },
    { "interrupt, blocking by MOV SS", EVENT_EXTERNAL | 0x50, RFLAGS_IF, BLOCKING_MOV_SS, 0 },
    { "NMI, blocking by MOV SS", EVENT_NMI | EXC_NMI, 0, BLOCKING_MOV_SS, 0 },
    { "halted, blocking by STI", 0, RFLAGS_IF, BLOCKING_STI, ACTIVITY_HLT },
    { "halted, blocking by MOV SS", 0, RFLAGS_IF, BLOCKING_MOV_SS, ACTIVITY_HLT },
    { "shutdown, interrupt", EVENT_EXTERNAL | 0x50, RFLAGS_IF, 0, ACTIVITY_SHUTDOWN },
    { "waiting for SIPI, NMI", EVENT_NMI | EXC_NMI, 0, 0, ACTIVITY_WAIT_SIPI },
};

/* A halted processor is not waiting for these. */
static const struct agreement halted_rows[] = {
    { "#UD", EVENT_HARDWARE | EXC_UD, 0, 0, ACTIVITY_HLT },
    { "#PF", EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF, 0, 0, ACTIVITY_HLT },
    { "INT n", EVENT_SOFTWARE | 0x50, 0, 0, ACTIVITY_HLT },
    { "INT3", EVENT_SOFT_EXCEPTION | EXC_BP, 0, 0, ACTIVITY_HLT },
};

static bool activity_offered(u32 activity)
{
    return !activity || (caps.misc >> (5 + activity) & 1);
}

static void check_agreement(struct vm *vm, const struct agreement *it)
{
    if (!activity_offered(it->activity))
        return;
    row(it->name);
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_EVENT, it->event ? EVENT_VALID | it->event : 0);
    vmwrite(VMCS_ENTRY_LENGTH, 2);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | it->flags);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, it->interruptibility);
    vmwrite(VMCS_GUEST_ACTIVITY, it->activity);
    expect_bad_guest(vm, 0);
}

TEST("entry", agreement, "entry-event-and-state", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(agreement_rows); i++)
        check_agreement(vm, &agreement_rows[i]);
    row("activity states that are not offered");
    vmwrite(VMCS_ENTRY_EVENT, 0);
    vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    for (u32 activity = 1; activity <= 3; activity++) {
        if (activity_offered(activity))
            continue;
        vmwrite(VMCS_GUEST_ACTIVITY, activity);
        expect_bad_guest(vm, 0);
    }
}

TEST("entry", halted, "entry-event-while-halted", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(halted_rows); i++)
        check_agreement(vm, &halted_rows[i]);
}

/* ---- the VMCS link pointer: qualification 4 ---- */

enum { QUALIFICATION_LINK = 4 };

TEST("entry", link, "entry-link-pointer", 0)
{
    const struct {
        const char *name;
        u64 value;
    } rows[] = {
        { "low bits", physical(vmcs_region(1)) | 0x10 },
        { "too wide", BIT64(caps.physical_bits) },
        { "bit 63", physical(vmcs_region(1)) | BIT64(63) },
        { "not a VMCS", physical(vm->shared) },
        { "the current VMCS", physical(vm->vmcs) },
    };
    *(u32 *)vm->shared = caps.revision ^ 0x55;
    start_nothing(vm);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        vmwrite(VMCS_VMCS_LINK, rows[i].value);
        expect_bad_guest(vm, QUALIFICATION_LINK);
    }
    row("none");
    vmwrite(VMCS_VMCS_LINK, ~0ull);
    vm_expect_done(vm);
}

/* ---- what a failed entry leaves as it was ---- */

TEST("entry", nothing_lost, "entry-failure-keeps-guest-state", 0)
{
    start_nothing(vm);
    vmwrite(VMCS_ENTRY_EVENT, 0);
    vmwrite(VMCS_GUEST_RSP, 0x12345678);
    vmwrite(VMCS_GUEST_ACTIVITY, 4);
    expect_bad_guest(vm, 0);
    check_equal("RSP", vmread(VMCS_GUEST_RSP), 0x12345678);
    check_equal("RIP", vmread(VMCS_GUEST_RIP), nothing_ip());
    check_equal("activity", vmread(VMCS_GUEST_ACTIVITY), 4);
    row("the VMCS is still not launched");
    vmwrite(VMCS_GUEST_ACTIVITY, 0);
    start_nothing(vm);
    vm_expect_done(vm);
}

/* ---- virtual-8086 mode: segments must look as real-mode segments do ---- */

L2_CODE16(l2_v86, "", "nop");

static const struct entry_row v86_rows[] = {
    { "CS base", VMCS_GUEST_CS_BASE, 0, 0x10, ALWAYS, 0, 0 },
    { "SS limit", VMCS_GUEST_SS_LIMIT, 0xffff, 0x7fff, ALWAYS, 0, 0 },
    { "DS access rights", VMCS_GUEST_DS_AR, 0, AR_32BIT, ALWAYS, 0, 0 },
    { "ES, DPL 0", VMCS_GUEST_ES_AR, AR_DPL3, 0, ALWAYS, 0, 0 },
};

TEST("entry", v86, "entry-guest-v86", TEST_EPT)
{
    struct space space;
    vm_start_mode(vm, MODE_V86, &space, &l2_v86);
    check_rows(vm, v86_rows, ARRAY_LEN(v86_rows), expect_bad_guest, 0);
}
