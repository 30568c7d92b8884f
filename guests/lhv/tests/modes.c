/* L2 in the other modes: real, virtual-8086, unpaged, with PAE paging, in user mode. */
#include "lib/string.h"
#include "test/code.h"
#include "test/ept_cases.h"
#include "test/test.h"
#include "vmx/caps.h"
#include "vmx/instructions.h"
#include "vmx/l2traps.h"
#include "vmx/modes.h"
#include "vmx/pages.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

/* ---- real mode ---- */

/* CS is 0700h, the data segments 0800h: a sum through memory, and a far jump to 0700h. */
L2_CODE16(l2_real,
          "movw $0x1200, 0x10; addw $0x34, 0x10; mov 0x10, %bx\n"
          "ljmpw $0x700, $(1f - l2_real_start)\n"
          "1: mov %cs, %si; pushw $0x77; popw %di",
          "cpuid");

TEST("modes", real, "unrestricted-real-mode", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real);
    vm_expect(vm, REASON_CPUID);
    check_equal("sum", (u16)vm->regs.bx, 0x1234);
    check_equal("in memory", *(u16 *)(real_data(vm) + 0x10), 0x1234);
    check_equal("CS", (u16)vm->regs.si, REAL_CODE >> 4);
    check_equal("stack", (u16)vm->regs.di, 0x77);
    check_equal("IP", vm->ip, (word)(l2_real.at - l2_real.start));
    check_equal("length", vmread(VMCS_EXIT_LENGTH), 2);
    check_equal("CS base", vmread(VMCS_GUEST_CS_BASE), REAL_CODE);
}

/* Segment loads in real mode: base = selector * 16, the limit stays. */
L2_CODE16(l2_real_segments, "mov $0x123, %ax; mov %ax, %es", "cpuid");

TEST("modes", real_segments, "unrestricted-real-segments", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_segments);
    vm_expect(vm, REASON_CPUID);
    check_equal("ES", vmread(VMCS_GUEST_ES), 0x123);
    check_equal("ES base", vmread(VMCS_GUEST_ES_BASE), 0x1230);
    check_equal("ES limit", vmread(VMCS_GUEST_ES_LIMIT), 0xffff);
}

/* INT n through the interrupt table at 0, in a page that is missing at first. */
L2_CODE16(l2_real_int,
          "int $0x21; jmp 2f\n"
          "1: mov $0x4321, %bx; iretw\n"
          "2:",
          "cpuid");

TEST("modes", real_int, "unrestricted-real-interrupt", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_int);
    vmwrite(VMCS_GUEST_IDTR_BASE, 0);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL), 0x21 * 4);
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_SOFTWARE | 0x21);
    u16 *table = page_alloc();
    table[0x21 * 2] = 4; /* behind INT and JMP */
    table[0x21 * 2 + 1] = REAL_CODE >> 4;
    ept_map(&vm->ept, 0, physical(table), 1, EPT_RWX | EPT_WB);
    vmwrite(VMCS_ENTRY_EVENT, vmread(VMCS_IDT_VECTORING));
    vmwrite(VMCS_ENTRY_LENGTH, vmread(VMCS_EXIT_LENGTH));
    vm_expect(vm, REASON_CPUID);
    check_equal("the handler ran", (u16)vm->regs.bx, 0x4321);
}

/* An injected interrupt goes through the same table. */
L2_CODE16(l2_real_nop, "nop", "cpuid; iretw");

TEST("modes", real_inject, "unrestricted-real-injection", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_real_nop);
    u16 *table = page_alloc();
    table[0x30 * 2] = (u16)(l2_real_nop.at - l2_real_nop.start);
    table[0x30 * 2 + 1] = REAL_CODE >> 4;
    ept_map(&vm->ept, 0, physical(table), 1, EPT_RWX | EPT_WB);
    vmwrite(VMCS_GUEST_IDTR_BASE, 0);
    vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | EVENT_EXTERNAL | 0x30);
    vm_expect(vm, REASON_CPUID);
    check_equal("pushed IP", *(u16 *)(real_data(vm) + PAGE_SIZE - 6), 0);
    check_equal("pushed CS", *(u16 *)(real_data(vm) + PAGE_SIZE - 4), REAL_CODE >> 4);
    check_equal("IF", vmread(VMCS_GUEST_RFLAGS) & RFLAGS_IF, 0);
}

