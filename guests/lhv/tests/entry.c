/*
 * The checks that a VM entry makes (SDM 3C, "VM entries").  A row breaks one thing in a VMCS that is
 * otherwise good, and tells how the entry must fail: with error 7 (controls), with error 8 (host
 * state), or, as a VM exit with reason 33, for guest state.
 */
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { BAD_CONTROL = 7, BAD_HOST = 8 };

struct entry_row {
    const char *name;
    u32 field;
    u64 clear, set;          /* what is changed in the field */
    enum control_word word;  /* control bits that the row needs on */
    u32 controls;
    u32 also;                /* more of them, in the secondary word */
};

/* In `set`: the first address bit that this processor has not */
#define TOO_WIDE 0x8000000000000001ull

static u64 changed(const struct entry_row *it, u64 value)
{
    u64 set = it->set == TOO_WIDE ? BIT64(caps.physical_bits) : it->set;
    return (value & ~it->clear) | set;
}

static bool applicable(const struct entry_row *it)
{
    if (it->word < CONTROL_WORDS && !may_set(it->word, it->controls))
        return false;
    return may_set(CPU2, it->also);
}

/* Fields that hold the control words themselves are not to be changed behind vm_control(). */
static void expect_error(struct vm *vm, u32 error)
{
    enum vmx_status status = vm_try_run(vm);
    if (status == VMX_FAIL_VALID) {
        check_equal("error number", vmread(VMCS_INSTRUCTION_ERROR), error);
        return;
    }
    fail("expected the entry to fail with error %u", error);
    if (status == VMX_OK)
        vm_describe(vm);
}

static void expect_bad_guest(struct vm *vm, u32 qualification)
{
    if (vm_try_run(vm) != VMX_OK) {
        fail("expected a failure with exit reason 33, met error %u", (u32)vmread(VMCS_INSTRUCTION_ERROR));
        return;
    }
    if (check_equal("exit reason", vm->reason, REASON_ENTRY_FAILURE | REASON_BAD_GUEST))
        check_equal("qualification", vm->qualification, qualification);
}

/* Do something with the row's change in place, then undo it. */
static void with_change(struct vm *vm, const struct entry_row *it, void (*expect)(struct vm *, u32),
                        u32 argument)
{
    if (!applicable(it))
        return;
    row(it->name);
    u32 old_word = it->word < CONTROL_WORDS ? vm->controls[it->word] : 0;
    u32 old_cpu2 = vm->controls[CPU2];
    if (it->word < CONTROL_WORDS)
        vm_control(vm, it->word, it->controls, 0);
    vm_control(vm, CPU2, it->also, 0);
    u64 ip = vmread(VMCS_GUEST_RIP), sp = vmread(VMCS_GUEST_RSP), old = vmread(it->field);
    vmwrite(it->field, changed(it, old));
    expect(vm, argument);
    vmwrite(VMCS_GUEST_RIP, ip); /* if L2 ran, against all expectation */
    vmwrite(VMCS_GUEST_RSP, sp);
    vmwrite(it->field, old);
    vm_control(vm, CPU2, 0, ~old_cpu2);
    if (it->word < CONTROL_WORDS)
        vm_control(vm, it->word, 0, ~old_word);
}

/* All rows, and the proof that the VMCS was good but for the changes. */
static void check_rows(struct vm *vm, const struct entry_row *rows, unsigned count,
                       void (*expect)(struct vm *, u32), u32 argument)
{
    for (unsigned i = 0; i < count; i++)
        with_change(vm, &rows[i], expect, argument);
    row("with nothing changed");
    vm_expect_done(vm);
}

L2_CODE(l2_nothing, "", "nop");

/* ---- controls: every bit that a capability MSR fixes ---- */

