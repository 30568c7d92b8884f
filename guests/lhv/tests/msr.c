/* MSR bitmaps, and the lists of MSRs that VM entries and VM exits load and store. */
#include "lib/string.h"
#include "test/code.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/instructions.h"

L2_CODE(l2_rdmsr, "mov " BX ", " CX, "rdmsr");
L2_CODE(l2_wrmsr, "mov " BX ", " CX "; mov " SI ", " AX "; xor %edx, %edx", "wrmsr");

/*
 * The bitmap has four parts of 1 KiB: reads of MSRs 0 to 1FFFh, reads of C0000000h to C0001FFFh,
 * writes of the first, writes of the second.
 */
enum { READ_LOW = 0, READ_HIGH = 1024, WRITE_LOW = 2048, WRITE_HIGH = 3072 };

static void set_bit(u8 *bitmap, unsigned part, u32 index, bool value)
{
    u8 *byte = &bitmap[part + (index & 0x1fff) / 8];
    u8 bit = (u8)BIT(index % 8);
    *byte = value ? *byte | bit : *byte & (u8)~bit;
}

static u8 *use_bitmap(struct vm *vm)
{
    vm_needs(CPU, CPU_MSR_BITMAPS);
    u8 *bitmap = page_alloc();
    vmwrite(VMCS_MSR_BITMAP, physical(bitmap));
    vm_control(vm, CPU, CPU_MSR_BITMAPS, 0);
    return bitmap;
}

/* Every row is tried with only its bit set, and with all bits but its own. */
static const struct {
    const char *name;
    u32 index;
    unsigned part;
} bitmap_rows[] = {
    { "read of a low MSR", MSR_SYSENTER_CS, READ_LOW },
    { "write of a low MSR", MSR_SYSENTER_CS, WRITE_LOW },
    { "read of a low MSR, odd", MSR_SYSENTER_ESP, READ_LOW },
    { "write of a low MSR, odd", MSR_SYSENTER_ESP, WRITE_LOW },
#ifdef __x86_64__
    { "read of a high MSR", 0xc0000081, READ_HIGH },
    { "write of a high MSR", 0xc0000081, WRITE_HIGH },
    { "read of GS base", 0xc0000102, READ_HIGH },
    { "write of GS base", 0xc0000102, WRITE_HIGH },
#endif
};

TEST("msr", bitmap, "msr-bitmap", 0)
{
    u8 *bitmap = use_bitmap(vm);
    for (unsigned i = 0; i < ARRAY_LEN(bitmap_rows); i++) {
        bool write = bitmap_rows[i].part >= WRITE_LOW;
        const struct code *code = write ? &l2_wrmsr : &l2_rdmsr;
        for (unsigned exits = 0; exits < 2; exits++) {
            row(bitmap_rows[i].name);
            memset(bitmap, exits ? 0 : 0xff, PAGE_SIZE);
            set_bit(bitmap, bitmap_rows[i].part, bitmap_rows[i].index, exits);
            vm_start(vm, code->start, 0);
            vm->regs.bx = bitmap_rows[i].index;
            vm->regs.si = 0x10;
            if (!exits) {
                vm_expect_done(vm);
                continue;
            }
            vm_expect(vm, write ? REASON_WRMSR : REASON_RDMSR);
            check_equal("IP", vm->ip, (word)code->at);
            check_equal("length", vmread(VMCS_EXIT_LENGTH), 2);
            check_equal("ECX", (u32)vm->regs.cx, bitmap_rows[i].index);
        }
    }
}

/* MSRs that the bitmap does not cover always exit. */
static const u32 outside[] = { 0x2000, 0x40000000, 0xbfffffff, 0xc0002000, 0xffffffff };

TEST("msr", outside, "msr-outside-bitmap", 0)
{
    use_bitmap(vm); /* all zeroes */
    for (unsigned i = 0; i < ARRAY_LEN(outside); i++) {
        vm_start(vm, l2_rdmsr.start, 0);
        vm->regs.bx = outside[i];
        vm_expect(vm, REASON_RDMSR);
        vm_start(vm, l2_wrmsr.start, 0);
        vm->regs.bx = outside[i];
        vm_expect(vm, REASON_WRMSR);
    }
}