/* From real to protected mode, by L2 itself: LGDT, CR0.PE, a far jump. */
L2_CODE16(l2_to_protected,
          "lgdtl 0x20; mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
          "ljmpl $0x08, $(0x7000 + 1f - l2_to_protected_start)\n"
          ".code32\n"
          "1: mov $0x10, %eax; mov %eax, %ds; mov $0x8040, %ebx; mov (%ebx), %esi",
          "cpuid");

TEST("modes", to_protected, "unrestricted-real-to-protected", TEST_EPT)
{
    vm_start_mode(vm, MODE_REAL, NULL, &l2_to_protected);
    u8 *data = real_data(vm);
    u64 *gdt = (u64 *)(data + 0x100);
    gdt[1] = 0x00cf9b000000ffff;
    gdt[2] = 0x00cf93000000ffff;
    *(u16 *)(data + 0x20) = 3 * 8 - 1;
    *(u32 *)(data + 0x22) = REAL_DATA + 0x100;
    *(u32 *)(data + 0x40) = 0x12345678;
    vm_expect(vm, REASON_CPUID);
    check_equal("CR0.PE", vmread(VMCS_GUEST_CR0) & (CR0_PE | CR0_PG), CR0_PE);
    check_equal("CS", vmread(VMCS_GUEST_CS), 8);
    check_equal("CS limit", vmread(VMCS_GUEST_CS_LIMIT), 0xffffffff);
    check_equal("read through DS", (u32)vm->regs.si, 0x12345678);
}

/* ---- without paging ---- */

L2_CODE32(l2_flat, "mov 0x1234000, %esi; movl $0x60d0, 0x1234004", "nop");

TEST("modes", flat, "unrestricted-unpaged", TEST_EPT)
{
    u32 *page = page_alloc();
    page[0] = 0xf1a7;
    ept_map(&vm->ept, NOTE_PAGE, physical(page), 1, EPT_RWX | EPT_WB);
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_flat);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, 0xf1a7);
    check_equal("written by L2", page[1], 0x60d0);
}

/*
 * L2 turns paging on and off again.  BX: CR3; while paging is on, the page at 12340000h is another
 * than while it is off.
 */
L2_CODE32(l2_paging,
          "mov 0x12340000, %esi; mov %ebx, %cr3; mov %cr0, %eax\n"
          "or $0x80000000, %eax; mov %eax, %cr0; mov 0x12340000, %edi\n"
          "and $0x7fffffff, %eax; mov %eax, %cr0; mov 0x12340000, %ebp",
          "nop");

static void check_on_off(struct vm *vm, enum paging paging)
{
    struct space space;
    u32 *unpaged = page_alloc(), *paged = page_alloc();
    *unpaged = 0x0ff;
    *paged = 0x011;
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_paging);
    space_create(&space, paging);
    space_map(&space, VIOLATION_PAGE, physical(paged), PTE_PRESENT | PTE_WRITE);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(unpaged), 1, EPT_RWX | EPT_WB);
    ept_invalidate(&vm->ept);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | (paging == PAGING_PAE ? CR4_PAE : CR4_PSE));
    vm->regs.bx = (word)space.root;
    vm_expect_done(vm);
    check_equal("before", (u32)vm->regs.si, 0x0ff);
    check_equal("while on", (u32)vm->regs.di, 0x011);
    check_equal("afterwards", (u32)vm->regs.bp, 0x0ff);
    check_equal("CR0.PG", vmread(VMCS_GUEST_CR0) & CR0_PG, 0);
    check_equal("CR3", vmread(VMCS_GUEST_CR3), (word)space.root);
}

TEST("modes", on_off, "unrestricted-paging-on-off", TEST_EPT) { check_on_off(vm, PAGING_32); }
TEST("modes", on_off_pae, "unrestricted-paging-on-off-pae", TEST_EPT) { check_on_off(vm, PAGING_PAE); }

/*
 * The same with PAE, where turning paging on loads the four PDPTEs from memory: if their page is not
 * there for L2, that is an EPT violation, not #GP.
 */