static const u32 word_field[CONTROL_WORDS] = {
    [PIN] = VMCS_PIN_CONTROLS, [CPU] = VMCS_CPU_CONTROLS, [CPU2] = VMCS_CPU2_CONTROLS,
    [EXIT] = VMCS_EXIT_CONTROLS, [ENTRY] = VMCS_ENTRY_CONTROLS,
};
static const char *const word_name[CONTROL_WORDS] = {
    [PIN] = "pin-based", [CPU] = "processor-based", [CPU2] = "secondary", [EXIT] = "exit",
    [ENTRY] = "entry",
};

TEST("entry", fixed_bits, "entry-control-fixed-bits", 0)
{
    vm_start(vm, l2_nothing.start, 0);
    for (enum control_word word = 0; word < CONTROL_WORDS; word++) {
        if (word == CPU2 && !may_set(CPU, CPU_SECONDARY))
            continue;
        row(word_name[word]);
        for (unsigned bit = 0; bit < 32; bit++) {
            if (may_set(word, BIT(bit)) && may_clear(word, BIT(bit)))
                continue;
            vmwrite(word_field[word], vm->controls[word] ^ BIT(bit));
            expect_error(vm, BAD_CONTROL);
        }
        vmwrite(word_field[word], vm->controls[word]);
    }
    row("with nothing changed");
    vm_expect_done(vm);
}

/* Where the capability MSRs allow both, the bit alone must not be refused as "fixed"; many need
   more than the bit, so all that is asked here is the pair 0 and 1 of bits that need nothing. */
static const struct {
    enum control_word word;
    u32 bit;
} free_bits[] = {
    { CPU, CPU_TSC_OFFSETTING }, { CPU, CPU_HLT_EXITING },    { CPU, CPU_INVLPG_EXITING },
    { CPU, CPU_MWAIT_EXITING },  { CPU, CPU_RDPMC_EXITING },  { CPU, CPU_RDTSC_EXITING },
    { CPU, CPU_CR3_LOAD_EXITING }, { CPU, CPU_CR3_STORE_EXITING }, { CPU, CPU_MOV_DR_EXITING },
    { CPU, CPU_IO_EXITING },     { CPU, CPU_MONITOR_EXITING }, { CPU, CPU_PAUSE_EXITING },
    { CPU2, CPU2_DESCRIPTOR_EXITING }, { CPU2, CPU2_RDTSCP }, { CPU2, CPU2_WBINVD_EXITING },
    { CPU2, CPU2_RDRAND_EXITING }, { CPU2, CPU2_INVPCID },    { CPU2, CPU2_RDSEED_EXITING },
    { EXIT, EXIT_SAVE_DEBUG },   { EXIT, EXIT_SAVE_PAT },     { EXIT, EXIT_SAVE_EFER },
    { ENTRY, ENTRY_LOAD_DEBUG },
};

TEST("entry", free_bits, "entry-control-free-bits", 0)
{
    for (unsigned i = 0; i < ARRAY_LEN(free_bits); i++) {
        enum control_word word = free_bits[i].word;
        u32 bit = free_bits[i].bit, old = vm->controls[word];
        if (!may_set(word, bit))
            continue;
        row(word_name[word]);
        vm_control(vm, word, bit, 0);
        vm_start(vm, l2_nothing.start, 0);
        vm_expect_done(vm);
        vm_control(vm, word, 0, ~old);
    }
}

/* ---- controls: fields that belong to them ---- */