/* What L2 reads and writes is its own: the values of the VMCS. */
TEST("msr", guest_values, "msr-guest-values", 0)
{
    use_bitmap(vm);
    vmwrite(VMCS_GUEST_SYSENTER_CS, 0x1234);
    vmwrite(VMCS_GUEST_SYSENTER_ESP, 0x5678);
    vmwrite(VMCS_HOST_SYSENTER_CS, 0x77);
    row("read");
    vm_start(vm, l2_rdmsr.start, 0);
    vm->regs.bx = MSR_SYSENTER_ESP;
    vm_expect(vm, REASON_VMCALL);
    row("written");
    vm_start(vm, l2_wrmsr.start, 0);
    vm->regs.bx = MSR_SYSENTER_CS;
    vm->regs.si = 0x4321;
    vm_expect_done(vm);
    check_equal("in the VMCS", vmread(VMCS_GUEST_SYSENTER_CS), 0x4321);
    check_equal("not written", vmread(VMCS_GUEST_SYSENTER_ESP), 0x5678);
    check_equal("lhv's own", rdmsr(MSR_SYSENTER_CS), 0x77);
}

/* An MSR that does not exist: #GP(0) in L2, unless it exits. */
TEST("msr", missing, "msr-missing", 0)
{
    u8 *bitmap = use_bitmap(vm);
    const u32 index = 0x1f00; /* no processor has it */
    vm_start(vm, l2_rdmsr.start, 0);
    vm->regs.bx = index;
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
    set_bit(bitmap, READ_LOW, index, true);
    vm_start(vm, l2_rdmsr.start, 0);
    vm->regs.bx = index;
    vm_expect(vm, REASON_RDMSR);
}

/* ---- lists ---- */

struct msr_entry {
    u32 index, reserved;
    u64 value;
};

/* L2 reads an MSR into SI, then writes DI to it. */
L2_CODE(l2_read_write, "mov " BX ", " CX "; rdmsr; mov " AX ", " SI,
        "mov " DI ", " AX "; xor %edx, %edx; wrmsr");

TEST("msr", lists, "msr-lists", 0)
{
    use_bitmap(vm);
    struct msr_entry *load = page_alloc(), *store = page_alloc(), *restore = page_alloc();
    *load = (struct msr_entry){ MSR_SYSENTER_CS, 0, 0x1111 };
    *store = (struct msr_entry){ MSR_SYSENTER_CS, 0, 0 };
    *restore = (struct msr_entry){ MSR_SYSENTER_CS, 0, 0x3333 };
    vmwrite(VMCS_GUEST_SYSENTER_CS, 0x99);
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(load));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vmwrite(VMCS_EXIT_MSR_STORE, physical(store));
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 1);
    vmwrite(VMCS_EXIT_MSR_LOAD, physical(restore));
    vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    vm_start(vm, l2_read_write.start, 0);
    vm->regs.bx = MSR_SYSENTER_CS;
    vm->regs.di = 0x2222;
    vm_expect_done(vm);
    check_equal("loaded at entry", vm->regs.si, 0x1111);
    check_equal("stored at exit", store->value, 0x2222);
    check_equal("loaded at exit", rdmsr(MSR_SYSENTER_CS), 0x3333);
}

/* Lists of several entries are worked through in order. */
TEST("msr", long_lists, "msr-lists-in-order", 0)
{
    use_bitmap(vm);
    enum { LENGTH = 8 };
    struct msr_entry *load = page_alloc(), *store = page_alloc(), *restore = page_alloc();
    for (unsigned i = 0; i < LENGTH; i++) {
        load[i] = (struct msr_entry){ MSR_SYSENTER_CS + i % 3, 0, 0x100 + i };
        store[i] = (struct msr_entry){ MSR_SYSENTER_CS + i % 3, 0, 0 };
        restore[i] = (struct msr_entry){ MSR_SYSENTER_CS + i % 3, 0, 0x200 + i };
    }
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(load));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, LENGTH);
    vmwrite(VMCS_EXIT_MSR_STORE, physical(store));
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, LENGTH);
    vmwrite(VMCS_EXIT_MSR_LOAD, physical(restore));
    vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, LENGTH);
    vm_start(vm, l2_read_write.start, 0);
    vm->regs.bx = MSR_SYSENTER_EIP;
    vm->regs.di = 0x2222;
    vm_expect_done(vm);
    check_equal("EIP at entry", vm->regs.si, 0x105);
    check_equal("CS at exit", store[0].value, 0x106);
    check_equal("ESP at exit", store[1].value, 0x107);
    check_equal("EIP at exit", store[2].value, 0x2222);
    check_equal("CS, restored", rdmsr(MSR_SYSENTER_CS), 0x206);
    check_equal("ESP, restored", rdmsr(MSR_SYSENTER_ESP), 0x207);
    check_equal("EIP, restored", rdmsr(MSR_SYSENTER_EIP), 0x205);
}