TEST("modes", pdpte_unmapped, "unrestricted-pdpte-page-unmapped", TEST_EPT)
{
    struct space space;
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_paging);
    space_create(&space, PAGING_PAE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT | PTE_WRITE);
    ept_map(&vm->ept, VIOLATION_PAGE, physical(access_page(0)), 1, EPT_RWX | EPT_WB);
    u64 root = physical(space.root);
    ept_map(&vm->ept, root, root, 1, 0);
    ept_invalidate(&vm->ept);
    vmwrite(VMCS_GUEST_CR4, vmread(VMCS_GUEST_CR4) | CR4_PAE);
    vm->regs.bx = (word)root;
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("access", vm->qualification & 7, VIOLATION_READ);
    check_equal("no linear address", vm->qualification & VIOLATION_LINEAR_VALID, 0);
    check_equal("page", vmread(VMCS_GUEST_PHYSICAL) & ~0xfffull, root);
    check_equal("paging is still off", vmread(VMCS_GUEST_CR0) & CR0_PG, 0);
    ept_map(&vm->ept, root, root, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
}

/* Paging can be turned on with the CR0 bits that "unrestricted guest" frees; others stay fixed. */
L2_CODE32(l2_clear_ne, "mov %cr0, %eax; and $~0x20, %eax", "mov %eax, %cr0");

TEST("modes", still_fixed, "unrestricted-cr0-ne-fixed", TEST_EPT)
{
    vm_start_mode(vm, MODE_FLAT, NULL, &l2_clear_ne);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* Without "unrestricted guest", L2 cannot turn paging off: #GP(0), unless L1 owns the bit. */
L2_CODE32(l2_paging_off, "mov %cr0, %eax; and $0x7fffffff, %eax", "mov %eax, %cr0");

TEST("modes", restricted, "restricted-paging-off", 0)
{
    if (!may_clear(CPU2, CPU2_UNRESTRICTED))
        skip("guests are always unrestricted");
    struct space space;
    vm_start_mode(vm, MODE_32, &space, &l2_paging_off);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
    check_equal("IP", vm->ip, (word)l2_paging_off.at);
    row("L1 owns the bit");
    vmwrite(VMCS_CR0_MASK, CR0_PG);
    vmwrite(VMCS_CR0_SHADOW, CR0_PG);
    vm_start(vm, l2_paging_off.start, 0);
    vm_expect(vm, REASON_CR);
}

/* ---- 32-bit modes ---- */

L2_CODE32(l2_mode, "mov 0x12340000, %esi; movl $0x3232, 0x12340004; push $0x55; pop %edi", "nop");

static void check_mode(struct vm *vm, enum mode mode)
{
    struct space space;
    u32 *page = page_alloc();
    page[0] = 0x3200 + mode;
    vm_start_mode(vm, mode, &space, &l2_mode);
    space_map(&space, VIOLATION_PAGE, physical(page), PTE_PRESENT | PTE_WRITE);
    vm_use_space(vm, &space);
    vm_expect_done(vm);
    check_equal("read by L2", (u32)vm->regs.si, 0x3200 + mode);
    check_equal("written by L2", page[1], 0x3232);
    check_equal("stack", (u32)vm->regs.di, 0x55);
}

TEST("modes", mode_32, "mode-32-bit-paging", 0) { check_mode(vm, MODE_32); }
TEST("modes", mode_pae, "mode-pae-paging", 0) { check_mode(vm, MODE_PAE); }
TEST("modes", mode_compat, "mode-compatibility", 0) { check_mode(vm, MODE_COMPAT); }

/* ---- virtual-8086 mode ---- */

L2_CODE16(l2_v86, "movw $0x86, 0x10; mov %cs, %si; mov 0x10, %bx", "cpuid; cli");

TEST("modes", v86, "mode-virtual-8086", TEST_EPT)
{
    struct space space;
    vm_start_mode(vm, MODE_V86, &space, &l2_v86);
    vm_expect(vm, REASON_CPUID);
    check_equal("CS", (u16)vm->regs.si, REAL_CODE >> 4);
    check_equal("data", (u16)vm->regs.bx, 0x86);
    vm_skip(vm);
    row("CLI without IOPL 3");
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* ---- PDPTEs: with EPT they are in the VMCS, and only MOV to CR loads them from memory ---- */

static void need_pae(struct vm *vm, struct space *space, const struct code *code)
{
    if (!may_set(CPU2, CPU2_EPT))
        skip("no EPT");
    vm_start_mode(vm, MODE_PAE, space, code);
}

L2_CODE32(l2_pae, "mov 0x12340000, %esi", "mov %cr3, %eax; mov %eax, %cr3; mov 0x12340000, %edi");

/* Not loaded: all zeroes, so L2's first fetch is a page fault, whose delivery is one too. */
TEST("modes", pdpte_zero, "pae-pdptes-not-loaded", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    for (unsigned i = 0; i < 4; i++)
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, 0);
    row("page fault");
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_PF);
    check_equal("address", vm->qualification, (word)l2_pae.start);
    row("triple fault");
    vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    vm_expect(vm, REASON_TRIPLE_FAULT);
}