static const struct entry_row control_rows[] = {
    { "I/O bitmap A, low bits", VMCS_IO_BITMAP_A, 0, 1, CPU, CPU_IO_BITMAPS, 0 },
    { "I/O bitmap A, too wide", VMCS_IO_BITMAP_A, 0, TOO_WIDE, CPU, CPU_IO_BITMAPS, 0 },
    { "I/O bitmap B, low bits", VMCS_IO_BITMAP_B, 0, 0x800, CPU, CPU_IO_BITMAPS, 0 },
    { "I/O bitmap B, too wide", VMCS_IO_BITMAP_B, 0, TOO_WIDE, CPU, CPU_IO_BITMAPS, 0 },
    { "MSR bitmap, low bits", VMCS_MSR_BITMAP, 0, 0x10, CPU, CPU_MSR_BITMAPS, 0 },
    { "MSR bitmap, too wide", VMCS_MSR_BITMAP, 0, TOO_WIDE, CPU, CPU_MSR_BITMAPS, 0 },
    { "virtual-APIC page, low bits", VMCS_VIRTUAL_APIC, 0, 1, CPU, CPU_TPR_SHADOW, 0 },
    { "virtual-APIC page, too wide", VMCS_VIRTUAL_APIC, 0, TOO_WIDE, CPU, CPU_TPR_SHADOW, 0 },
    { "TPR threshold, bit 4", VMCS_TPR_THRESHOLD, 0, 0x10, CPU, CPU_TPR_SHADOW, 0 },
    { "TPR threshold above the virtual TPR", VMCS_TPR_THRESHOLD, 0, 1, CPU, CPU_TPR_SHADOW, 0 },
    { "virtual NMIs without NMI exiting", VMCS_PIN_CONTROLS, PIN_NMI_EXITING, PIN_VIRTUAL_NMIS,
      PIN, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS, 0 },
    { "NMI window without virtual NMIs", VMCS_CPU_CONTROLS, 0, CPU_NMI_WINDOW, ALWAYS, 0, 0 },
    { "APIC-access page, low bits", VMCS_APIC_ACCESS, 0, 0x20, CPU, CPU_TPR_SHADOW, CPU2_APIC_ACCESSES },
    { "APIC-access page, too wide", VMCS_APIC_ACCESS, 0, TOO_WIDE, CPU, CPU_TPR_SHADOW,
      CPU2_APIC_ACCESSES },
    { "x2APIC mode with APIC accesses", VMCS_CPU2_CONTROLS, 0, CPU2_X2APIC | CPU2_APIC_ACCESSES, CPU,
      CPU_TPR_SHADOW, CPU2_X2APIC | CPU2_APIC_ACCESSES },
    { "x2APIC mode without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_X2APIC, ALWAYS, 0, 0 },
    { "APIC registers without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_APIC_REGISTERS, ALWAYS, 0, 0 },
    { "virtual interrupts without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_VIRTUAL_INTERRUPTS, ALWAYS,
      0, 0 },
    { "VPID 0", VMCS_VPID, 0xffff, 0, ALWAYS, 0, CPU2_VPID },
    { "EPTP, memory type 1", VMCS_EPT_POINTER, 7, 1, ALWAYS, 0, CPU2_EPT },
    { "EPTP, memory type 2", VMCS_EPT_POINTER, 7, 2, ALWAYS, 0, CPU2_EPT },
    { "EPTP, memory type 4", VMCS_EPT_POINTER, 7, 4, ALWAYS, 0, CPU2_EPT },
    { "EPTP, memory type 7", VMCS_EPT_POINTER, 7, 7, ALWAYS, 0, CPU2_EPT },
    { "EPTP, walk length 1", VMCS_EPT_POINTER, 7 << 3, 0, ALWAYS, 0, CPU2_EPT },
    { "EPTP, walk length 3", VMCS_EPT_POINTER, 7 << 3, 2 << 3, ALWAYS, 0, CPU2_EPT },
    { "EPTP, walk length 8", VMCS_EPT_POINTER, 7 << 3, 7 << 3, ALWAYS, 0, CPU2_EPT },
    { "EPTP, bit 8", VMCS_EPT_POINTER, 0, 0x100, ALWAYS, 0, CPU2_EPT },
    { "EPTP, bit 11", VMCS_EPT_POINTER, 0, 0x800, ALWAYS, 0, CPU2_EPT },
    { "EPTP, too wide", VMCS_EPT_POINTER, 0, TOO_WIDE, ALWAYS, 0, CPU2_EPT },
    { "EPTP, bit 63", VMCS_EPT_POINTER, 0, BIT64(63), ALWAYS, 0, CPU2_EPT },
    { "unrestricted guest without EPT", VMCS_CPU2_CONTROLS, CPU2_EPT, CPU2_UNRESTRICTED, ALWAYS, 0,
      CPU2_UNRESTRICTED },
    { "page-modification log without EPT", VMCS_CPU2_CONTROLS, CPU2_EPT, CPU2_PML, ALWAYS, 0, CPU2_PML },
    { "page-modification log, low bits", VMCS_PML_ADDRESS, 0, 0x40, ALWAYS, 0, CPU2_PML },
    { "page-modification log, too wide", VMCS_PML_ADDRESS, 0, TOO_WIDE, ALWAYS, 0, CPU2_PML },
    { "VMREAD bitmap, low bits", VMCS_VMREAD_BITMAP, 0, 1, ALWAYS, 0, CPU2_VMCS_SHADOWING },
    { "VMWRITE bitmap, low bits", VMCS_VMWRITE_BITMAP, 0, 1, ALWAYS, 0, CPU2_VMCS_SHADOWING },
    { "VMWRITE bitmap, too wide", VMCS_VMWRITE_BITMAP, 0, TOO_WIDE, ALWAYS, 0, CPU2_VMCS_SHADOWING },
    { "VM functions, bit 63", VMCS_VMFUNC_CONTROLS, 0, BIT64(63), ALWAYS, 0, CPU2_VMFUNC },
    { "saved timer without timer", VMCS_EXIT_CONTROLS, 0, EXIT_SAVE_TIMER, ALWAYS, 0, 0 },
};

static const struct entry_row smm_rows[] = {
    { "entry to system-management mode", VMCS_ENTRY_CONTROLS, 0, ENTRY_TO_SMM, ALWAYS, 0, 0 },
    { "deactivate dual-monitor treatment", VMCS_ENTRY_CONTROLS, 0, ENTRY_DUAL_MONITOR, ALWAYS, 0, 0 },
};

/* Pages for all that a row may switch on */
static void give_pages(void)
{
    static const struct {
        u32 field;
        enum control_word word;
        u32 control;
    } pages[] = {
        { VMCS_IO_BITMAP_A, CPU, CPU_IO_BITMAPS },
        { VMCS_IO_BITMAP_B, CPU, CPU_IO_BITMAPS },
        { VMCS_MSR_BITMAP, CPU, CPU_MSR_BITMAPS },
        { VMCS_VIRTUAL_APIC, CPU, CPU_TPR_SHADOW },
        { VMCS_APIC_ACCESS, CPU2, CPU2_APIC_ACCESSES },
        { VMCS_PML_ADDRESS, CPU2, CPU2_PML },
        { VMCS_VMREAD_BITMAP, CPU2, CPU2_VMCS_SHADOWING },
        { VMCS_VMWRITE_BITMAP, CPU2, CPU2_VMCS_SHADOWING },
    };
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        if (may_set(pages[i].word, pages[i].control))
            vmwrite(pages[i].field, physical(page_alloc()));
    if (may_set(CPU, CPU_TPR_SHADOW))
        vmwrite(VMCS_TPR_THRESHOLD, 0);
    if (may_set(CPU2, CPU2_VPID))
        vmwrite(VMCS_VPID, 1);
}

TEST("entry", controls, "entry-control-fields", 0)
{
    give_pages();
    vm_start(vm, l2_nothing.start, 0);
    check_rows(vm, control_rows, ARRAY_LEN(control_rows), expect_error, BAD_CONTROL);
}

/* Only in system-management mode: whether the capability MSRs offer the bits or not. */
TEST("entry", smm, "entry-controls-of-smm", 0)
{
    vm_start(vm, l2_nothing.start, 0);
    check_rows(vm, smm_rows, ARRAY_LEN(smm_rows), expect_error, BAD_CONTROL);
}

/* MSR lists: an address matters if the count is not zero. */
static const struct {
    const char *name;
    u32 address, count;
} lists[] = {
    { "exit store", VMCS_EXIT_MSR_STORE, VMCS_EXIT_MSR_STORE_COUNT },
    { "exit load", VMCS_EXIT_MSR_LOAD, VMCS_EXIT_MSR_LOAD_COUNT },
    { "entry load", VMCS_ENTRY_MSR_LOAD, VMCS_ENTRY_MSR_LOAD_COUNT },
};

TEST("entry", lists, "entry-msr-list-addresses", 0)
{
    u64 widest = BIT64(caps.physical_bits);
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++) {
        const u64 bad[] = { physical(vm->shared) + 8, widest, BIT64(63) };
        row(lists[i].name);
        vm_start(vm, l2_nothing.start, 0);
        for (unsigned k = 0; k < ARRAY_LEN(bad); k++) {
            vmwrite(lists[i].address, bad[k]);
            vmwrite(lists[i].count, 1);
            expect_error(vm, BAD_CONTROL);
            vmwrite(lists[i].count, 0);
        }
        vmwrite(lists[i].address, widest - 16); /* the second entry lies beyond */
        vmwrite(lists[i].count, 2);
        expect_error(vm, BAD_CONTROL);
        vmwrite(lists[i].count, 0);
        vm_expect_done(vm); /* with a count of 0 the address does not matter */
    }
}

/* ---- controls: the event to inject ---- */

enum { ALLOW_ANY_LENGTH = 30 };

static const struct {
    const char *name;
    u32 event, error, length;
} event_rows[] = {
    { "type 1", 1 << 8 | 0x50, 0, 0 },
    { "NMI, vector 3", EVENT_NMI | 3, 0, 0 },
    { "hardware exception, vector 32", EVENT_HARDWARE | 32, 0, 0 },
    { "bit 12", EVENT_HARDWARE | BIT(12) | EXC_UD, 0, 0 },
    { "bit 30", EVENT_HARDWARE | BIT(30) | EXC_UD, 0, 0 },
    { "interrupt with error code", EVENT_EXTERNAL | EVENT_ERROR_CODE | 0x50, 0, 0 },
    { "NMI with error code", EVENT_NMI | EVENT_ERROR_CODE | EXC_NMI, 0, 0 },
    { "INT n with error code", EVENT_SOFTWARE | EVENT_ERROR_CODE | 0x50, 0, 2 },
    { "#GP, error code with bit 31", EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP, BIT(31), 0 },
    { "#GP, error code with bit 16", EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP, BIT(16), 0 },
    { "INT n, length 16", EVENT_SOFTWARE | 0x50, 0, 16 },
    { "INT3, length 16", EVENT_SOFT_EXCEPTION | EXC_BP, 0, 16 },
    { "INT1, length 2^31", EVENT_PRIV_SOFTWARE | EXC_DB, 0, BIT(31) },
};

static void check_event(struct vm *vm, const char *name, u32 event, u32 error, u32 length)
{
    row(name);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | event);
    vmwrite(VMCS_ENTRY_EVENT_ERROR, error);
    vmwrite(VMCS_ENTRY_LENGTH, length);
    expect_error(vm, BAD_CONTROL);
}

