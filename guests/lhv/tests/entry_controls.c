/* VM-entry checks of the controls: error 7. */
#include "test/entry_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/instructions.h"

/* ---- every bit that a capability MSR fixes ---- */

static const u32 word_field[CONTROL_WORDS] = {
    [PIN] = VMCS_PIN_CONTROLS,   [CPU] = VMCS_CPU_CONTROLS,     [CPU2] = VMCS_CPU2_CONTROLS,
    [EXIT] = VMCS_EXIT_CONTROLS, [ENTRY] = VMCS_ENTRY_CONTROLS,
};
static const char *const word_name[CONTROL_WORDS] = {
    [PIN] = "pin-based", [CPU] = "processor-based", [CPU2] = "secondary",
    [EXIT] = "exit",     [ENTRY] = "entry",
};

TEST("entry", fixed_bits, "entry-control-fixed-bits", 0)
{
    start_nothing(vm);
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
    { CPU, CPU_TSC_OFFSETTING },
    { CPU, CPU_HLT_EXITING },
    { CPU, CPU_INVLPG_EXITING },
    { CPU, CPU_MWAIT_EXITING },
    { CPU, CPU_RDPMC_EXITING },
    { CPU, CPU_RDTSC_EXITING },
    { CPU, CPU_CR3_LOAD_EXITING },
    { CPU, CPU_CR3_STORE_EXITING },
    { CPU, CPU_MOV_DR_EXITING },
    { CPU, CPU_IO_EXITING },
    { CPU, CPU_MONITOR_EXITING },
    { CPU, CPU_PAUSE_EXITING },
    { CPU2, CPU2_DESCRIPTOR_EXITING },
    { CPU2, CPU2_RDTSCP },
    { CPU2, CPU2_WBINVD_EXITING },
    { CPU2, CPU2_RDRAND_EXITING },
    { CPU2, CPU2_INVPCID },
    { CPU2, CPU2_RDSEED_EXITING },
    { EXIT, EXIT_SAVE_DEBUG },
    { EXIT, EXIT_SAVE_PAT },
    { EXIT, EXIT_SAVE_EFER },
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
        start_nothing(vm);
        vm_expect_done(vm);
        vm_control(vm, word, 0, ~old);
    }
}

/* ---- fields that belong to them ---- */

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
    { "virtual NMIs without NMI exiting", VMCS_PIN_CONTROLS, PIN_NMI_EXITING, PIN_VIRTUAL_NMIS, PIN,
      PIN_NMI_EXITING | PIN_VIRTUAL_NMIS, 0 },
    { "NMI window without virtual NMIs", VMCS_CPU_CONTROLS, 0, CPU_NMI_WINDOW, ALWAYS, 0, 0 },
    { "APIC-access page, low bits", VMCS_APIC_ACCESS, 0, 0x20, CPU, CPU_TPR_SHADOW,
      CPU2_APIC_ACCESSES },
    { "APIC-access page, too wide", VMCS_APIC_ACCESS, 0, TOO_WIDE, CPU, CPU_TPR_SHADOW,
      CPU2_APIC_ACCESSES },
    { "x2APIC mode with APIC accesses", VMCS_CPU2_CONTROLS, 0, CPU2_X2APIC | CPU2_APIC_ACCESSES,
      CPU, CPU_TPR_SHADOW, CPU2_X2APIC | CPU2_APIC_ACCESSES },
    { "x2APIC mode without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_X2APIC, ALWAYS, 0, 0 },
    { "APIC registers without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_APIC_REGISTERS, ALWAYS, 0,
      0 },
    { "virtual interrupts without TPR shadow", VMCS_CPU2_CONTROLS, 0, CPU2_VIRTUAL_INTERRUPTS,
      ALWAYS, 0, 0 },
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
    { "page-modification log without EPT", VMCS_CPU2_CONTROLS, CPU2_EPT, CPU2_PML, ALWAYS, 0,
      CPU2_PML },
    { "page-modification log, low bits", VMCS_PML_ADDRESS, 0, 0x40, ALWAYS, 0, CPU2_PML },
    { "page-modification log, too wide", VMCS_PML_ADDRESS, 0, TOO_WIDE, ALWAYS, 0, CPU2_PML },
    { "VMREAD bitmap, low bits", VMCS_VMREAD_BITMAP, 0, 1, ALWAYS, 0, CPU2_VMCS_SHADOWING },
    { "VMWRITE bitmap, low bits", VMCS_VMWRITE_BITMAP, 0, 1, ALWAYS, 0, CPU2_VMCS_SHADOWING },
    { "VMWRITE bitmap, too wide", VMCS_VMWRITE_BITMAP, 0, TOO_WIDE, ALWAYS, 0,
      CPU2_VMCS_SHADOWING },
    { "VM functions, bit 63", VMCS_VMFUNC_CONTROLS, 0, BIT64(63), ALWAYS, 0, CPU2_VMFUNC },
    { "saved timer without timer", VMCS_EXIT_CONTROLS, 0, EXIT_SAVE_TIMER, ALWAYS, 0, 0 },
};

static const struct entry_row smm_rows[] = {
    { "entry to system-management mode", VMCS_ENTRY_CONTROLS, 0, ENTRY_TO_SMM, ALWAYS, 0, 0 },
    { "deactivate dual-monitor treatment", VMCS_ENTRY_CONTROLS, 0, ENTRY_DUAL_MONITOR, ALWAYS, 0,
      0 },
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
    start_nothing(vm);
    check_rows(vm, control_rows, ARRAY_LEN(control_rows), expect_error, BAD_CONTROL);
}

/* Only in system-management mode: whether the capability MSRs offer the bits or not. */
TEST("entry", smm, "entry-controls-of-smm", 0)
{
    start_nothing(vm);
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
        start_nothing(vm);
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

/* ---- the event to inject ---- */

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
    start_nothing(vm);
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
    start_nothing(vm);
    check_event(vm, "vector 1", EVENT_OTHER | 1, 0, 0);
    if (!may_set(CPU, CPU_MONITOR_TRAP))
        check_event(vm, "monitor trap where it is not offered", EVENT_OTHER, 0, 0);
}