/* The VMCS has one set, memory another; MOV to CR3 loads those from memory. */
TEST("modes", pdpte_reload, "pae-pdptes-from-vmcs", TEST_EPT)
{
    struct space space, other;
    u32 *pages[2] = { page_alloc(), page_alloc() };
    need_pae(vm, &space, &l2_pae);
    space_create(&other, PAGING_PAE);
    pages[0][0] = 0xe0;
    pages[1][0] = 0xe1;
    space_map(&space, VIOLATION_PAGE, physical(pages[0]), PTE_PRESENT);
    space_map(&other, VIOLATION_PAGE, physical(pages[1]), PTE_PRESENT);
    vm_use_space(vm, &space);
    vmwrite(VMCS_GUEST_CR3, physical(other.root));
    vm_expect_done(vm);
    check_equal("with the PDPTEs of the VMCS", (u32)vm->regs.si, 0xe0);
    check_equal("with those from memory", (u32)vm->regs.di, 0xe1);
    check_equal("PDPTE 0 after the exit", vmread(VMCS_GUEST_PDPTE0), ((u64 *)other.root)[0]);
    check_equal("PDPTE 3 after the exit", vmread(VMCS_GUEST_PDPTE3), ((u64 *)other.root)[3]);
}

/* Changes in memory do not count until CR3 is loaded. */
TEST("modes", pdpte_memory, "pae-pdptes-changed-in-memory", TEST_EPT)
{
    struct space space;
    u32 *page = page_alloc();
    page[0] = 0xe2;
    need_pae(vm, &space, &l2_pae);
    space_map(&space, VIOLATION_PAGE, physical(page), PTE_PRESENT);
    vm_use_space(vm, &space);
    u64 saved = ((u64 *)space.root)[0];
    ((u64 *)space.root)[0] = 0;
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("read with the old PDPTEs", (u32)vm->regs.si, 0xe2);
    check_equal("exception", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_PF);
    check_equal("PDPTE 0 after the exit", vmread(VMCS_GUEST_PDPTE0), 0);
    ((u64 *)space.root)[0] = saved;
}

/* Reserved bits: the VM entry fails with qualification 2, and L2's own MOV to CR3 with #GP(0). */
enum { QUALIFICATION_PDPTE = 2 };

static const struct {
    const char *name;
    u64 bits;
} pdpte_rows[] = {
    { "bit 1", 2 }, { "bit 2", 4 }, { "bit 5", 0x20 }, { "bit 8", 0x100 }, { "bit 63", BIT64(63) },
};

TEST("modes", pdpte_reserved, "pae-pdptes-reserved-bits", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    u64 *root = space.root, good[2] = { root[0], root[3] };
    for (unsigned i = 0; i < ARRAY_LEN(pdpte_rows); i++) {
        unsigned which = i % 2 ? 3 : 0;
        row(pdpte_rows[i].name);
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * which, 0x1000 | PTE_PRESENT | pdpte_rows[i].bits);
        vm_expect(vm, REASON_ENTRY_FAILURE | REASON_BAD_GUEST);
        check_equal("qualification", vm->qualification, QUALIFICATION_PDPTE);
        vmwrite(VMCS_GUEST_PDPTE0 + 2 * which, good[which ? 1 : 0]);
    }
    row("not present: nothing is reserved");
    vmwrite(VMCS_GUEST_PDPTE3, 0x1e6);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT);
    vm_expect_done(vm);
    row("MOV to CR3");
    root[3] = 0x1000 | PTE_PRESENT | 2;
    vm_start(vm, l2_pae.start, 0);
    vm_expect(vm, REASON_EXCEPTION);
    check_equal("exception", vmread(VMCS_EXIT_EVENT),
                EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
}