TEST("entry", events, "entry-event-checks", 0)
{
    vm_start(vm, l2_nothing.start, 0);
    for (unsigned i = 0; i < ARRAY_LEN(event_rows); i++)
        check_event(vm, event_rows[i].name, event_rows[i].event, event_rows[i].error,
                    event_rows[i].length);
    if (!(caps.misc & BIT(ALLOW_ANY_LENGTH)))
        check_event(vm, "INT n, length 0", EVENT_SOFTWARE | 0x50, 0, 0);
    /* Some processors may deliver an error code, or none, with any vector. */
    if (!(rdmsr(MSR_VMX_BASIC) & BIT64(56))) {
        check_event(vm, "#GP without error code", EVENT_HARDWARE | EXC_GP, 0, 0);
        check_event(vm, "#UD with error code", EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_UD, 0, 0);
    }
    row("not valid: nothing matters");
    vmwrite(VMCS_ENTRY_EVENT, 0x7fffffff);
    vm_expect_done(vm);
}

/* Type 7, "other event", is for monitor traps only, and their vector is 0. */
TEST("entry", other_event, "entry-event-other", 0)
{
    vm_start(vm, l2_nothing.start, 0);
    check_event(vm, "vector 1", EVENT_OTHER | 1, 0, 0);
    if (!may_set(CPU, CPU_MONITOR_TRAP))
        check_event(vm, "monitor trap where it is not offered", EVENT_OTHER, 0, 0);
}