static void l2_fill_list(word list)
{
    *(struct msr_entry *)list = (struct msr_entry){ MSR_SYSENTER_EIP, 0, 0 };
}

/* The exit reads its list at the exit: what no exit could store is replaced before. */
TEST("msr", late_list, "msr-list-written-by-l2", 0)
{
    struct msr_entry *store = page_alloc();
    *store = (struct msr_entry){ 0xffffffff, 0xffffffff, 0 };
    vmwrite(VMCS_EXIT_MSR_STORE, physical(store));
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 1);
    vm_start(vm, l2_fill_list, (word)store);
    vmwrite(VMCS_GUEST_SYSENTER_EIP, 0x1234);
    vm_expect_done(vm);
    check_equal("EIP at exit", store->value, 0x1234);
}

#ifdef __x86_64__
/* An MSR that has no field in the VMCS: the lists are the only way. */
TEST("msr", lists_star, "msr-lists-star", 0)
{
    use_bitmap(vm);
    struct msr_entry *load = page_alloc(), *store = page_alloc(), *restore = page_alloc();
    *load = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0, 0x11110000 };
    *store = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0, 0 };
    *restore = (struct msr_entry){ MSR_KERNEL_GS_BASE, 0, 0 };
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(load));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    vmwrite(VMCS_EXIT_MSR_STORE, physical(store));
    vmwrite(VMCS_EXIT_MSR_STORE_COUNT, 1);
    vmwrite(VMCS_EXIT_MSR_LOAD, physical(restore));
    vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    vm_start(vm, l2_read_write.start, 0);
    vm->regs.bx = MSR_KERNEL_GS_BASE;
    vm->regs.di = 0x22220000;
    vm_expect_done(vm);
    check_equal("loaded at entry", vm->regs.si, 0x11110000);
    check_equal("stored at exit", store->value, 0x22220000);
    check_equal("loaded at exit", rdmsr(MSR_KERNEL_GS_BASE), 0);
}
#endif

/* ---- entries whose list cannot be loaded: VM-entry failure 34 ---- */

static const struct {
    const char *name;
    struct msr_entry entry;
} bad_entries[] = {
    { "FS base", { 0xc0000100, 0, 0 } },
    { "GS base", { 0xc0000101, 0, 0 } },
    { "an MSR that does not exist", { 0x1f00, 0, 0 } },
    { "reserved bits of the entry", { MSR_SYSENTER_CS, 1, 0 } },
    { "an x2APIC register", { 0x808, 0, 0 } },
    { "a value with reserved bits", { MSR_PAT, 0, 0xff } },
};

TEST("msr", bad_lists, "msr-list-entry-failure", 0)
{
    struct msr_entry *load = page_alloc();
    vmwrite(VMCS_ENTRY_MSR_LOAD, physical(load));
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 3);
    for (unsigned i = 0; i < ARRAY_LEN(bad_entries); i++) {
        row(bad_entries[i].name);
        for (unsigned at = 0; at < 3; at++)
            load[at] = (struct msr_entry){ MSR_SYSENTER_CS, 0, 0 };
        load[i % 3] = bad_entries[i].entry;
        vm_start(vm, l2_rdmsr.start, 0);
        vm_expect(vm, REASON_ENTRY_FAILURE | REASON_BAD_MSRS);
        check_equal("qualification: which entry", vm->qualification, i % 3 + 1);
        check_equal("IP of L2", vm->ip, (word)l2_rdmsr.start);
    }
    row("mended");
    vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
    vm_expect(vm, REASON_RDMSR);
}