/* The page of the PDPTEs is missing when L2 loads CR3: a violation without linear address. */
TEST("modes", pdpte_cr3, "pae-pdpte-page-unmapped", TEST_EPT)
{
    struct space space;
    need_pae(vm, &space, &l2_pae);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0)), PTE_PRESENT);
    vm_use_space(vm, &space);
    u64 root = physical(space.root);
    ept_map(&vm->ept, root, root, 1, 0);
    ept_invalidate(&vm->ept);
    vm_expect(vm, REASON_EPT_VIOLATION);
    check_equal("access", vm->qualification & 7, VIOLATION_READ);
    check_equal("no linear address", vm->qualification & VIOLATION_LINEAR_VALID, 0);
    check_equal("guest-physical address", vmread(VMCS_GUEST_PHYSICAL) & ~0x1full, root);
    ept_map(&vm->ept, root, root, 1, EPT_RWX | EPT_WB);
    vm_expect_done(vm);
}

/* ---- L2 in user mode ---- */

static void start_user(struct vm *vm, const struct code *code)
{
    u32 size = IS_64BIT ? AR_LONG : AR_32BIT;
    vm_start(vm, code->start, 0);
    vm_set_segment(CS, SEL_USER_CODE | 3, 0, 0xffffffff, AR_CODE | AR_DPL3 | size | AR_PAGES);
    for (enum segment s = ES; s <= DS; s++)
        if (s != CS)
            vm_set_segment(s, SEL_USER_DATA | 3, 0, 0xffffffff,
                           AR_DATA | AR_DPL3 | AR_32BIT | AR_PAGES);
}

/*
 * In user mode a privileged instruction is #GP(0) before it is an exit, with one exception: MOV DR
 * (SDM 3C, "Instructions that cause VM exits conditionally").  The last four are not privileged.
 */
L2_CODE(l2_user_hlt, "", "hlt");
L2_CODE(l2_user_cr, "", "mov %cr3, " AX);
L2_CODE(l2_user_dr, "", "mov %dr7, " AX);
L2_CODE(l2_user_rdmsr, "mov $0x10, %ecx", "rdmsr");
L2_CODE(l2_user_wrmsr, "mov $0x174, %ecx", "wrmsr");
L2_CODE(l2_user_out, "", "out %al, $0x80");
L2_CODE(l2_user_invlpg, "", "invlpg (" SP ")");
L2_CODE(l2_user_wbinvd, "", "wbinvd");
L2_CODE(l2_user_invd, "", "invd");
L2_CODE(l2_user_clts, "", "clts");
L2_CODE(l2_user_lgdt, "", "lgdt (" SP ")");
L2_CODE(l2_user_cli, "", "cli");
L2_CODE(l2_user_cpuid, "", "cpuid");
L2_CODE(l2_user_vmcall, "mov $1, %eax", "vmcall");
L2_CODE(l2_user_rdtsc, "", "rdtsc");
L2_CODE(l2_user_pause, "", "pause");

static const struct {
    const char *name;
    const struct code *code;
    u32 reason; /* REASON_EXCEPTION: #GP(0) */
} user_rows[] = {
    { "HLT", &l2_user_hlt, REASON_EXCEPTION },       { "MOV CR", &l2_user_cr, REASON_EXCEPTION },
    { "MOV DR", &l2_user_dr, REASON_DR },     { "RDMSR", &l2_user_rdmsr, REASON_EXCEPTION },
    { "WRMSR", &l2_user_wrmsr, REASON_EXCEPTION },   { "OUT", &l2_user_out, REASON_EXCEPTION },
    { "INVLPG", &l2_user_invlpg, REASON_EXCEPTION }, { "WBINVD", &l2_user_wbinvd, REASON_EXCEPTION },
    { "INVD", &l2_user_invd, REASON_EXCEPTION },     { "CLTS", &l2_user_clts, REASON_EXCEPTION },
    { "LGDT", &l2_user_lgdt, REASON_EXCEPTION },     { "CLI", &l2_user_cli, REASON_EXCEPTION },
    { "CPUID", &l2_user_cpuid, REASON_CPUID },       { "VMCALL", &l2_user_vmcall, REASON_VMCALL },
    { "RDTSC", &l2_user_rdtsc, REASON_RDTSC },       { "PAUSE", &l2_user_pause, REASON_PAUSE },
};