/* ---- host state ---- */

static const struct entry_row host_rows[] = {
    { "CR0.NE", VMCS_HOST_CR0, CR0_NE, 0, ALWAYS, 0, 0 },
    { "CR0.PG", VMCS_HOST_CR0, CR0_PG, 0, ALWAYS, 0, 0 },
    { "CR0.PE", VMCS_HOST_CR0, CR0_PE, 0, ALWAYS, 0, 0 },
    { "CR4.VMXE", VMCS_HOST_CR4, CR4_VMXE, 0, ALWAYS, 0, 0 },
    { "CS, ring 3", VMCS_HOST_CS, 0, 3, ALWAYS, 0, 0 },
    { "CS, local", VMCS_HOST_CS, 0, 4, ALWAYS, 0, 0 },
    { "CS, null", VMCS_HOST_CS, 0xffff, 0, ALWAYS, 0, 0 },
    { "SS, ring 1", VMCS_HOST_SS, 0, 1, ALWAYS, 0, 0 },
    { "DS, ring 2", VMCS_HOST_DS, 0, 2, ALWAYS, 0, 0 },
    { "ES, local", VMCS_HOST_ES, 0, 4, ALWAYS, 0, 0 },
    { "FS, ring 3", VMCS_HOST_FS, 0, 3, ALWAYS, 0, 0 },
    { "GS, local", VMCS_HOST_GS, 0, 4, ALWAYS, 0, 0 },
    { "TR, local", VMCS_HOST_TR, 0, 4, ALWAYS, 0, 0 },
    { "TR, null", VMCS_HOST_TR, 0xffff, 0, ALWAYS, 0, 0 },
    { "PAT, type 2", VMCS_HOST_PAT, 0xff, 2, EXIT, EXIT_LOAD_PAT, 0 },
    { "PAT, bit 3", VMCS_HOST_PAT, 0, 8, EXIT, EXIT_LOAD_PAT, 0 },
    { "EFER, reserved bit", VMCS_HOST_EFER, 0, BIT(1), EXIT, EXIT_LOAD_EFER, 0 },
    { "EFER.LMA not as the address-space size", VMCS_HOST_EFER, IS_64BIT ? EFER_LMA : 0,
      IS_64BIT ? 0 : EFER_LMA, EXIT, EXIT_LOAD_EFER, 0 },
    { "EFER.LME not as the address-space size", VMCS_HOST_EFER, IS_64BIT ? EFER_LME : 0,
      IS_64BIT ? 0 : EFER_LME, EXIT, EXIT_LOAD_EFER, 0 },
#ifdef __x86_64__
    { "CR3, too wide", VMCS_HOST_CR3, 0, TOO_WIDE, ALWAYS, 0, 0 },
    { "CR4.PAE", VMCS_HOST_CR4, CR4_PAE, 0, ALWAYS, 0, 0 },
    { "SYSENTER_ESP not canonical", VMCS_HOST_SYSENTER_ESP, 0, BIT64(63), ALWAYS, 0, 0 },
    { "SYSENTER_EIP not canonical", VMCS_HOST_SYSENTER_EIP, 0, BIT64(62), ALWAYS, 0, 0 },
    { "FS base not canonical", VMCS_HOST_FS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GS base not canonical", VMCS_HOST_GS_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "TR base not canonical", VMCS_HOST_TR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "GDTR base not canonical", VMCS_HOST_GDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "IDTR base not canonical", VMCS_HOST_IDTR_BASE, 0, BIT64(63), ALWAYS, 0, 0 },
    { "RIP not canonical", VMCS_HOST_RIP, 0, BIT64(63), ALWAYS, 0, 0 },
    { "32-bit host in IA-32e mode", VMCS_EXIT_CONTROLS, EXIT_HOST_64BIT, 0, ALWAYS, 0, 0 },
#else
    { "SS, null", VMCS_HOST_SS, 0xffff, 0, ALWAYS, 0, 0 },
    { "64-bit guest of a 32-bit host", VMCS_ENTRY_CONTROLS, 0, ENTRY_GUEST_64BIT, ENTRY,
      ENTRY_GUEST_64BIT, 0 },
    { "64-bit host outside IA-32e mode", VMCS_EXIT_CONTROLS, 0, EXIT_HOST_64BIT, EXIT,
      EXIT_HOST_64BIT, 0 },
    { "CR4.PCIDE outside IA-32e mode", VMCS_HOST_CR4, 0, CR4_PCIDE, ALWAYS, 0, 0 },
#endif
};

static void give_host_msrs(void)
{
    if (may_set(EXIT, EXIT_LOAD_PAT))
        vmwrite(VMCS_HOST_PAT, rdmsr(MSR_PAT));
    if (may_set(EXIT, EXIT_LOAD_EFER))
        vmwrite(VMCS_HOST_EFER, IS_64BIT ? EFER_LMA | EFER_LME : 0);
}

TEST("entry", host, "entry-host-state", 0)
{
    give_host_msrs();
    vm_start(vm, l2_nothing.start, 0);
    check_rows(vm, host_rows, ARRAY_LEN(host_rows), expect_error, BAD_HOST);
}

/* ---- guest state ---- */

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
    { "LDTR, usable, a data segment", VMCS_GUEST_LDTR_AR, AR_UNUSABLE, AR_LDT | 0x10, ALWAYS, 0, 0 },
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
    vm_start(vm, l2_nothing.start, 0);
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
    vm_start(vm, l2_nothing.start, 0);
    vmwrite(VMCS_GUEST_CS_AR, AR_CODE | AR_32BIT | AR_PAGES);
    vmwrite(VMCS_GUEST_RIP, (word)l2_nothing.start | BIT64(32));
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
    vm_start(vm, l2_nothing.start, 0);
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

static bool activity_offered(u32 activity) { return !activity || (caps.misc >> (5 + activity) & 1); }

static void check_agreement(struct vm *vm, const struct agreement *it)
{
    if (!activity_offered(it->activity))
        return;
    row(it->name);
    vm_start(vm, l2_nothing.start, 0);
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
    vm_start(vm, l2_nothing.start, 0);
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
    vm_start(vm, l2_nothing.start, 0);
    vmwrite(VMCS_ENTRY_EVENT, 0);
    vmwrite(VMCS_GUEST_RSP, 0x12345678);
    vmwrite(VMCS_GUEST_ACTIVITY, 4);
    expect_bad_guest(vm, 0);
    check_equal("RSP", vmread(VMCS_GUEST_RSP), 0x12345678);
    check_equal("RIP", vmread(VMCS_GUEST_RIP), (word)l2_nothing.start);
    check_equal("activity", vmread(VMCS_GUEST_ACTIVITY), 4);
    row("the VMCS is still not launched");
    vmwrite(VMCS_GUEST_ACTIVITY, 0);
    vm_start(vm, l2_nothing.start, 0);
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