static void intercept_all(struct vm *vm)
{
    static const u32 wanted[] = {
        CPU_HLT_EXITING, CPU_INVLPG_EXITING, CPU_RDTSC_EXITING, CPU_MOV_DR_EXITING, CPU_IO_EXITING,
        CPU_PAUSE_EXITING, CPU_CR3_STORE_EXITING,
    };
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++)
        vm_control(vm, CPU, caps.may_be_1[CPU] & wanted[i], 0);
    if (may_set(CPU, CPU_SECONDARY))
        vm_control(vm, CPU2, caps.may_be_1[CPU2] & (CPU2_DESCRIPTOR_EXITING | CPU2_WBINVD_EXITING), 0);
}

TEST("modes", user, "user-mode-priorities", 0)
{
    intercept_all(vm);
    for (unsigned i = 0; i < ARRAY_LEN(user_rows); i++) {
        row(user_rows[i].name);
        start_user(vm, user_rows[i].code);
        vm_expect(vm, user_rows[i].reason);
        check_equal("IP", vm->ip, (word)user_rows[i].code->at);
        if (vm->reason != REASON_EXCEPTION)
            continue;
        check_equal("exception", vmread(VMCS_EXIT_EVENT),
                    EVENT_VALID | EVENT_HARDWARE | EVENT_ERROR_CODE | EXC_GP);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 0);
    }
}

/* VMX instructions: by the general rule #GP(0) comes first, by the description of each instruction
   the exit does.  Either will do, and nothing else. */
L2_CODE(l2_user_vmread, "", "vmread " AX ", " CX);
L2_CODE(l2_user_vmxoff, "", "vmxoff");

TEST("modes", user_vmx, "user-mode-vmx-instructions", 0)
{
    const struct code *codes[] = { &l2_user_vmread, &l2_user_vmxoff };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        start_user(vm, codes[i]);
        vm_run(vm);
        check_equal("IP", vm->ip, (word)codes[i]->at);
        check(vm->reason == REASON_EXCEPTION || vm->reason == REASON_VMREAD ||
                  vm->reason == REASON_VMXOFF, "an exception or an exit");
    }
}

/* From user mode into the kernel of L2 by INT n, and back; the stack comes from L2's TSS. */
L2_CODE(l2_user_int, "mov $0x1111, %ebx", "int $0x55; mov $0x2222, %ebx; cpuid");

TEST("modes", user_int, "user-mode-interrupt", 0)
{
    void *idt = l2_use_idt(vm);
    struct tss *tss = page_alloc();
    word stack = (word)page_alloc() + PAGE_SIZE;
#ifdef __x86_64__
    tss->rsp[0] = stack;
#else
    tss->esp0 = stack;
    tss->ss0 = SEL_DATA;
#endif
    vmwrite(VMCS_GUEST_TR_BASE, (word)tss);
    l2_change_gate(idt, 0x55, GATE_DPL3, 0);
    start_user(vm, &l2_user_int);
    struct l2_frame frame = vm_expect_trap(vm, 0x55);
    check_equal("pushed CS", frame.cs, SEL_USER_CODE | 3);
    check_equal("pushed IP", frame.ip, (word)l2_user_int.at + 2);
    check_equal("CS in the handler", vmread(VMCS_GUEST_CS), SEL_CODE);
    check_equal("stack in the handler", vmread(VMCS_GUEST_RSP) & ~0xfffull, stack - PAGE_SIZE);
    vm_skip(vm);
    vm_expect(vm, REASON_CPUID);
    check_equal("back in user mode", vmread(VMCS_GUEST_CS), SEL_USER_CODE | 3);
    check_equal("BX", (u32)vm->regs.bx, 0x2222);
    row("through a gate that is not for user mode");
    l2_change_gate(idt, 0x55, 0, GATE_DPL3);
    start_user(vm, &l2_user_int);
    frame = vm_expect_trap(vm, EXC_GP);
    check_equal("error code", frame.error, 0x55 * 8 + 2);
}

/* A supervisor page is not for user mode: an ordinary page fault, although EPT would allow it. */
TEST("modes", user_page, "user-mode-page-fault", 0)
{
    struct space space;
    space_create(&space, PAGING_NATIVE);
    space_map(&space, VIOLATION_PAGE, physical(access_page(0x9)), PTE_PRESENT | PTE_WRITE);
    space_map(&space, VIOLATION_PAGE + PAGE_SIZE, physical(access_page(0xa)),
              PTE_PRESENT | PTE_WRITE | PTE_USER);
    vm_use_space(vm, &space);
    for (unsigned i = 0; i < 2; i++) {
        start_access(vm, READ, VIOLATION_PAGE + i * PAGE_SIZE + sizeof(word));
        struct code code = { (void *)(word)vmread(VMCS_GUEST_RIP), NULL, NULL, NULL };
        word address = vm->regs.bx;
        start_user(vm, &code);
        vm->regs.bx = address;
        if (i == 1) {
            vm_expect_done(vm);
            check_equal("read by L2", read_value(vm), 0xa);
            continue;
        }
        vm_expect(vm, REASON_EXCEPTION);
        check_equal("exception", vmread(VMCS_EXIT_EVENT) & 0xff, EXC_PF);
        check_equal("error code", vmread(VMCS_EXIT_EVENT_ERROR), 5); /* present, user */
    }
}

/* ---- task switches exit, always ---- */

enum { TASK_CALL = 0u << 30, TASK_IRET = 1u << 30, SEL_OTHER_TSS = GDT_ENTRIES * 8 };
#define TASK_JUMP (2u << 30)
#define TASK_GATE (3u << 30)
#define DESC_TSS_AVAILABLE 0x0000890000000067ull

L2_CODE32(l2_task_jump, "", "ljmp $0x60, $0");
L2_CODE32(l2_task_call, "", "lcall $0x60, $0");
L2_CODE32(l2_task_gate, "", "int $0x30");

TEST("modes", task, "task-switch-exit", 0)
{
    struct space space;
    const struct {
        const char *name;
        const struct code *code;
        u32 source;
    } rows[] = {
        { "JMP", &l2_task_jump, TASK_JUMP },
        { "CALL", &l2_task_call, TASK_CALL },
        { "INT n through a task gate", &l2_task_gate, TASK_GATE },
    };
    u64 *gdt = page_alloc(), *idt = page_alloc();
    memcpy(gdt, this_cpu()->gdt, sizeof this_cpu()->gdt);
    gdt[SEL_OTHER_TSS / 8] = DESC_TSS_AVAILABLE | (u64)((word)vm->shared & 0xffffff) << 16;
    idt[0x30] = 0x0000850000000000ull | SEL_OTHER_TSS << 16; /* task gate, present */
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        row(rows[i].name);
        vm_start_mode(vm, MODE_32, &space, rows[i].code);
        vmwrite(VMCS_GUEST_GDTR_BASE, (word)gdt);
        vmwrite(VMCS_GUEST_GDTR_LIMIT, SEL_OTHER_TSS + 7);
        vmwrite(VMCS_GUEST_IDTR_BASE, (word)idt);
        vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x30 * 8 + 7);
        vm_expect(vm, REASON_TASK_SWITCH);
        check_equal("qualification", vm->qualification, rows[i].source | SEL_OTHER_TSS);
        check_equal("IP", vm->ip, (word)rows[i].code->at);
        check_equal("length", vmread(VMCS_EXIT_LENGTH),
                    (u64)(rows[i].code->next - rows[i].code->at));
    }
    check_equal("IDT vectoring", vmread(VMCS_IDT_VECTORING), EVENT_VALID | EVENT_SOFTWARE | 0x30);
}
